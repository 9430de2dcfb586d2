"""The report of the study of finite data and training dynamics: figures, and conclusions in words (THEORY §8).

``dil study dynamics`` runs the study and writes ``dynamics.json``; the sentences here are built from its numbers, so that a run
with other settings says something else.
"""

from collections.abc import Sequence
from pathlib import Path

from dil_tutorial.experiments.finite_data.figures import figures
from dil_tutorial.experiments.finite_data.run import Results, Row
from dil_tutorial.support import plotting
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import listed, signed_interval, table


def verdict(row: Row) -> str:
    """What the interval of E_chosen f says: held (above 0), fell (below 0), or neither."""
    _, low, high = row["chosen"]
    return "held" if low > 0 else "fell" if high < 0 else "unclear"


def pairs_needed(rows: Sequence[Row], target: float) -> str:
    """The least number of pairs studied from which on KL to pi_chosen stays at or below ``target``; 'more than N' if none."""
    enough: int | None = None
    for row in reversed(rows):
        if row["KL to pi_chosen"][0] > target:
            break
        enough = row["pairs"]
    return f"{enough:,}" if enough else f"more than {rows[-1]['pairs']:,}"


def conclusions(results: Results, seeds: int) -> dict[str, list[str]]:
    """Blocks of Markdown under each figure's name; every number and every list of losses is computed from the results."""
    return {
        "pairs": pairs_text(results["pairs"], seeds),
        "targets": [],
        "steps": path_text(results["steps"], "summed log-probabilities"),
        "mean": path_text(results["mean"], "mean log-probabilities per token"),
        "learning rate": rate_text(results["learning rate"]),
        "generator": generator_text(results["generator"]),
        "noise": noise_text(results["noise"]),
    }


def pairs_text(cells: dict[str, list[Row]], seeds: int) -> list[str]:
    """Where the winners' likelihood holds at convergence, and how many pairs a given quality takes."""
    sizes = [row["pairs"] for row in next(iter(cells.values()))]
    always = {v: [n for n, rows in cells.items() if all(verdict(r) == v for r in rows)] for v in ("held", "fell")}
    last = {v: [n for n, rows in cells.items() if verdict(rows[-1]) == v] for v in ("held", "fell", "unclear")}

    def from_on(rows: list[Row]) -> str:
        held: int | None = None
        for row in reversed(rows):
            if verdict(row) != "held":
                break
            held = row["pairs"]
        return f"{held:,}" if held else "never"

    ends = (0, len(sizes) - 1)
    return [
        f"**Where does “the chosen likelihood is preserved” hold?** Trained to convergence (2,000 steps, {seeds} data sets), the mean log-ratio of "
        f"winners stays above zero at every number of pairs for {listed(always['held'])}, and below zero at every number for "
        f"{listed(always['fell'])}. At {sizes[-1]:,} pairs it is above zero for {listed(last['held'])}; below for "
        f"{listed(last['fell'])}; within its interval of zero for {listed(last['unclear'])}.",
        table(
            ["loss", *(f"$E_{{\\pi_\\text{{chosen}}}} f$ at {sizes[i]:,} pairs" for i in ends), "held from", "pairs for KL ≤ 0.02",
             f"KL at {sizes[-1]:,}"],
            [[n, *(signed_interval(rows[i]["chosen"]) for i in ends), from_on(rows), pairs_needed(rows, 0.02),
              f"{rows[-1]['KL to pi_chosen'][0]:.4f}"] for n, rows in cells.items()],
        ),
        "KL is KL(policy ‖ π_chosen), intervals are 95% bootstrap over data sets. A loss whose optimum is not π_chosen never gets there; that is "
        "another target, not inefficiency.",
    ]  # fmt: skip


def path_text(cells: dict[str, list[Row]], fed: str) -> list[str]:
    """Where the losses part, when the winners' log-ratio peaks and falls, and what early stopping would give."""
    others = [rows for n, rows in cells.items() if n != "SFT"]
    together = [
        row["step"] for i, row in enumerate(others[0])
        if all(abs(rows[j]["chosen"][0] - others[0][j]["chosen"][0]) < 0.01 for rows in others for j in range(i + 1))
    ]  # fmt: skip
    rows_of = []
    fallen: list[str] = []
    for name, rows in cells.items():
        peak = max(rows, key=lambda row: row["chosen"][0])
        best = min(rows, key=lambda row: row["KL to pi_chosen"][0])
        fell = next((row["step"] for row in rows if row["step"] > peak["step"] and verdict(row) == "fell"), None)
        fallen += [name] if fell else []
        rows_of.append(
            [name, f"{peak['chosen'][0]:+.3f} at {peak['step']}", f"{fell:,}" if fell else "never", signed_interval(rows[-1]["chosen"]),
             f"{best['KL to pi_chosen'][0]:.3f} at {best['step']}", f"{rows[-1]['KL to pi_chosen'][0]:.3f}"]
        )  # fmt: skip
    steps = others[0][-1]["step"]
    return [
        f"**Along the path, fed {fed}.** Up to step {max(together)} all losses but SFT agree within 0.01 nats on the winners' log-ratio: the common "
        f"first direction (claims `8.first-step`, `8.rises-first`). Within {steps:,} steps it falls below zero, interval and all, for "
        f"{listed(fallen)}. The step of least KL to π_chosen is where early stopping would have ended.",
        table(["loss", "peak of $E_{\\pi_\\text{chosen}} f$, step", "below zero from step", f"at step {steps:,}",
               "least KL to π_chosen, step", "KL at the end"], rows_of),
    ]  # fmt: skip


