"""``dil study``, ``tour``, ``simulate`` and ``experiment``: finite data, the first minute, models
whose truth is known.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dil_tutorial.cli import theory
from dil_tutorial.cli.console import console, progress, resumable, say, table, wrote
from dil_tutorial.cli.models import prepare_for_models
from dil_tutorial.errors import InputError, unknown_name

app = typer.Typer(no_args_is_help=True, help="Experiments on language models.")


def study(
    name: Annotated[str, typer.Argument(help="Which study: dynamics, overoptimization, ...")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for numbers and figures; outputs/NAME if not given.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Data sets a condition (20), or draws of each proxy (400).")
    ] = None,
) -> None:
    """Finite data and training dynamics, or what a proxy does: numbers, figures, conclusions.
    Resumes where it stopped.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    run = STUDIES[name]
    out = out or Path("outputs") / name
    run(out) if seeds is None else run(out, seeds)


def study_overoptimization(out: Path, draws: int = 400) -> None:
    """Every way to optimize every proxy."""
    from dil_tutorial.experiments.overoptimization import report, run

    cells: report.Cells = {}
    with resumable(out), progress(len(run.worlds()) * len(run.PROXIES), "solving") as done:
        for world, proxy, methods in run.study(out, draws):
            cells.setdefault(world, {})[proxy] = methods
            done(f"{world}: {proxy}")
    wrote(run.save(cells, draws, out), *report.report(cells, draws, out))


def study_dynamics(out: Path, seeds: int = 20) -> None:
    """Losses on finitely many pairs."""
    from dil_tutorial.experiments.finite_data import report, run

    if seeds < 2:
        raise InputError(f"--seeds is {seeds}: give at least 2, an interval needs them")
    results: run.Results = {}
    with resumable(out), progress(len(run.cells(seeds)), "training") as done:
        for experiment, loss, rows in run.study(out, seeds):
            results.setdefault(experiment, {})[loss] = rows
            done(f"{experiment}: {loss}")
    wrote(run.save(results, seeds, out), *report.report(results, seeds, out))


SEEN = """\
  A preference data set holds two distributions that average to the reference: chosen responses
  and rejected responses.  SFT, NCA and DIL [bold]with the mixture denominator[/] end exactly at
  the chosen distribution, pi_chosen.  DIL [bold]as published[/] (rejected responses in place of
  reference samples) does not: it goes towards RLHF, LSIF most; and LSIF and
  DPO let the likelihood of chosen responses fall.

  [bold]Open next[/]
    dil lab           notebook 00 in JupyterLab
    dil verify        all claims, with their statements
    dil fetch-model   a real 135M-parameter model; then dil train --help

  (The command lives in .venv/bin: source .venv/bin/activate, once a terminal.)"""


STUDIES: dict[str, Callable[..., None]] = {  # each takes a folder and perhaps a number of seeds
    "dynamics": study_dynamics,
    "overoptimization": study_overoptimization,
}


def tour(
    out: Annotated[Path, typer.Option(help="Folder for the figures and numbers.")] = Path(
        "outputs/tour"
    ),
    seeds: Annotated[int, typer.Option(help="Random worlds a claim in the ledger.")] = 5,
) -> None:
    """The whole idea in a minute: the ledger, every loss against its closed form, four figures."""
    from dil_tutorial.experiments import tour as stops

    with progress(stops.steps(), "checking") as done:
        results = stops.run(out, seeds, done)
    console.rule("[bold]1  The ledger: every claim, run")
    console.print(theory.ledger_table([r for r in results.ledger if r.verdict != "holds"]))
    console.print(theory.summary(results.ledger, seeds))

    console.rule("[bold]2  Every loss, fitted on a bandit, against its closed form")
    fits_table = table(
        None,
        *(
            name if name in ("loss", "has its optimum at") else f"{name}>"
            for name in results.fits[0]
        ),
    )
    for row in results.fits:
        numbers = [
            f"{value:.0e}" if name == "error" else f"{abs(value):.3f}"
            for name, value in list(row.items())[2:]
        ]
        fits_table.add_row(row["loss"], row["has its optimum at"], *numbers)
    console.print(fits_table)

    console.rule("[bold]3  Figures")
    for path in results.files:
        say(f"  {path}")

    console.rule("[bold]What you have seen")
    console.print(SEEN, soft_wrap=True)
    if not results.good:
        raise typer.Exit(1)


