"""The pilot's figure, and its report: the template pilot.md.j2, filled in from what ``pilot``
found.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.known_truth.measures import against
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import read_json, write_text
from dil_tutorial.support.words import fixed, interval, precise

TEMPLATE = Path(__file__).with_name("pilot.md.j2")
ALT = (
    "For every setting of the pilot the chosen responses' log-ratio on new prompts and on prompts trained on, "  # noqa: E501
    "with intervals"
)


def load(path: Path) -> dict[str, Any]:
    """The results in a ``real_text_pilot.json``."""
    results = read_json(path)
    if not isinstance(results, dict) or not results.keys() >= {
        "preset",
        "possible",
        "rounding",
        "settings",
        "first step",
    }:
        raise InputError(
            f"{path}: not a results file of dil experiment real-text --pilot: run that command"
        )
    return results


def settings_figure(results: dict[str, Any]) -> Figure:
    """E[f] under pi_chosen for every setting: on validation prompts, and on some that were trained
    on.
    """
    settings = results["settings"][::-1]
    drawn, (axes,) = plotting.new_figure(width=8.4, height=1.2 + 0.34 * len(settings))
    for shift, split, color, label in (
        (0.12, "validation", plotting.COLORS[0], "new prompts"),
        (-0.12, "train", plotting.COLORS[1], "prompts trained on"),
    ):
        for place, setting in enumerate(settings):
            mean, low, high = setting[split]["chosen"]
            axes.plot([low, high], [place + shift] * 2, color=color, lw=2)
            axes.plot(
                [mean],
                [place + shift],
                "o" if shift > 0 else "s",
                color=color,
                label=label if place == 0 else None,
            )
    axes.axvline(0, color="black", lw=0.8)
    axes.axvline(
        results["possible"],
        color=plotting.COLORS[2],
        ls="--",
        label="possible: KL(pi_chosen || pi_ref)",
    )
    axes.set_yticks(range(len(settings)), [setting["name"] for setting in settings])
    axes.set_xlabel("mean of f under pi_chosen, nats")
    axes.legend(frameon=False, fontsize=9)
    return drawn


def report(results: dict[str, Any], folder: Path, name: str = "pilot.md") -> list[Path]:
    """The figure as PNG and SVG and the report as Markdown, in ``folder``."""
    paths = plotting.save(settings_figure(results), folder / "real_text_pilot")
    text = templates.load(TEMPLATE).render(results=results, alt=ALT, said=conclusions(results))
    write_text(folder / name, text.strip() + "\n")
    return [*paths, folder / name]


def conclusions(results: dict[str, Any]) -> dict[str, Any]:
    """The lists and tables that the report's sentences name."""
    settings, steps = results["settings"], results["first step"]["losses"]
    kinds = {setting["name"]: against(setting["validation"]["chosen"], 0) for setting in settings}
    above, below = (
        [name for name, kind in kinds.items() if kind == wanted] for wanted in ("above", "below")
    )
    sft, corrected = steps.values()
    reached, best = zip(
        *(
            (s["validation"]["chosen"][0], s["validation"]["best interpolation"][1][0])
            for s in settings
        ),
        strict=True,
    )
    return {
        "pairs": settings[0]["pairs"],
        "prompts": results["validation prompts"],
        "above": above,
        "below": below,
        "unclear": [name for name in kinds if name not in above + below],
        "larger": sum(
            setting["train"]["chosen"][0] > setting["validation"]["chosen"][0]
            for setting in settings
        ),
        "rows": [
            [
                setting["name"],
                str(setting["pairs"]),
                interval(setting["validation"]["slope"]),
                *(
                    precise(setting["validation"][key])
                    for key in ("chosen", "rejected", "KL", "win rate")
                ),
                fixed(setting["validation"]["longer"][0], 1, "+"),
                precise(setting["train"]["chosen"]),
                f"{setting['validation']['best interpolation'][0]:.2f}",
                precise(setting["validation"]["best interpolation"][1]),
            ]
            for setting in settings
        ],
        "steps": [
            [name, f"{step['signal']:.3g}", f"{step['noise a pair']:.3g}", pairs(step["pairs"])]
            for name, step in steps.items()
        ],
        "ends": (min(reached), max(reached)),
        "best": (min(best), max(best)),
        "share": corrected["noise a pair"] / sft["noise a pair"],
    }


def pairs(value: list[float | None]) -> str:
    """Numbers of pairs with their interval; without a signal there is none.

    >>> pairs([1234.5, 800.0, 2000.0]), pairs([None, 0.0, None])
    ('1,234 (800–2,000)', 'more than there are')
    """
    if value[0] is None:
        return "more than there are"
    low, high = value[1] or 0, value[2]
    return f"{value[0]:,.0f} ({low:,.0f}–{'' if high is None else format(high, ',.0f')})"
