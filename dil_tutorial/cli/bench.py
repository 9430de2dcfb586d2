"""``dil bench``: how the exact world scales, our training step against TRL's, and what low
precision does to f.
"""

from pathlib import Path
from typing import Annotated

import typer

from dil_tutorial.cli.console import JsonPath, console, progress, resumable, say, table, wrote
from dil_tutorial.cli.models import prepare_for_models
from dil_tutorial.support.extras import need

app = typer.Typer(
    no_args_is_help=True,
    help="Benchmarks: how the exact world scales, and our training step against TRL's.",
)


@app.command()
def toy(
    json: JsonPath = Path("outputs/bench/toy.json"),
    runs: Annotated[int, typer.Option(min=2, help="Training runs in the batched call.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Steps a run.")] = 2000,
    loop_runs: Annotated[
        int | None, typer.Option(min=1, help="Time only so many runs of the loop, and scale.")
    ] = None,
) -> None:
    """How the exact world scales: growth with the number of responses, and batched runs against a
    Python loop.
    """
    from dil_tutorial.bench import toy as bench

    looped = min(loop_runs or runs, runs)
    with progress(len(bench.SIZES) + len(bench.LOSSES) * (1 + looped), "measuring") as done:
        growth = bench.growth(done)
        batching = bench.batching(runs, steps, looped, done)
    columns = (
        "responses>",
        "chosen and rejected distribution, s>",
        "five optima, s>",
        "peak memory, MiB>",
    )
    results_table = table("Exact answers without an n x n table", *columns)
    for row in growth:
        results_table.add_row(
            f"{row['responses']:,}",
            f"{row['distributions_s']:.2f}",
            f"{row['optima_s']:.2f}",
            f"{row['peak_mib']:.0f}",
        )
    console.print(results_table)
    title = f"{runs} runs of {steps:,} steps, 20 actions"
    results_table = table(
        title,
        "loss",
        "batched, s>",
        f"loop over {looped}, s>",
        "times faster>",
        "largest difference>",
    )
    for one in batching:
        seconds = (f"{one['batched_s']:.2f}", f"{one['loop_s']:.1f}")
        results_table.add_row(
            one["loss"], *seconds, f"{one['ratio']:.0f}", f"{one['largest_difference']:.0e}"
        )
    console.print(results_table)
    wrote(*bench.save(growth, batching, json))


@app.command()
def llm(
    json: JsonPath = Path("outputs/bench/llm.json"),
    model: Annotated[
        str, typer.Option(help="A model, a folder, a hub id, or random-8b (on a GPU).")
    ] = "smollm2-135m-instruct",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each cell, interleaved.")] = 3,
    only: Annotated[
        str | None, typer.Option(help='Only cells whose name begins so, such as "mixed, bf16".')
    ] = None,
) -> None:
    """Our training step against TRL's DPOTrainer: tokens a second and peak memory.  45 minutes on
    two cores.
    """
    need("llm", "dil bench llm")
    need("bench", "dil bench llm")
    import tempfile

    from dil_tutorial.bench import llm as bench

    bench.check(model)
    with tempfile.TemporaryDirectory() as folder:
        runs = bench.plan(model, Path(folder), only or "")
        with progress(rounds * len(runs), "measuring") as done:
            rows = bench.interleaved(runs, rounds, done)
    cells, fastest = bench.summary(rows), bench.fastest(rows)
    columns = (
        "workload, precision",
        "tokens/s>",
        "TRL's>",
        "times faster (rounds)>",
        "GiB>",
        "TRL's>",
        "ratio>",
    )
    results_table = table(f"Ours against TRL, {model}, medians of {rounds}", *columns)
    for cell in cells:
        results_table.add_row(*bench.as_text(cell))
    console.print(results_table)
    for cell in cells:
        for side, reason in cell.get("failed", {}).items():
            say(f"{cell['cell']}, {side}: {reason}")
        if "utilization" in cell:
            shares = ", ".join(f"{side} {share:.0%}" for side, share in cell["utilization"].items())
            say(f"{cell['cell']}: model FLOP utilization {shares}")
    for best in fastest:
        say(
            f"{best['workload']}: {best['times_faster']:.2f} times TRL's fastest ({best['ours']} "
            f"against {best['trl']})"
        )
    wrote(*bench.save(rows, json))