def simulate(
    out: Annotated[Path, typer.Option(help="Folder for pairs, truth and data card.")] = Path(
        "outputs/simulated"
    ),
    model: Annotated[
        str, typer.Option(help="pi_ref: a fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
    prompts: Annotated[
        Path | None,
        typer.Option(help="One prompt a line, or .jsonl; the tutorial's 280 if not given."),
    ] = None,
    reward: Annotated[
        str, typer.Option(help="sentiment, length, characters, keyword:PATTERN, FILE.py:NAME.")
    ] = "sentiment",
    scale: Annotated[float, typer.Option(min=0.0, help="Nats a unit of the reward.")] = 4.0,
    labels: Annotated[
        str, typer.Option(help="bradley-terry, hard or cycle (not transitive).")
    ] = "bradley-terry",
    noise: Annotated[float, typer.Option(help="Share of labels turned around.")] = 0.0,
    soft: Annotated[
        bool,
        typer.Option("--soft", help="Beside each pair, as p_chosen, how probable its label was."),
    ] = False,
    samples: Annotated[int, typer.Option(min=3, help="Responses a prompt.")] = 24,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs a prompt.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 16,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Prompts are a user's messages, not texts to continue with."),
    ] = False,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Make preference pairs whose truth is known: sample a model, score by a known reward, label,
    and say how.
    """
    prepare_for_models()
    from dil_tutorial.experiments.known_truth import data
    from dil_tutorial.llm.models import load_model, load_tokenizer, this_device

    texts = data.read_prompts(prompts or data.PROMPTS)
    settings = {
        "model": model,
        "prompts": str(prompts or "the tutorial's prompts.txt"),
        "reward": reward,
        "scale": scale,
        "labels": labels,
        "noise": noise,
        "soft": soft,
        "samples": samples,
        "pairs": pairs,
        "max_new_tokens": max_new_tokens,
        "chat": chat,
        "seed": seed,
    }
    data.check(settings)
    network, tokenizer = load_model(model).to(this_device()), load_tokenizer(model)
    with resumable(out):
        numbers = data.simulate(
            network, tokenizer, texts, out, settings, quiet=not console.is_terminal
        )
    numbers_table = table("Simulated preferences", "number", "value>")
    for split, counts in numbers.pop("splits").items():
        numbers_table.add_row(split, f"{counts['prompts']} prompts, {counts['pairs']} pairs")
    for name, value in numbers.items():
        numbers_table.add_row(escape(name), f"{value:.4g}")
    console.print(numbers_table)
    say(f"wrote {out}: train.jsonl, validation.jsonl, held_out.jsonl, responses.jsonl, README.md")


def plan_pairs(
    file: Annotated[
        str,
        typer.Argument(
            help="Preference pairs, .jsonl, .jsonl.gz or .parquet, or owner/name:split."
        ),
    ],
    kl: Annotated[
        float, typer.Option(help="The expected KL to pi_chosen that is wanted, nats.")
    ] = 0.01,
    parameters: Annotated[float | None, typer.Option(help="Free parameters of the policy.")] = None,
    pilot: Annotated[
        str | None, typer.Option(help="PAIRS:GAP of an SFT run, in place of --parameters.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figure and the numbers.")] = Path(
        "outputs/plan-pairs"
    ),
) -> None:
    """How many pairs do I need, with each loss?  From the spread of win rates that a preference
    file shows.  Trains nothing.
    """
    prepare_for_models()
    from dil_tutorial.experiments import pairs_needed
    from dil_tutorial.llm.data import read
    from dil_tutorial.support.words import precise

    if parameters is not None and pilot is not None:
        raise InputError("--parameters and --pilot say the same: give one")
    d = pairs_needed.parameters_of(pilot) if pilot is not None else parameters
    pairs = read(file, limit, "skip").pairs
    if not pairs:
        raise InputError(f"{file}: no pair that can be used: dil data {file} says why")
    pairs_plan = pairs_needed.plan(pairs_needed.bouts_of(pairs), kl, d)
    plan_table = table(file, "what", "how much>")
    for name in ("pairs", "prompts", "responses"):
        plan_table.add_row(name, f"{pairs_plan[name]:,}")
    plan_table.add_row("labels a response", f"{pairs_plan['met']:.1f}")
    plan_table.add_row("responses that recur", f"{pairs_plan['recur']:,}")
    if pairs_plan["those that recur"]:
        plan_table.add_row("how often these won", precise(pairs_plan["those that recur"]))
    plan_table.add_row("ties", f"{pairs_plan['ties']:.1%}")
    for name, of in (("Var w", "win rates"), ("Var P", "a pair's chance")):
        plan_table.add_row(
            f"{name}, the spread of {of}",
            precise(pairs_plan[name]) if pairs_plan[name] else "not shown: too few recur",
        )
    if pairs_plan["judge"]:
        plan_table.add_row(
            "p_chosen against 'chosen', slope (1: calibrated)", precise(pairs_plan["judge"])
        )
    console.print(plan_table)
    unit = "pairs" if pairs_plan["parameters"] else "pairs a free parameter"
    plan_table = table(f"{unit} until KL to pi_chosen is {kl:g} nats", "", f"{unit}>", "of SFT's>")
    for method, (least, most) in pairs_plan["needed"].items():
        plan_table.add_row(
            method, *pairs_needed.row_of((least, most), pairs_plan["needed"]["SFT"][0])
        )
    console.print(plan_table)
    if pairs_plan["counted"]:
        say(
            "every prompt's responses met often: counted as worlds; for a table of "
            f"{pairs_plan['parameters']:.0f} free parameters"
        )
        if pairs_plan["uneven"] > 1.05:
            say(
                f"pairs lie unevenly over prompts: a table needs {pairs_plan['uneven']:.1f} "
                "times as "
                "many as if they lay evenly"
            )
    elif pairs_plan["parameters"] is None:
        say(
            "how many parameters are free: --parameters, or --pilot PAIRS:GAP, how much higher "
            "SFT's f is on its own pairs"
        )
    wrote(*pairs_needed.save(pairs_plan, out))


@app.command("known-truth")
def known_truth(
    preset: Annotated[str, typer.Option(help="cpu (two cores, in the background) or gpu.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder; outputs/known-truth-PRESET if not given.")
    ] = None,
) -> None:
    """Does each loss imitate pi_chosen on a language model?  Trains all of them where the truth is
    known.  Resumes.
    """
    prepare_for_models()
    from dil_tutorial.experiments.known_truth import measures, report, run
    from dil_tutorial.llm.models import resolve
    from dil_tutorial.support.words import interval

    if preset not in run.PRESETS:
        raise unknown_name("preset", preset, run.PRESETS)
    settings = run.PRESETS[preset]
    resolve(settings.model)
    folder, terminal = out or Path(f"outputs/known-truth-{preset}"), console.is_terminal
    if not terminal:
        say("drawing responses of the reference; then one line per step")
    with resumable(folder):
        runner = run.Runner(settings, folder, quiet=not terminal)
        with progress(run.steps(settings), "training") as done:
            results = run.experiment(runner, done if terminal else numbered(run.steps(settings)))
    with console.status("solving for the optimum of each loss"):
        summary = measures.summary(results)
    columns = ("loss, reduction", "slope>", "of its optimum>", "correlation>", "truth on f>")
    results_table = table("f on log(1 + t) at held-out prompts; 1: imitates pi_chosen", *columns)
    for name, value in summary["losses"].items():
        numbers = (
            interval(value["slope"]),
            f"{value['expected slope'][0]:.2f}",
            f"{value['correlation'][0]:.2f}",
        )
        results_table.add_row(name, *numbers, interval(value["truth on f"]))
    console.print(results_table)
    wrote(measures.save(results, folder), *report.report(results, summary, folder))


@app.command("worth")
def worth(
    out: Annotated[Path, typer.Option(help="Folder; what is finished is kept there.")] = Path(
        "outputs/worth"
    ),
    model: Annotated[
        str, typer.Option(help="pi_ref: a fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each way at its chosen rate.")] = 3,
    limit: Annotated[int | None, typer.Option(min=12, help="The first so many prompts.")] = None,
) -> None:
    """What is a pair worth to a language model?  SFT, corrected losses, soft labels, distillation
    at 2 to 16 pairs.  Resumes."""
    prepare_for_models()
    from dataclasses import replace

    from dil_tutorial.experiments.known_truth import data
    from dil_tutorial.experiments.known_truth.runner import Runner
    from dil_tutorial.experiments.worth import measures, report, run
    from dil_tutorial.llm.models import resolve
    from dil_tutorial.support.words import interval

    resolve(model)
    settings, terminal = replace(run.PRESET, model=model, seeds=seeds), console.is_terminal
    total = run.steps(settings)
    if not terminal:
        say("drawing responses of the reference; then a line a run")
    with resumable(out):
        runner = Runner(
            settings, out, quiet=not terminal, prompts=data.read_prompts(data.PROMPTS)[:limit]
        )
        with progress(total, "training") as done:
            results = run.experiment(
                runner, done if terminal else numbered(total), lambda part: measures.save(part, out)
            )
    summary = measures.summary(results)
    results_table = table("Pairs for the same noise, SFT = 1", "way", "measured>", "predicted>")
    for method, value in summary.get("measured", {}).items():
        predicted = summary["foretold"][method].values()
        results_table.add_row(
            method,
            interval(value),
            f"{min(predicted):.2f}–{max(predicted):.2f}"
            if max(predicted) > min(predicted)
            else f"{min(predicted):.2f}",
        )
    console.print(results_table)
    wrote(measures.save(results, out), *report.report(results, summary, out))


@app.command("real-text")
def real_text(
    out: Annotated[Path, typer.Option(help="Folder; what is finished is kept there.")] = Path(
        "outputs/real-text"
    ),
    model: Annotated[
        str, typer.Option(help="pi_ref: a fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
    loss: Annotated[
        list[str] | None, typer.Option(help="One of the losses; can be repeated; all if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each loss at its chosen rate.")] = 3,
    limit: Annotated[
        int | None, typer.Option(min=12, help="The first so many prompts of each kind.")
    ] = None,
    pilot: Annotated[
        bool,
        typer.Option("--pilot", help="Try settings of one loss on validation prompts, and stop."),
    ] = False,
) -> None:
    """What does each loss make of whole sentences?  Responses of 32 tokens, a reward for kind
    words.  Resumes.
    """
    prepare_for_models()
    from dataclasses import replace

    from dil_tutorial.experiments.known_truth import data
    from dil_tutorial.experiments.known_truth.runner import Runner
    from dil_tutorial.experiments.real_text import measures, pilot_report, report, run
    from dil_tutorial.experiments.real_text import pilot as trial
    from dil_tutorial.llm.models import resolve

    resolve(model)
    if unknown := [name for name in loss or [] if name not in run.LOSSES]:
        raise unknown_name("loss", unknown[0], run.LOSSES)
    settings, terminal = replace(run.PRESET, model=model, seeds=seeds), console.is_terminal
    stories, chats = data.read_prompts(data.PROMPTS)[:limit], run.chats()[:limit]
    if not terminal:
        say("drawing responses of the reference; then a line a run")
    with resumable(out):
        runner = Runner(settings, out, quiet=not terminal, prompts=stories, chats=chats)
        if pilot:
            with progress(trial.steps(), "training") as done:
                callback = done if terminal else numbered(trial.steps())
                tried = trial.pilot(runner, callback, lambda part: trial.save(part, out))
            wrote(trial.save(tried, out), *pilot_report.report(tried, out))
            return
        losses = tuple(loss or run.LOSSES)
        total = run.steps(settings, losses)
        with progress(total, "training") as done:
            results = run.experiment(
                runner,
                done if terminal else numbered(total),
                lambda part: measures.save(part, out),
                losses,
            )
    summary = measures.summary(results)
    columns = ("loss", "slope>", "chosen, nats>", "rejected>", "KL>", "gain>", "win rate>")
    results_table = table("Held-out prompts; slope 1: imitates pi_chosen", *columns)
    for name, value in summary["losses"].items():
        results_table.add_row(name, *measures.as_text(value))
    console.print(results_table)
    wrote(measures.save(results, out), *report.report(results, summary, out))


@app.command("rlhf")
def rlhf(
    out: Annotated[
        Path, typer.Option(help="Folder; what experiment real-text has drawn there is used.")
    ] = Path("outputs/real-text"),
    model: Annotated[
        str, typer.Option(help="pi_ref: a fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
    preset: Annotated[
        str, typer.Option(help="cpu (two cores, some hours) or gpu (three seeds, more rounds).")
    ] = "cpu",
    limit: Annotated[
        int | None, typer.Option(min=12, help="The first so many prompts of each kind.")
    ] = None,
) -> None:
    """RLHF itself on whole sentences: a reward model, RLOO and GRPO, next to imitation.
    Resumes."""
    prepare_for_models()
    from dataclasses import replace

    from dil_tutorial.experiments.known_truth import data
    from dil_tutorial.experiments.known_truth.runner import Runner
    from dil_tutorial.experiments.real_text import measures
    from dil_tutorial.experiments.real_text import run as real
    from dil_tutorial.experiments.rlhf import report, run
    from dil_tutorial.llm.models import resolve

    if preset not in run.PRESETS:
        raise unknown_name("preset", preset, run.PRESETS)
    resolve(model)
    settings, terminal = replace(real.PRESET, model=model), console.is_terminal
    size = run.PRESETS[preset]
    total = run.steps(size)
    if not terminal:
        say("drawing responses of the reference; then a line a run")
    with resumable(out):
        runner = Runner(
            settings,
            out,
            quiet=not terminal,
            prompts=data.read_prompts(data.PROMPTS)[:limit],
            chats=real.chats()[:limit],
        )
        with progress(total, "training") as done:
            results = run.experiment(
                runner,
                size,
                done if terminal else numbered(total),
                lambda part: report.save(part, out),
            )
    others = measures.load(out / "real_text.json") if (out / "real_text.json").is_file() else None
    summary = report.summary(results, others)
    results_table = table("Held-out prompts", "policy", "KL>", "gain>", "win rate>")
    for name, value in summary["policies"].items():
        results_table.add_row(name, *(f"{value[key][0]:.3f}" for key in ("KL", "gain", "win rate")))
    console.print(results_table)
    wrote(report.save(results, out), *report.report(results, summary, out))


@app.command("real-pairs")
def real_pairs(
    data: Annotated[
        str, typer.Option(help="Pairs: a file, owner/name:split, hh-rlhf, ultrafeedback or tldr.")
    ],
    test: Annotated[
        str | None, typer.Option(help="Held-out pairs; the last of the data if not given.")
    ] = None,
    preset: Annotated[str, typer.Option(help="cpu (two cores, in the background) or gpu.")] = "cpu",
    model: Annotated[
        str, typer.Option(help="A fetched model, a folder or a hub id.")
    ] = "smollm2-135m-instruct",
    pairs: Annotated[
        int | None, typer.Option(min=2, help="Train on so many, instead of the preset's.")
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(min=1, help="Measure on so many, instead of the preset's.")
    ] = None,
    loss: Annotated[
        list[str] | None, typer.Option(help="One of the losses; can be repeated; all if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder; what is finished is kept there.")] = Path(
        "outputs/real-pairs"
    ),
) -> None:
    """The paper's experiment as far as this machine reaches: every loss on people's (or a judge's)
    preferences.  Resumes.
    """
    prepare_for_models()
    from dataclasses import replace

    from dil_tutorial.experiments.real_pairs import measures, report, run
    from dil_tutorial.llm.models import resolve

    if preset not in run.PRESETS:
        raise unknown_name("preset", preset, run.PRESETS)
    resolve(model)
    size = run.PRESETS[preset]
    settings = replace(
        size, model=model, pairs=pairs or size.pairs, held_out=held_out or size.held_out
    )
    if unknown := [
        name for name in loss or [] if name not in {name for name, _ in run.COMBINATIONS}
    ]:
        raise unknown_name("loss", unknown[0], {name for name, _ in run.COMBINATIONS})
    chosen = [one for one in run.runs(settings) if not loss or one.loss in loss]
    terminal = console.is_terminal
    with resumable(out):
        runner = run.Runner(settings, out, *run.data_of(data, test, settings), quiet=not terminal)
        with progress(len(chosen), "training") as done:
            callback = done if terminal else numbered(len(chosen))
            results = run.experiment(
                runner, callback, lambda part: measures.save(part, out), chosen
            )
    summary = measures.summary(results)
    columns = ("loss", "rate>", "accuracy>", "margin>", "chosen, nats>", "calibration>", "KL>")
    results_table = table(f"{results['held out']['pairs']} held-out pairs", *columns)
    for name, rates in summary["rates"].items():
        for rate, value in rates.items():
            numbers = (f"{value[key][0]:.3f}" for key in ("accuracy", "margin", "chosen"))
            results_table.add_row(
                name,
                f"{rate:g}",
                *numbers,
                f"{value['calibration']:.2f}",
                f"{value['own KL'][0]:.3f}",
            )
    console.print(results_table)
    wrote(measures.save(results, out), *report.report(results, summary, out))


def numbered(total: int) -> Callable[[str], None]:
    """For a log file, where a progress bar would not show: one line per step, with the seconds
    since the start."""
    start, count = time.perf_counter(), itertools.count(1)
    return lambda what: say(f"{next(count)}/{total}, {time.perf_counter() - start:.0f} s: {what}")
