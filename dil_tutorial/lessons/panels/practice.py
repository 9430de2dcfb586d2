"""The panels of lessons 08, 18 and 19: batches, reward for KL, what the public code computes."""

import ipywidgets
import torch

from dil_tutorial.lessons.widgets import Drawn, frames
from dil_tutorial.losses import colors, variants
from dil_tutorial.support import plotting
from toy import optima
from toy.frontier import curves, place
from toy.gallery import bandit20

# --- 08 · Language models -------------------------------------------------------------------------


def batch_layouts() -> ipywidgets.VBox:
    """What padding and twice-read prompts cost: six pairs in each layout, as the prompt grows.
    Needs the llm extra.
    """
    from dil_tutorial.llm.fast.batches import batch_of
    from dil_tutorial.llm.rows import Response, TokenizedPair

    rng = torch.Generator().manual_seed(0)

    def draw(prompt_tokens: int) -> Drawn:
        means = {"prompt": prompt_tokens, "chosen": 60, "rejected": 60}
        rows = []
        for _ in range(6):
            size = {
                part: max(4, int(mean * (0.5 + torch.rand(1, generator=rng).item())))
                for part, mean in means.items()
            }
            shared = list(range(size["prompt"]))
            rows.append(
                TokenizedPair(
                    *(Response(shared, [1] * size[side]) for side in ("chosen", "rejected"))
                )
            )
        counts = {
            layout: batch_of(rows, 0, layout).input_ids.numel()
            for layout in ("padded", "packed", "shared")
        }
        figure, axes = plotting.new_figure(columns=3, width=9, height=2.8)
        grey, padding, green, orange = (
            "#888888",
            "#e4e4e4",
            plotting.COLORS[2],
            plotting.COLORS[1],
        )
        longest = max(
            len(response.prompt) + len(response.tokens)
            for row in rows
            for response in row.responses
        )
        for ax, (layout, count) in zip(axes, counts.items(), strict=True):
            for i, row in enumerate(rows):
                prompt, first, second = (
                    len(part)
                    for part in (row.chosen.prompt, row.chosen.tokens, row.rejected.tokens)
                )
                widths = [
                    prompt,
                    first,
                    longest - prompt - first,
                    prompt,
                    second,
                    longest - prompt - second,
                ]
                if layout != "padded":
                    widths[2] = widths[5] = 0
                if layout == "shared":
                    widths[3] = 0
                for k, color in enumerate((grey, green, padding, grey, orange, padding)):
                    ax.barh(i, widths[k], left=sum(widths[:k]), color=color, height=0.8)
            ax.set(
                yticks=[],
                xlabel="positions of a pair",
                title=f"{layout}: {count} positions",
                xlim=(0, 2.05 * longest),
            )
        return figure, (
            f"Prompts of about {prompt_tokens} tokens: padded rows take {counts['padded']} "
            "positions, packed "
            f"{counts['packed']}, with shared prompts {counts['shared']}, "
            f"{counts['shared'] / counts['padded']:.0%}. "
            "Grey: prompt; pale: padding; green: chosen; orange: rejected."
        )

    return frames(draw, {"Prompt tokens": [15, 60, 240, 960]}, [1])


# --- 19 · Related ideas ---------------------------------------------------------------------------


def reward_for_kl() -> ipywidgets.VBox:
    """One temperature for RLHF and for DIL's objective, and best of N next to them."""
    world = bandit20()
    betas = [8.0, 4.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.2]
    exact = curves(world)

    def draw(beta: float) -> Drawn:
        figure, (axes,) = plotting.new_figure(width=7.5, height=4)
        for i, (name, points) in enumerate(exact.items()):
            x, y = zip(*points, strict=True)
            axes.plot(
                x,
                y,
                color=plotting.COLORS[i],
                lw=(1.8, 1.8, 0)[i],
                marker=(None, None, "o")[i],
                ms=4,
                label=name,
            )
        marked = place(optima.rlhf(world, beta), world), place(optima.tempered(world, beta), world)
        for i, point in enumerate(marked):
            axes.plot(*point, "D", color=plotting.COLORS[i], mec="black", ms=9)
        axes.set(
            xlim=(0, 2.2),
            xlabel=r"KL(policy $\|\,\pi_{ref}$), nats",
            ylabel="gain in reward",
            title=f"β = {beta:g}",
        )
        axes.legend(frameon=False, loc="lower right")
        (k, g), (k2, g2) = marked
        return (
            figure,
            f"At β = {beta:g} RLHF gains {g:.2f} for {k:.2f} nats, DIL with that temperature "
            f"{g2:.2f} for {k2:.2f}.",
        )

    return frames(draw, {"Temperature β": betas}, [3])


# --- 18 · The paper against its code --------------------------------------------------------------


def fed_means() -> ipywidgets.VBox:
    """What a loss makes of a chosen response's log-ratio when it is given the sum, and when it is
    given the mean per token."""
    f = torch.linspace(-6, 6, 121, dtype=torch.float64)
    zero = torch.zeros_like(f)
    losses = variants("DIL LSIF published", "DIL BCE published", "DPO")

    def draw(tokens: int) -> Drawn:
        figure, panes = plotting.new_figure(columns=2, width=8.8)
        for ax, scale, title in zip(
            panes, (1, tokens), ("given the sum f", "given the mean f/|y|"), strict=True
        ):
            named = {
                name: (f.tolist(), loss(f / scale, zero).tolist()) for name, loss in losses.items()
            }
            plotting.curves(
                ax, named, "f of the chosen response, nats", "loss", title, colors(*losses)
            )
            ax.set_ylim(-6, 6)
        gradients = [
            torch.sigmoid(torch.tensor(-2.0 / scale)).item() / scale for scale in (1, tokens)
        ]
        return (
            figure,
            f"{tokens} tokens: at f = 2 DPO's gradient is {gradients[0]:.4f} given sums, "
            f"{gradients[1]:.4f} given means.",
        )

    return frames(draw, {"Tokens in the chosen response": [1, 2, 5, 10, 50, 100]}, [2])
