"""``dil optima FILE``: where every loss ends in a small world of the reader's own."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.rlhf import kl
from dil_tutorial.support.files import provenance, read_json, write_json
from toy.compare import COMPARED, optimum
from toy.worlds import World


def read_world(path: Path) -> World:
    """A world from a JSON file with ``ref`` and either ``reward`` (and perhaps ``hard``) or
    ``preference``.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "world.json"
    >>> _ = path.write_text('{"ref": [0.5, 0.5], "reward": [0.0, 1.0]}')
    >>> read_world(path).chosen
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    """
    if not path.is_file():
        raise InputError(
            f'{path}: no such file: give JSON such as {{"ref": [0.5, 0.5], "reward": [0, 1]}}'
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(
            f'{path}: holds a {type(content).__name__}, not an object: give {{"ref": ..., '
            f'"reward": ...}}'
        )
    fields = ("ref", "reward", "preference", "hard")
    for key in content:
        if key not in fields:
            raise InputError(f"{path}: {unknown_name('field', key, fields)}")
    if "ref" not in content:
        raise InputError(f"{path}: field 'ref' is missing: give the reference policy")
    if ("reward" in content) == ("preference" in content):
        raise InputError(f"{path}: give one of the fields 'reward' and 'preference'")
    try:
        if "preference" in content:
            if "hard" in content:
                raise InputError(
                    "field 'hard' goes with 'reward': with 'preference' say 0 or 1 there"
                )
            return World(content["ref"], content["preference"])
        if not isinstance(content.get("hard", False), bool):
            raise InputError(f"field 'hard' is {content['hard']!r}: give true or false")
        return World.from_reward(content["ref"], content["reward"], hard=content.get("hard", False))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


STEPS = len(COMPARED)  # that ``solve`` reports


def solve(
    world: World, done: Callable[[str], None] = lambda label: None
) -> tuple[dict[str, Tensor], list[str]]:
    """The reference, both distributions, and the optimum of each loss, all (X, Y); and the losses
    that have no finite optimum here.

    >>> from toy.gallery import bandit
    >>> policies, missing = solve(bandit())
    >>> list(policies)[:4], missing
    (['reference', 'chosen', 'rejected', 'SFT'], [])
    """
    policies = {"reference": world.ref, "chosen": world.chosen, "rejected": world.rejected}
    missing = []
    for entry in COMPARED:
        policy = optimum(entry, world)
        if policy is None:
            missing.append(entry.described)
        else:
            policies[entry.described] = policy
        done(entry.described)
    return policies, missing


def away(policies: dict[str, Tensor]) -> dict[str, list[float]]:
    """KL(policy || pi_chosen) of each policy at each prompt, in nats."""
    return {
        name: kl(policy, policies["chosen"]).abs().tolist() for name, policy in policies.items()
    }


def save(policies: dict[str, Tensor], path: Path) -> None:
    """The policies as JSON, with versions and machine."""
    write_json(
        path,
        {**provenance(), "policies": {name: policy.tolist() for name, policy in policies.items()}},
    )