@app.command()
def noise(
    json: JsonPath = Path("outputs/bench/noise.json"),
    model: Annotated[
        str, typer.Option(help="A fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
) -> None:
    """How far from zero f is before the first step, if the reference is scored in other batches
    than the policy.
    """
    prepare_for_models()
    from dil_tutorial.bench import noise as bench
    from dil_tutorial.llm.models import resolve

    resolve(model)
    with progress(len(bench.PRECISIONS), "measuring") as done:
        rows = bench.noise(model, done)
    columns = ("precision", "reference scored in", "rms>", "largest>", "in e^{2f}>")
    results_table = table(f"|f| before the first step, {model}, nats", *columns)
    for row in rows:
        numbers = (f"{row['rms']:.2g}", f"{row['largest']:.2g}", f"x {row['largest_factor']:.4g}")
        results_table.add_row(row["precision"], row["reference scored in"], *numbers)
    console.print(results_table)
    bench.save(rows, model, json)
    wrote(json)


@app.command()
def tokens(
    json: JsonPath = Path("outputs/bench/tokens.json"),
    model: Annotated[
        str, typer.Option(help="A fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
    pairs: Annotated[int, typer.Option(min=2, help="Pairs to tokenize.")] = 5000,
) -> None:
    """What the tokens of preference pairs take in seconds and bytes, ours and TRL's."""
    need("bench", "dil bench tokens")
    prepare_for_models()
    from dil_tutorial.bench import tokens as bench
    from dil_tutorial.llm.models import resolve

    resolve(model)
    with progress(4, "measuring") as done:
        rows = bench.measure(model, pairs, done)
    results_table = table(
        f"{rows[0]['tokens']:.0f} tokens a pair, {model}",
        "",
        "processes>",
        "seconds a thousand pairs>",
        "bytes a pair>",
    )
    for row in rows:
        results_table.add_row(
            row["who"], str(row["processes"]), f"{row['seconds']:.2f}", f"{row['bytes']:,.0f}"
        )
    console.print(results_table)
    bench.save(rows, model, pairs, json)
    wrote(json)


@app.command()
def step(
    json: JsonPath = Path("outputs/bench/step.json"),
    model: Annotated[
        str, typer.Option(help="A fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Where the seconds of a training step on the CPU go, against what this machine could do at
    best.
    """
    prepare_for_models()
    from dil_tutorial.bench import step as bench
    from dil_tutorial.llm.models import resolve

    resolve(model)
    with progress(2 * len(bench.PRECISIONS), "measuring") as done:
        rows = [bench.measure(model, precision, done) for precision in bench.PRECISIONS]
    for row in rows:
        title = f"{model}, {row['precision']}: a step of {row['tokens']} tokens"
        results_table = table(title, "", "seconds>", "at best>")
        for name, part in row["parts"].items():
            results_table.add_row(name, f"{part['seconds']:.2f}", f"{part['at best']:.2f}")
        results_table.add_row(
            "the step", f"{row['seconds']:.2f}", f"{row['at best']:.2f}, {row['share']:.0%}"
        )
        console.print(results_table)
    wrote(*bench.save(rows, model, json))


@app.command()
def plan(
    json: JsonPath = Path("outputs/bench/plan.json"),
    model: Annotated[
        str, typer.Option(help="A fetched model or a folder.")
    ] = "smollm2-135m-instruct",
) -> None:
    """What `dil plan` says of memory and FLOPs, against what training takes on this machine's
    CPU.
    """
    need("llm", "dil bench plan")
    prepare_for_models()
    from dil_tutorial.bench import plan as bench
    from dil_tutorial.llm.models import resolve

    resolve(model)
    with progress(len(bench.CASES), "measuring") as done:
        rows = bench.compared(model, done)
    results_table = table(
        f"{model}: planned and measured",
        "case",
        "planned, GiB>",
        "measured>",
        "ratio>",
        "FLOPs, ratio>",
    )
    for row in rows:
        planned = sum(row["planned"].values())
        sizes = (
            f"{planned / 2**30:.2f}",
            f"{row['measured'] / 2**30:.2f}",
            f"{planned / row['measured']:.3f}",
        )
        results_table.add_row(
            row["case"], *sizes, f"{row['planned flops'] / row['measured flops']:.4f}"
        )
    console.print(results_table)
    bench.save(rows, model, json)
    wrote(json)


@app.command()
def sampling(
    json: JsonPath = Path("outputs/bench/sampling.json"),
    model: Annotated[
        str, typer.Option(help="A fetched model or a folder.")
    ] = "smollm2-135m-instruct",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts, 16 responses to each.")] = 16,
) -> None:
    """Tokens a second of drawing responses, ours, transformers' and, if it is installed,
    CTranslate2's.
    """
    prepare_for_models()
    from dil_tutorial.bench import sampling as bench
    from dil_tutorial.llm.models import resolve

    resolve(model)
    with progress(3, "measuring") as done:
        rows = bench.measure(model, prompts, done)
    results_table = table(
        f"{model}, {16 * rows[0]['prompts']} responses of at most 32 tokens at a time",
        "",
        "tokens/s>",
    )
    for row in rows:
        results_table.add_row(row["way"], f"{row['tokens_per_s']:.0f}")
    console.print(results_table)
    bench.save(rows, model, json)
    wrote(json)


def gpu(
    out: Annotated[Path, typer.Option(help="Folder for the pieces, the JSON and the page.")] = Path(
        "outputs/gpu"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="A tiny model, on the CPU too: does everything run?")
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Stop after so many; the same command continues.")
    ] = 9.0,
) -> None:
    """What a GPU makes of our training step on the shape of an 8B model, with TRL next to it if it
    is installed.  9 minutes.
    """
    from dil_tutorial.bench import gpu as bench

    bench.check(dry_run)
    with resumable(out), progress(len(bench.pieces(out, dry_run)), "measuring") as done:
        rows = bench.all_pieces(out, dry_run, done, minutes)
    results_table = table(
        "Tokens a second",
        "model and lengths",
        "who",
        "tokens/s>",
        "plain>",
        "counted>",
        "GiB>",
        "times faster>",
    )
    for cell in bench.summary(rows, dry_run):
        for side, row in cell["sides"].items():
            shares = (f"{row[name]:.0%}" if name in row else "-" for name in ("plain", "counted"))
            faster = f"{cell['times_faster']:.2f}" if side == cell.get("fastest") else ""
            results_table.add_row(
                cell["name"],
                side,
                f"{row['tokens_per_s']:,.0f}",
                *shares,
                f"{row['peak_gib']:.1f}",
                faster,
            )
    console.print(results_table)
    for row in rows:
        if "failed" in row:
            say(f"{row['piece']}: {row['failed']}")
    wrote(*bench.save(rows, out / "gpu.json", dry_run))
    if not next(row for row in rows if row["piece"] == "checks").get("passed"):
        say("the checks did not pass: see the page")
        raise typer.Exit(1)
