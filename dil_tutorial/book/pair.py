"""How a pair becomes a gradient: one pair through every function that touches it, with shapes and
actual numbers.
"""

import json

import torch
from torch import Tensor

from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import fit, population_loss

LOSS = {"name": "dil", "generator": "lsif", "denominator": "mixture"}
PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


def func(name: str) -> str:
    """A link to a function or, with two names before it, a method, and the file that it stands in.

    >>> func("dil_tutorial.rlhf.kl")
    '{py:func}`~dil_tutorial.rlhf.kl` in `dil_tutorial/rlhf.py`'
    """
    kind = (
        "meth"
        if name.split(".")[-2][0].isupper()
        else "class"
        if name.split(".")[-1][0].isupper()
        else "func"
    )
    module = ".".join(part for part in name.split(".")[:-1] if part[0].islower())
    return f"{{py:{kind}}}`~{name}` in `{module.replace('.', '/')}.py`"


def shown(values: Tensor, digits: int = 3) -> str:
    """Numbers for a cell of a table.

    >>> shown(torch.tensor([0.5, -1.25]))
    '0.500, −1.250'
    """
    return ", ".join(
        f"{value:z.{digits}f}".replace("-", "−") for value in values.flatten().tolist()
    )


def through_a_language_model() -> dict[str, str]:
    """What each stop makes of PAIR in the tutorial's tiny model, one step from its reference; the
    template has the rows.
    """
    from dil_tutorial.llm.data import check_pair
    from dil_tutorial.llm.fast.logprobs import response_logps
    from dil_tutorial.llm.fast.packing import PackedBatch, pack
    from dil_tutorial.llm.fast.probes import enable_packing
    from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    from dil_tutorial.llm.tokens import tokenize_pair

    policy, reference, loss = tiny_model(), tiny_model(), make_loss(**LOSS)
    row = tokenize_pair(check_pair(PAIR, "the example"), own_tokenizer())
    batch = pack([row])
    for model in (policy, reference):
        enable_packing(model)

    def step(rate: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A step of gradient descent: log-probs, the reference's, the loss, and the norm of its
        gradient.
        """
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
        return (
            logps.detach(),
            ref_logps,
            value.detach(),
            torch.stack([slope.norm() for slope in gradient]).norm(),
        )

    step(0.01)
    logps, ref_logps, value, norm = step(0.01)
    f = (logps - ref_logps).requires_grad_()
    neg_gradient = -torch.autograd.grad(loss(*f), f)[0]
    after = step(0.0)[2]
    assert isinstance(batch, PackedBatch)
    tokens = {
        "prompt": row.chosen.prompt,
        "chosen": row.chosen.tokens,
        "rejected": row.rejected.tokens,
    }
    return {
        "line": f"`{json.dumps(PAIR)}`",
        "tokens": "; ".join(f"{name} {', '.join(map(str, ids))}" for name, ids in tokens.items()),
        "size": str(batch.input_ids.shape[1]),
        "positions": shown(batch.position_ids, 0),
        "document": shown(batch.documents, 0),
        "logps": shown(logps),
        "ref_logps": shown(ref_logps),
        "f": shown(f.detach(), 4),
        "gradient": shown(neg_gradient, 4),
        "norm": shown(norm, 4),
        "loss": shown(value, 4),
        "after": shown(after, 4),
    }


def through_a_toy_world() -> dict[str, str]:
    """What each stop makes of a world, from its distributions to the optimum of the same loss."""
    world, loss = World.from_reward([0.5, 0.3, 0.2], [-1.0, 0.0, 1.0]), make_loss(**LOSS)
    f = torch.zeros_like(world.ref, requires_grad=True)
    value = population_loss(world, loss, f)
    slope = torch.autograd.grad(value.sum(), f)[0]
    exact = optima.dil(world, "lsif", "mixture")
    return {
        "ref": shown(world.ref, 1),
        "reward": shown(world.true_reward, 0),
        "pairs": shown(world.pairs),
        "chosen": shown(world.chosen),
        "rejected": shown(world.rejected),
        "loss": shown(value.detach()),
        "slope": shown(slope),
        "newton": shown(fit(world, loss), 6),
        "exact": shown(exact, 6),
        "away": shown(kl(exact, world.chosen).abs(), 6),
    }
