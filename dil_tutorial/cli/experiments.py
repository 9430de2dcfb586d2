"""``dil experiment``, ``tour`` and ``simulate``: studies, the first minute, data whose truth is
known.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dil_tutorial.cli import theory
from dil_tutorial.cli.console import console, progress, resumable, say, table, wrote
from dil_tutorial.cli.models import prepare_for_models
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm import recipe as recipes

SEEN = """\
  A preference data set holds two distributions that average to the reference: chosen responses
  and rejected responses.  SFT, NCA and DIL [bold]with the mixture denominator[/] have their
  optimum exactly at the chosen distribution, pi_chosen.  DIL [bold]as published[/] (rejected
  responses in place of reference samples) does not: its optimum lies towards RLHF, LSIF's most;
  and LSIF and DPO let the likelihood of chosen responses fall.

  [bold]Open next[/]
    dil lab           lesson 00 in JupyterLab
    dil verify        all claims, with their statements
    dil fetch-model   a real 135M-parameter model; then dil train --help

  (The command lives in .venv/bin: source .venv/bin/activate, once a terminal.)"""


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which one; lists them if not given.")] = None,
    preset: Annotated[str | None, typer.Option(help="Its size; --show lists them.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting: seeds=1. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; what is finished is kept there. outputs/NAME if not given."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many; the same command continues.", min=0.01)
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show presets and settings, and run nothing.")
    ] = False,
) -> None:
    """Run a study and write its numbers, figures and report; the same command continues it."""
    from dil_tutorial.experiments import STUDIES

    if name is None:
        return list_experiments()
    if name not in STUDIES:
        raise unknown_name("experiment", name, STUDIES)
    for key, _, value in (change.partition("=") for change in set_ or []):
        if key == "model":
            recipes.check_model_path(value)
        if key in ("data", "test") and Path(value).suffix:
            recipes.check_data_file(value)
    if STUDIES[name].models:
        prepare_for_models()
    from dil_tutorial.experiments import study as studies

    study = studies.study(name)
    settings = studies.settings_of(study, preset, set_ or [])
    usual = preset in (None, next(iter(study.presets)))
    folder = out or Path("outputs") / ((study.folder or name) + ("" if usual else f"-{preset}"))
    if folder.is_file():
        raise InputError(f"{folder}: is a file: give a folder for --out")
    if show:
        return show_settings(name, study.presets, settings)
    total, terminal = study.steps(settings), console.is_terminal
    if not terminal:
        say(f"{name}: at most {total} steps, a line each")
    with resumable(folder), progress(total, "running") as done:
        report_step = done if terminal else numbered(total)
        results = studies.execute(
            study, settings, folder, report_step, quiet=not terminal, minutes=minutes
        )
    pages = []
    if not results.unfinished or (study.partial and results.rows):
        pages = studies.report(study, results, folder)
    wrote(folder / f"{study.stem}.json", *pages)
    if results.unfinished:
        say(
            f"{len(results.rows)} of at most {total} steps in {minutes:g} minutes: run the same "
            "command to continue"
        )


def show_settings(name: str, presets: Mapping[str, Any], settings: Any) -> None:
    """The settings as they would be run, each to be changed by --set."""
    settings_table = table(f"{name}, presets: {', '.join(presets)}", "setting", "value")
    for key, value in vars(settings).items():
        several = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        settings_table.add_row(key, several)
    console.print(settings_table)


def list_experiments() -> None:
    """A table of the studies."""
    from dil_tutorial.experiments import STUDIES

    names = table("dil experiment NAME", "name", "what")
    for name, entry in STUDIES.items():
        names.add_row(name, entry.about)
    console.print(names)


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
    recipes.check_model_path(model)
    if prompts is not None and not prompts.is_file():
        raise InputError(f"{prompts}: cannot be read: no such file")
    if ".py:" in reward and not Path(reward.rpartition(":")[0]).is_file():
        raise InputError(f"{reward.rpartition(':')[0]}: no such file: give FILE.py:NAME")
    prepare_for_models()
    from dil_tutorial.experiments import simulate as data
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
        numbers_table.add_row(name, f"{value:.4g}")
    console.print(numbers_table)
    say(f"wrote {out}: train.jsonl, validation.jsonl, held_out.jsonl, responses.jsonl, README.md")


def numbered(total: int) -> Callable[[str], None]:
    """For a log file, where a progress bar would not show: one line per step, with the seconds
    since the start.
    """
    start, count = time.perf_counter(), itertools.count(1)
    return lambda what: say(f"{next(count)}/{total}, {time.perf_counter() - start:.0f} s: {what}")
