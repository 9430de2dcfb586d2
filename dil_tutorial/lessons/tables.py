"""Small tables of numbers, as the notebooks' cells show them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from torch import Tensor

Numbers = Sequence[Any] | Tensor


def numbers(
    rows: Mapping[str, Numbers | float | int | str], columns: Sequence[str] = (), digits: int = 3
) -> Any:
    """A table with a row for each name; ``columns`` are the heads of its numbers, shown with
    ``digits`` digits, no minus zero.

    What is no float (a count, a word) is shown as it is; of a tensor all numbers in order.

    >>> table = numbers({"chosen responses": [0.25, 0.75], "pairs": 3}, ["rock", "paper"], digits=1)
    >>> table.data.count("<tr>"), "<td>0.8</td>" in table.data, "<td>3</td>" in table.data
    (3, True, True)
    """
    from IPython.display import HTML

    def cell(value: Any) -> str:
        return escape(f"{value:z.{digits}f}" if isinstance(value, float) else str(value))

    def line(tag: str, name: str, values: Sequence[Any]) -> str:
        return (
            f"<tr><th>{escape(name)}</th>"
            + "".join(f"<{tag}>{cell(value)}</{tag}>" for value in values)
            + "</tr>"
        )

    body = []
    for name, values in rows.items():
        cells = values.flatten().tolist() if isinstance(values, Tensor) else values
        body.append(line("td", name, cells if isinstance(cells, list | tuple) else [cells]))
    head = f"<thead>{line('th', '', columns)}</thead>" if columns else ""
    return HTML(f'<table class="numbers">{head}<tbody>{"".join(body)}</tbody></table>')
