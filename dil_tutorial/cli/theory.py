"""``dil verify`` and ``dil optima``: the ledger, and every loss in a world of your own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dil_tutorial.cli.console import JsonOption, console, progress, say, table, wrote
from dil_tutorial.errors import InputError

if TYPE_CHECKING:
    from dil_tutorial.claims import Result


def verify(
    claims: Annotated[
        list[str] | None,
        typer.Argument(help="Sections or ids: argument, 4, 4.mixture, paper-4.1; all if none."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Check every claim on this many random worlds.")] = 5,
    json: JsonOption = None,
) -> None:
    """Check the ledger: run every claim and compare its verdict with the recorded one."""
    from dil_tutorial import claims as ledger

    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: give at least 1")
    selected, results = ledger.select(*claims or []), []
    with progress(len(selected), "checking") as done:
        for result in ledger.run(selected, range(seeds)):
            results.append(result)
            done(result.claim.id)
    console.print(ledger_table(results, explain=len(results) <= 6))
    if json:
        ledger.save(results, seeds, json)
        wrote(json)
    console.print(extremes(results))
    console.print(summary(results, seeds))
    if not all(result.as_recorded for result in results):
        raise typer.Exit(1)


def extremes(results: list[Result], count: int = 3) -> str:
    """The claims that took longest, and those whose residual is the largest share of their
    tolerance.
    """
    slow = sorted(results, key=lambda r: -r.seconds)[:count]
    worst = sorted(results, key=lambda r: -r.residual / r.claim.tolerance)[:count]
    slowest = ", ".join(f"{r.claim.id} {r.seconds:.2f} s" for r in slow)
    shares = ", ".join(f"{r.claim.id} {r.residual:.0e} of {r.claim.tolerance:.0e}" for r in worst)
    return f"slowest: {slowest}; all {sum(r.seconds for r in results):.1f} s\nworst (residual of tolerance): {shares}"  # noqa: E501


def ledger_table(results: list[Result], explain: bool = False) -> Table:
    """A claim's statement, its assumption or correction, its verdict with the worst residual and
    what is missed without; with ``explain`` why.
    """
    from dil_tutorial.claims import ASSUMES, BELIEF, FAILS, HOLDS
    from dil_tutorial.support.symbols import plain

    claims_table = Table(
        title="✓ holds, ◐ holds under an assumption, ✗ false as it is stated",
        title_justify="left",
        show_lines=True,
    )
    claims_table.add_column("claim", no_wrap=True)
    claims_table.add_column("statement and verdict", ratio=1)
    colors = {HOLDS: "green", ASSUMES: "yellow", FAILS: "magenta", BELIEF: "magenta"}
    for result in results:
        claim = result.claim
        mark = f"[{colors[claim.verdict]}]{result.mark}[/]" if result.as_recorded else "[red]![/]"
        word = "correction" if claim.fails else "if"
        note = f"\n[dim]{word}: {escape(plain(claim.note))}[/]" if claim.note else ""
        note += f"\n\n{escape(claim.explanation)}\n" if explain else ""
        verdict = (
            result.verdict
            if result.as_recorded
            else f"{result.verdict} (recorded: {claim.verdict})"
        )
        found = f"residual {result.residual:.0e}"
        if result.size is not None and claim.fails:
            found = f"off by at least {result.size:.2g}; corrected, {found}"
        elif result.size is not None:
            found += f"; without the assumption off by at least {result.size:.2g}"
        claims_table.add_row(
            f"{mark} {claim.id}",
            f"{escape(plain(claim.statement))}{note}\n"
            f"[{colors.get(result.verdict, 'bold red')}]{verdict}[/] [dim]· {found}[/]",
        )
    return claims_table


def one(words: str) -> str:
    """Singular of a kind of claims.

    >>> one("properties of single losses"), one("further claims")
    ('property of single losses', 'further claim')
    """
    return words.replace("properties", "property").replace("claims", "claim")


def summary(results: list[Result], seeds: int) -> str:
    """One line: how many claims came out how."""
    from dil_tutorial.claims import KINDS

    counts = Counter(result.verdict for result in results)
    wrong = [result.claim.id for result in results if not result.as_recorded]
    tail = "[green]All verdicts as recorded.[/]"
    if wrong:
        tail = f"[bold red]Not as recorded: {', '.join(wrong)}[/]"
        if seeds < 5:
            tail += "; a claim that fails in some worlds needs a few to show it: --seeds 5"
    kinds = Counter(result.claim.kind for result in results)
    parts = ", ".join(
        f"{kinds[kind]} {words if kinds[kind] != 1 else one(words)}"
        for kind, words in KINDS.items()
        if kinds[kind]
    )
    return (
        f"{parts}, on {seeds} worlds each: "
        + ", ".join(f"{n} {v}" for v, n in counts.items())
        + f". {tail}"
    )


def optima(
    world: Annotated[
        Path,
        typer.Argument(help='JSON: {"ref": [...], "reward": [...]}, or "preference" for "reward".'),
    ],
    json: JsonOption = None,
) -> None:
    """Where does every loss end in YOUR world?  Exact policies for a small world of your own."""
    if not world.is_file():
        raise InputError(
            f'{world}: no such file: give JSON such as {{"ref": [0.5, 0.5], "reward": [0, 1]}}'
        )
    from dil_tutorial.experiments import own_world

    with progress(own_world.STEPS, "solving") as done:
        policies, missing = own_world.solve(own_world.read_world(world), done)
    away, (prompts, responses) = own_world.away(policies), policies["reference"].shape
    columns = min(responses, 8)  # as many as a terminal holds; the JSON file has all
    for x in range(prompts):
        policies_table = table(
            f"prompt {x}", "policy", *(f"y{y}>" for y in range(columns)), "KL to\npi_chosen>"
        )
        for name, policy in policies.items():
            policies_table.add_row(
                name, *(f"{policy[x, y]:.4f}" for y in range(columns)), f"{away[name][x]:.4f}"
            )
        console.print(policies_table)
        if columns < responses:
            say(f"{columns} of {responses} responses shown; --json FILE writes all")
    if missing:
        say(f"no finite optimum where a label is certain: {', '.join(missing)}")
    if json:
        own_world.save(policies, json)
        wrote(json)
