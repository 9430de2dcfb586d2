"""Will it fit, how long will it take?  ``dil plan`` adds up a training run before anybody pays for
it.

Activations and floating-point operations are counted on the trainer's own step (``count``);
weights, gradients and optimizer states follow from the number of parameters.  The larger of two
moments is the peak: the end of the forward pass, when all activations are there, or of the backward
pass, when all gradients are.
"""

import itertools
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.count import Counts, Step, counted
from dil_tutorial.llm.models import cache_dir
from dil_tutorial.support.files import provenance, read_json, write_json

GIB = 2**30
SHAPES: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("shapes.yaml").read_text(encoding="utf-8")
)
CARDS = {  # bytes of memory, dense bf16 FLOP/s: from the makers' sheets
    "h100": (80e9, 989e12),
    "h200": (141e9, 989e12),
    "a100-80gb": (80e9, 312e12),
    "a100-40gb": (40e9, 312e12),
    "rtx-4090": (24e9, 165e12),
    "l4": (24e9, 121e12),
}
# bytes a trained weight
STATES = {"adamw_torch": 8, "adamw_torch_fused": 8, "adamw_8bit": 2, "adamw_bnb_8bit": 2, "sgd": 0}
# bytes of a weight in 4 bits with its scales, quantized again (Dettmers et al., 2023, section 3)
NF4 = 0.5 + 0.127 / 8
Lengths = tuple[int, ...]  # tokens of the prompt and of each response
CONTEXT = 0.8 * GIB  # what CUDA, its libraries and the allocator's gaps take next to the tensors


# --- Memory and time ------------------------------------------------------------------------------


def memory(
    config: Any, step: Step, counts: Counts, cards: int = 1, sharded: bool = False
) -> dict[str, float]:
    """Bytes on each device at the peak, by part; their sum is the peak.

    ``sharded`` is FSDP2's full sharding over ``cards``; otherwise each of several GPUs holds
    everything (DDP), and a second copy of the gradients, the buckets that are sent around.

    >>> config = model_config("smollm2-135m")
    >>> step = Step(prompt=8, responses=(4, 4))
    >>> found = memory(config, step, counted(config, step))
    >>> round(found["optimizer"] / found["weights"])
    2
    """
    weights, adapters = held(step, counts), 4 * counts.trained if step.lora else 0.0
    share = cards if sharded else 1
    parts = {
        "weights": (weights + adapters) / share,
        "optimizer": STATES[step.optimizer] * counts.trained / share,
    }
    gradients = 4 * counts.trained / share * (2 if cards > 1 and not sharded else 1)
    compute = 2 if step.bf16 or step.dtype != "float32" else 4  # bytes of a number in the layers
    # embeddings and head are whole all the time, and two layers: one at work, the next on its way
    if sharded:
        parts["gathered"] = compute * (counts.other + 2 * counts.linear / config.num_hidden_layers)
    layers, tokens, vocabulary = config.num_hidden_layers, step.tokens, config.vocab_size
    answers = step.rows * sum(step.responses)
    chunk = min(step.head_chunk or answers, answers)
    # logits, their log-softmax, and the gradients of both
    logits = chunk * vocabulary * (compute + 4 + 4 + compute)
    layer = counts.saved / layers
    kept = counts.saved
    if step.checkpointing:  # a layer's input each, and one layer in full while it is computed again
        kept = layers * tokens * config.hidden_size * compute + layer
    work = 3 * tokens * config.intermediate_size * compute  # gradients inside one layer
    before = gradients if step.accumulation > 1 else 0.0  # those of the micro-batches before
    forward = {"activations": kept, "vocabulary head": logits, "gradients": before}
    backward = {"activations": layer + work, "vocabulary head": 0.0, "gradients": gradients}
    return parts | max(forward, backward, key=lambda moment: sum(moment.values()))


def held(step: Step, counts: Counts) -> float:
    """Bytes of the weights, adapters aside."""
    if step.dtype == "nf4":
        return NF4 * counts.linear + 4 * counts.other
    return (4 if step.dtype == "float32" else 2) * (counts.linear + counts.other)


# --- Models and recipes ---------------------------------------------------------------------------


def model_config(name: str) -> Any:
    """The configuration of a known shape, of a fetched model, or of a folder; nothing is
    downloaded.

    >>> model_config("meta-llama/Meta-Llama-3-8B").hidden_size
    4096
    """
    from transformers import AutoConfig

    for shape, fields in SHAPES.items():
        if name == shape or name in fields["also"]:
            return AutoConfig.for_model(
                **{key: value for key, value in fields.items() if key != "also"}
            )
    for folder in (Path(name).expanduser(), cache_dir() / name):
        if (folder / "config.json").is_file():
            fields = read_json(folder / "config.json")
            try:
                return AutoConfig.for_model(**fields).get_text_config()
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{folder / 'config.json'}: {str(error).splitlines()[0]}: give a causal model's"
                ) from None
    raise unknown_name("model shape", name, [*SHAPES, "a folder with a config.json"])


