"""The picture of the layers, for README and book: drawn from the contract that ``make lint`` checks
with import-linter (``tool.importlinter`` in pyproject.toml).
"""

import ast
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, GAP = 860, 34, 12
CLONE = Path(__file__).resolve().parents[2]


def layers(root: Path = CLONE) -> list[list[str]]:
    """The modules of each layer, highest first; a layer may import what is below it.

    >>> layers(Path("no such clone"))
    []
    """
    path = root / "pyproject.toml"
    if not path.is_file():
        return []
    contracts = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [row.split(" | ") for row in rows]


def summary(module: str) -> str:
    """The first sentence of a module's docstring, or of its package's.

    >>> summary("dil_tutorial.rlhf")[:20]
    'RLHF is imitation of'
    """
    path = CLONE / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(": ")[-1].removesuffix(".")


def anchor(module: str) -> str:
    """Where the API's page tells of a module; in HTML an id has no underscore.

    >>> anchor("dil_tutorial.loss_spec")
    'module-loss-spec'
    """
    return f"module-{module.rsplit('.', 1)[-1].replace('_', '-')}"


def svg(rows: list[list[str]], links: set[str]) -> str:
    """The layers as SVG; a module in ``links`` links to its part of the API.

    >>> svg([["toy"], ["dil_tutorial.errors"]], {"toy"}).count("<rect")
    2
    """
    height = len(rows) * (HEIGHT + GAP) + GAP
    boxes = []
    for place, modules in enumerate(rows):
        y = GAP + place * (HEIGHT + GAP)
        width = (WIDTH - GAP * (len(modules) + 1)) / len(modules)
        for number, module in enumerate(modules):
            x = GAP + number * (width + GAP)
            box = (
                f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="6" '
                'fill="white" stroke="#0072B2"/>'
                f'<text x="{x + width / 2:.0f}" y="{y + 22}" text-anchor="middle" '
                f'font-family="sans-serif" font-size="14" fill="#1c2024">{escape(module)}</text>'
            )
            linked = module in links
            boxes.append(f'<a href="../api.html#{anchor(module)}">{box}</a>' if linked else box)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Layers: each imports only what is below it">' + "".join(boxes) + "</svg>\n"
    )