def rate_text(cells: dict[str, list[Row]]) -> list[str]:
    """Which learning rates can tell the losses apart."""
    rates = [row["learning_rate"] for row in next(iter(cells.values()))]
    common = [rate for i, rate in enumerate(rates) if all(verdict(rows[i]) == "held" for rows in cells.values())]
    broken = {n: [row["learning_rate"] for row in rows if verdict(row) == "fell"] for n, rows in cells.items()}
    return [
        "**Small steps flatter every loss.** With 300 steps on 300 pairs the winners' log-ratio is above zero for *every* loss "
        + (f"at learning rates up to {max(common):.2g}" if common else "at none of the learning rates")
        + ". It is below zero for "
        + listed([f"{n} from {min(b):.2g} on" for n, b in broken.items() if b])
        + f"; at no rate up to {max(rates):.2g} for {listed([n for n, b in broken.items() if not b])}. A plot made with tiny learning rates and few "
        "steps cannot tell a loss that keeps the winners' likelihood from one that does not."
    ]


def generator_text(cells: dict[str, list[Row]]) -> list[str]:
    """Which h is best in each condition, and whether the intervals tell it from the last."""
    rows_of, decided = [], []
    for i, condition in enumerate(next(iter(cells.values()))):
        ranked = sorted(cells, key=lambda name, i=i: cells[name][i]["KL to pi_chosen"][0])  # type: ignore[misc]
        first, last = (cells[name][i]["KL to pi_chosen"] for name in (ranked[0], ranked[-1]))
        apart = first[2] < last[1]
        short = [name.removeprefix("DIL ").removesuffix(" repaired") for name in (ranked[0], ranked[-1])]
        where = f"s.d. {condition['scale']:g} and {condition['pairs']:,} pairs"
        decided += [f"{where} ({short[0]} before {short[1]})"] if apart else []
        rows_of.append([where, f"{short[0]}, {first[0]:.4f}", f"{short[1]}, {last[0]:.4f}", "yes" if apart else "no"])
    return [
        "**Which h when?** All repaired generators share their optimum (claim `4.mixture`). With finite data the KL to π_chosen tells the best from the "
        f"last, intervals apart, at {listed(decided)}"
        + ("; elsewhere it does not matter." if decided else ": it does not matter."),
        table(["rewards", "least KL", "largest KL", "intervals apart"], rows_of),
    ]


def noise_text(cells: dict[str, list[Row]]) -> list[str]:
    """KL to the clean target and reward as labels are flipped."""
    shares = [row["flips"] for row in next(iter(cells.values()))]
    best = [min(cells, key=lambda n, i=i: cells[n][i]["KL to pi_chosen"][0]) for i in range(len(shares))]  # type: ignore[misc]
    return [
        "**Label noise.** Flips shrink the advantage (claim `8.noise`), so imitation gets milder. Nearest to the *clean* π_chosen: "
        + listed([f"{name} at {share:.0%}" for name, share in zip(best, shares, strict=True)])
        + ". Noise blunts a loss that aims beyond π_chosen towards it, which is not robustness but two errors that cancel.",
        table(["loss", *(f"KL at {share:.0%}" for share in shares), *(f"reward at {shares[i]:.0%}" for i in (0, -1))],
              [[n, *(f"{row['KL to pi_chosen'][0]:.3f}" for row in rows), *(f"{rows[i]['reward'][0]:+.2f}" for i in (0, -1))]
               for n, rows in cells.items()]),
    ]  # fmt: skip


def report(results: Results, seeds: int, folder: Path) -> list[Path]:
    """Figures as PNG and SVG and the conclusions as Markdown, in ``folder``."""
    paths, words = [], ["# Finite data and training dynamics", ""]
    text = conclusions(results, seeds)
    for name, (figure, alt) in figures(results).items():
        stem = "dynamics_" + name.replace(" ", "_")
        paths += plotting.save(figure, folder / stem)
        words += [f"![{alt}]({stem}.png)", "", *[line for paragraph in text[name] for line in (paragraph, "")]]
    write_text(folder / "conclusions.md", "\n".join(words))
    return [*paths, folder / "conclusions.md"]
