"""The playground's colors and labels: its file ``colors.js`` is written from the same records as
every figure."""

import json
from pathlib import Path

from dil_tutorial.losses import CATALOG
from dil_tutorial.support.plotting import DISTRIBUTIONS

DASHES = {"-": "", "--": "8 3", ":": "1 4", "-.": "5 3"}  # of an SVG, by matplotlib's names


def rows() -> list[list[str]]:
    """[label, color, dash] of each line of the playground, in the order of ``app.js``.

    >>> rows()[0]
    ['reference', '#7F7F7F', '1 4']
    """
    ref, chosen, rlhf = (DISTRIBUTIONS[name] for name in ("ref", "chosen", "rlhf"))
    drawn = [
        ("reference", ref.color, ref.line),
        ("chosen distribution: SFT, corrected DIL", chosen.color, chosen.line),
        ("RLHF, DPO", rlhf.color, rlhf.line),
    ]
    for h in ("LSIF", "UKL", "BCE"):
        spec = CATALOG[f"DIL {h} published"]
        drawn.append((f"{h} as published", spec.color, spec.line))
    fitted = CATALOG["DIL UKL corrected"]
    drawn += [
        ("your h as published", "#B8860B", "-."),
        ("corrected UKL, fitted to the drawn pairs", fitted.color, fitted.line),
        ("UKL with weight w", "#7A5195", "--"),
    ]
    return [[label, color, DASHES[line]] for label, color, line in drawn]


def colors_js() -> str:
    """The file, whole.

    >>> colors_js().splitlines()[1][:16]
    'const COLORS = ['
    """
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows())
    head = "// Written by dil dev book from dil_tutorial.losses and support.plotting."
    return f"{head}\nconst COLORS = [\n{lines},\n];\n"


def write(folder: Path) -> None:
    """Write ``colors.js`` into the playground's folder."""
    (folder / "colors.js").write_text(colors_js(), encoding="utf-8")
