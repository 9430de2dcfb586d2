"""How a pair becomes a gradient: one pair through every function that touches it, with shapes and actual numbers."""

import json
from typing import NamedTuple

import torch
from torch import Tensor

from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import fit, population_loss

LOSS = {"name": "dil", "generator": "lsif", "denominator": "mixture"}
PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


class Stop(NamedTuple):
    """A row of the page: what happens, which function does it, the shape of what comes out, and what that is here."""

    what: str
    where: str  # a role of Sphinx, which links to the function's documentation
    shape: str
    here: str


def func(name: str) -> str:
    """A link to a function or, with two names before it, a method, and the file that it stands in.

    >>> func("dil_tutorial.rlhf.kl")
    '{py:func}`~dil_tutorial.rlhf.kl` in `dil_tutorial/rlhf.py`'
    """
    kind = "meth" if name.split(".")[-2][0].isupper() else "class" if name.split(".")[-1][0].isupper() else "func"
    module = ".".join(part for part in name.split(".")[:-1] if part[0].islower())
    return f"{{py:{kind}}}`~{name}` in `{module.replace('.', '/')}.py`"


def shown(values: Tensor, digits: int = 3) -> str:
    """Numbers for a cell of a table.

    >>> shown(torch.tensor([0.5, -1.25]))
    '0.500, −1.250'
    """
    return ", ".join(f"{value:z.{digits}f}".replace("-", "−") for value in values.flatten().tolist())


def through_a_language_model() -> list[Stop]:
    """From a line of JSON to the weights of the tutorial's tiny model, one step away from its reference."""
    from dil_tutorial.llm.batches import PackedBatch, pack
    from dil_tutorial.llm.capabilities import enable_packing
    from dil_tutorial.llm.data import check_pair
    from dil_tutorial.llm.logprobs import response_logps
    from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    from dil_tutorial.llm.tokens import tokenize_pair

    policy, reference, loss = tiny_model(), tiny_model(), make_loss(**LOSS)
    row = tokenize_pair(check_pair(PAIR, "the example"), own_tokenizer())
    batch = pack([row])
    for model in (policy, reference):
        enable_packing(model)

    def step(rate: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A step of gradient descent: log-probs, the reference's, the loss, and the norm of its gradient."""
        logps, _ = response_logps(policy, batch)
        with torch.no_grad():
            ref_logps, _ = response_logps(reference, batch)
        f_chosen, f_rejected = logps - ref_logps
        value = loss(f_chosen, f_rejected)
        weights = list(policy.parameters())
        gradient = torch.autograd.grad(value, weights)
        with torch.no_grad():
            for weight, slope in zip(weights, gradient, strict=True):
                weight -= rate * slope
        return logps.detach(), ref_logps, value.detach(), torch.stack([slope.norm() for slope in gradient]).norm()

    step(0.01)
    logps, ref_logps, value, norm = step(0.01)
    f = (logps - ref_logps).requires_grad_()
    pull = -torch.autograd.grad(loss(*f), f)[0]
    after = step(0.0)[2]
    assert isinstance(batch, PackedBatch)
    ids = {name: ", ".join(map(str, part)) for name, part in (
        ("prompt", row.chosen.prompt), ("chosen", row.chosen.tokens), ("rejected", row.rejected.tokens))}  # fmt: skip
    return [
        Stop("A line of the file is read and checked", func("dil_tutorial.llm.data.read_pairs"), "a row", f"`{json.dumps(PAIR)}`"),
        Stop("Prompt and responses become tokens; the end token closes each response", func("dil_tutorial.llm.tokens.tokenize_pair"),
             "three lists", f"prompt {ids['prompt']}; chosen {ids['chosen']}; rejected {ids['rejected']}"),
        Stop("Both responses share a row: prompt, chosen, rejected; positions restart", func("dil_tutorial.llm.batches.pack"),
             "(1, S)", f"S = {batch.input_ids.shape[1]}, positions {shown(batch.position_ids, 0)}, document {shown(batch.documents, 0)}"),
        Stop("The model reads the row; the rejected response does not see the chosen one",
             func("dil_tutorial.llm.attention.document_attention"), "(1, heads, S, d)", "prompt and response meet, document by document"),
        Stop("Log-probabilities of the responses, summed over tokens", func("dil_tutorial.llm.logprobs.response_logps"), "(N,), N = 2B",
             shown(logps)),
        Stop("The reference's, scored once before training in the same batches", func("dil_tutorial.llm.reference.score_reference"),
             "(B, 2)", shown(ref_logps)),
        Stop("Log-ratios $f = \\log\\pi_\\theta - \\log\\pi_\\text{ref}$",
             func("dil_tutorial.llm.trainer.DILTrainer.compute_loss"), "(B,), (B,)", shown(f.detach(), 4)),
        Stop("The loss: here LSIF, repaired", func("dil_tutorial.losses.dil_loss"), "(B,)", shown(value, 4)),
        Stop("Its pull on the two log-ratios, $-\\partial L/\\partial f$", func("dil_tutorial.llm.metrics.gradient_weights"), "(B,), (B,)",
             shown(pull, 4)),
        Stop("The gradient in the weights", "`torch.autograd`", "as the weights", f"norm {shown(norm, 4)}"),
        Stop("After a step of gradient descent at rate 0.01", "`transformers.Trainer`", "as the weights",
             f"loss {shown(value, 4)} becomes {shown(after, 4)}"),
    ]  # fmt: skip


def through_a_toy_world() -> list[Stop]:
    """From a world to the optimum of the same loss."""
    world, loss = World.from_reward([0.5, 0.3, 0.2], [-1.0, 0.0, 1.0]), make_loss(**LOSS)
    f = torch.zeros_like(world.ref, requires_grad=True)
    value = population_loss(world, loss, f)
    slope = torch.autograd.grad(value.sum(), f)[0]
    ends = fit(world, loss)
    exact = optima.dil(world, "lsif", "mixture")
    return [
        Stop("A world: a reference and a labeller", func("toy.worlds.World"), "(X, Y)",
             f"$\\pi_\\text{{ref}}$ = {shown(world.ref, 1)}; rewards {shown(world.true_reward, 0)}"),
        Stop("The law of a labelled pair: winner, loser", func("dil_tutorial.preferences.pair_law"), "(X, Y, Y)", shown(world.pairs)),
        Stop("Its margins: winners and losers", func("dil_tutorial.preferences.pi_chosen"), "(X, Y)",
             f"{shown(world.chosen)}; {shown(world.rejected)}"),
        Stop("The loss of every pair at the reference, weighed by that law", func("toy.fit.population_loss"), "(X,)", shown(value.detach())),
        Stop("Its slope in every log-ratio", "`torch.autograd`", "(X, Y)", shown(slope)),
        Stop("Newton's method follows it to the end", func("toy.fit.fit"), "(X, Y)", shown(ends, 6)),
        Stop("The optimum by its closed form", func("toy.optima.dil"), "(X, Y)", shown(exact, 6)),
        Stop("How far that is from the winners' law", func("dil_tutorial.rlhf.kl"), "(X,)", f"{shown(kl(exact, world.chosen).abs(), 6)} nats"),
    ]  # fmt: skip
