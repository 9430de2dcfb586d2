"""What the tests of the assignments notice: the bank of wrong and right answers, graded.

python benchmarks/wrong_answers.py a1
python benchmarks/wrong_answers.py --mechanical --json benchmarks/wrong_answers.json
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dil_tutorial.cli.console import console, progress, say, table, wrote
from dil_tutorial.course import wrong_answers
from dil_tutorial.course.assignments import convert, script_of, scripts
from dil_tutorial.support.extras import need


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Assignments, as a1; all if none.")
    ] = None,
    json_file: Annotated[Path, typer.Option("--json", help="Where the table goes.")] = Path(
        "outputs/wrong_answers.json"
    ),
    mechanical: Annotated[
        bool, typer.Option(help="With small changes to the solutions, made by cosmic-ray.")
    ] = False,
) -> None:
    """Grade the bank of answers: wrong ones must lose points on their own question and on no other,
    right ones none.
    """
    need("course", "this script")
    if mechanical:
        need("mutation", "this script with --mechanical")
    chosen, rows = names or list(scripts()), []
    right = {name: wrong_answers.solutions_of(convert(script_of(name))) for name in chosen}
    total = sum(len(list(wrong_answers.hand_ins(name, right[name], mechanical))) for name in chosen)
    with tempfile.TemporaryDirectory() as folder, progress(total, "grading") as done:
        for name in chosen:
            for number, notebook in enumerate(wrong_answers.bank(Path(folder), name, mechanical)):
                rows += notebook
                done(f"{name}: notebook {number}")
    summary_rows = wrong_answers.caught(rows)
    bank_table = table(
        "the bank", *(f"{key}>" if number else key for number, key in enumerate(summary_rows[0]))
    )
    for row in summary_rows:
        bank_table.add_row(*map(str, row.values()))
    console.print(bank_table)
    for row in rows:
        if not row["clean"]:
            what = f"{row['kind']} answer {row['answer']!r} to {row['question']}"
            say(f"{row['assignment']}, {what}: points lost on {row['lost on']}")
    wrong_answers.save(rows, json_file)
    wrote(json_file)
    raise typer.Exit(0 if all(row["clean"] for row in rows) else 1)


if __name__ == "__main__":
    typer.run(main)