def step_of(recipe: dict[str, Any], prompt: int, *responses: int) -> Step:
    """The micro-batch that a recipe trains on, with responses of these lengths, cut at its
    max_length.

    >>> step_of({"max_length": 12, "per_device_train_batch_size": 4}, 8, 9, 2).responses
    (4, 2)
    """
    longest = recipe.get("max_length", 1024)
    prompt = min(prompt, longest - 1)
    optimizer = str(recipe.get("optim", "adamw_torch_fused"))
    if optimizer not in STATES:
        raise unknown_name("optimizer to plan with", optimizer, STATES)
    return Step(
        prompt=prompt,
        responses=tuple(min(tokens, longest - prompt) for tokens in responses),
        rows=recipe.get("per_device_train_batch_size", 8),
        dtype=recipe.get("dtype", "float32"),
        bf16=recipe.get("bf16", False),
        lora=recipe.get("lora_r", 0),
        checkpointing=checkpoints(recipe),
        head_chunk=recipe.get("head_chunk", 256),
        optimizer=optimizer,
        accumulation=recipe.get("gradient_accumulation_steps", 1),
    )


def checkpoints(recipe: dict[str, Any]) -> bool:
    """Whether activations are computed again: by transformers' switch or by FSDP's."""
    return bool(
        recipe.get("gradient_checkpointing")
        or (recipe.get("fsdp_config") or {}).get("activation_checkpointing")
    )


@dataclass(frozen=True)
class Plan:
    """A recipe on GPUs: the memory of an average and of the longest micro-batch, and the time of
    the whole run.
    """

    step: Step
    memory: dict[str, float]  # bytes by part, average lengths
    longest: dict[str, float]  # of a micro-batch that is cut at max_length
    training: float  # FLOPs of the run, all devices
    scoring: float  # of the reference's log-probabilities, once before it
    steps: int  # of the optimizer
    tokens: float  # real tokens of the run

    def hours(self, flops_per_s: float, cards: int, mfu: float) -> float:
        """Hours at a share ``mfu`` of the cards' peak; it counts real tokens' FLOPs, computing
        again included.
        """
        return (self.training + self.scoring) / (flops_per_s * cards * mfu) / 3600


def longest_step(recipe: dict[str, Any], step: Step, longest: Lengths | None) -> Step:
    """A step whose rows are all as long as the longest: of the data, or of ``max_length``."""
    if longest is not None:
        return replace(step, prompt=longest[0], responses=longest[1:])
    room = recipe.get("max_length", 1024) - step.prompt
    return replace(step, responses=(room,) * len(step.responses))


def plan(
    recipe: dict[str, Any],
    config: Any,
    lengths: Lengths,
    rows: int,
    cards: int = 1,
    longest: Lengths | None = None,
) -> Plan:
    """Count ``recipe`` on a model's configuration for ``rows`` pairs or groups of so many tokens of
    prompt and responses; ``longest`` are those of the longest row, as ``max_length`` has it if
    None.

    >>> recipe = {"per_device_train_batch_size": 4, "num_train_epochs": 1}
    >>> made = plan(recipe, model_config("smollm2-135m"), (9, 5, 5), rows=40)
    >>> made.steps, made.tokens
    (10, 760)
    """
    sharded = bool(recipe.get("fsdp")) and cards > 1
    step = step_of(recipe, *lengths)
    step = replace(step, rows=min(step.rows, math.ceil(rows / cards)))  # no batch holds more
    full = longest_step(recipe, step, longest)
    counts, most = counted(config, step), counted(config, full)
    epochs = recipe.get("num_train_epochs", 3)
    batches = math.ceil(rows / (step.rows * cards)) * cards
    return Plan(
        step=step,
        memory=memory(config, step, counts, cards, sharded),
        longest=memory(config, full, most, cards, sharded),
        training=(counts.forward + counts.backward) * batches * epochs,
        scoring=counts.forward * batches,
        steps=max(1, batches // cards // step.accumulation) * epochs,
        tokens=step.tokens * batches * epochs,
    )


SMALL = {"per_device_train_batch_size": 1, "gradient_checkpointing": True}
CHANGES: tuple[dict[str, Any], ...] = (  # what makes a recipe smaller, the mildest first
    {"gradient_checkpointing": True},
    {"per_device_train_batch_size": 1},
    SMALL,
    SMALL | {"optim": "adamw_bnb_8bit"},
    SMALL | {"lora_r": 16, "dtype": "bfloat16"},
    SMALL | {"lora_r": 16, "dtype": "nf4"},
)


def proposed(
    recipe: dict[str, Any],
    config: Any,
    lengths: Lengths,
    cards: int,
    room: float,
    longest: Lengths | None = None,
) -> dict[str, Any] | None:
    """What to change so that the longest batch fits into ``room`` bytes: the first of ``CHANGES``
    that does, or None.

    Several cards share the weights (FSDP) unless an adapter is trained, and rows taken from a
    batch are accumulated.

    >>> proposed({"max_length": 64}, model_config("smollm2-135m"), (9, 5, 5), cards=1, room=3.2e9)
    {'gradient_checkpointing': True}
    """
    rows = recipe.get("per_device_train_batch_size", 8)
    for change in CHANGES:
        changed = recipe | change
        if cards > 1 and "lora_r" not in changed:
            changed["fsdp"] = True
        times = rows // changed.get("per_device_train_batch_size", rows)
        if times > 1:
            changed["gradient_accumulation_steps"] = times * recipe.get(
                "gradient_accumulation_steps", 1
            )
        if (
            sum(plan(changed, config, lengths, 1, cards, longest).longest.values()) + CONTEXT
            <= room
        ):
            return {key: value for key, value in changed.items() if recipe.get(key) != value}
    return None


def lengths_of_data(recipe: dict[str, Any], limit: int = 1000) -> tuple[Lengths, Lengths, int]:
    """Mean lengths of a recipe's pairs or groups, those of the longest, of the first ``limit`` of
    them, and how many there are.

    Only for data and a tokenizer that are here.
    """
    from dil_tutorial.llm.data import read
    from dil_tutorial.llm.groups import checker
    from dil_tutorial.llm.models import load_tokenizer
    from dil_tutorial.llm.run import loss_of
    from dil_tutorial.llm.tokens import tokenize_pairs

    if not Path(recipe["data"]).exists():
        raise InputError(
            f"data {recipe['data']}: not a file here: give --lengths PROMPT,CHOSEN,REJECTED and "
            "--pairs N, with a length for each response of a group"
        )
    on_bad_line = recipe.get("on_bad_line", "refuse")
    loss = loss_of(recipe)
    read_rows = read(recipe["data"], recipe.get("limit"), on_bad_line, checker(loss)).pairs
    rows, _ = tokenize_pairs(
        [{**row, "weights": []} if loss.of_groups else row for row in read_rows[:limit]],
        load_tokenizer(recipe["model"]),
        recipe.get("max_length", 1024),
        recipe.get("chat_format", False),
    )
    K = max(len(row.responses) for row in rows) if loss.of_groups else 2
    sides = [
        (len(row.responses[0].prompt), *(len(one.tokens) for one in row.responses[:K]))
        for row in rows
    ]
    means = [
        round(sum(column) / len(sides)) for column in itertools.zip_longest(*sides, fillvalue=0)
    ]
    return tuple(means), max(sides, key=sum), len(read_rows)


def lengths_given(text: str) -> Lengths:
    """Numbers of tokens from the command line: of the prompt and of two or more responses.

    >>> lengths_given("160,290,260")
    (160, 290, 260)
    """
    try:
        prompt, *responses = (int(part) for part in text.split(","))
        if min(prompt, *responses) < 1 or len(responses) < 2:
            raise ValueError
    except ValueError:
        raise InputError(
            f"--lengths {text}: give tokens of prompt, chosen and rejected, such as 160,290,260, "
            "or of prompt and all responses of a group"
        ) from None
    return prompt, *responses


def card_named(name: str) -> tuple[float, float]:
    """Memory in bytes and peak FLOP/s of a GPU.

    >>> card_named("h100")
    (80000000000.0, 989000000000000.0)
    """
    if name == "cpu":
        return this_cpu()
    if name not in CARDS:
        raise unknown_name("card", name, [*CARDS, "cpu"])
    return CARDS[name]


def this_cpu(size: int = 1024) -> tuple[float, float]:
    """Memory in bytes of this machine, and the FLOP/s of its best float32 matrix product."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return float(memory), 2 * size**3 / best


def save(training_plan: Plan, settings: dict[str, Any], path: Path) -> None:
    """The plan as JSON, with versions and machine."""
    write_json(path, {**provenance(), **settings, **asdict(training_plan)})
