r"""The ledger's machinery: what a claim is, how it is run, how its verdict is computed.

A ``Claim`` carries its statement, its source, a function from random worlds to residuals, a
tolerance, an explanation, and the verdict we recorded for it:

- **holds**: the residual is within tolerance in every world.
- **holds under an assumption**: it does where the assumption is made, and does *not* where it is
  dropped.
- **fails as published**: the published statement misses by a stated size in every world; its
  correction holds.
- **fails, a common belief**: the same for a statement that many make and, as far as we know, no
  paper.

Worlds come stacked, one prompt per seed, so that one tensor program checks all seeds at once; a
residual has one entry per seed.  ``run`` computes verdicts anew, and a verdict that differs from
the recorded one is a failure of the ledger. Tolerances are 1e-9 for identities and 1e-8 for optima.
"""

import inspect
import math
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial import rlhf
from dil_tutorial.bregman import GENERATORS, Generator, power
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.symbols import plain
from toy import World
from toy.fit import initial_logits, newton
from toy.threads import one_thread

HOLDS, ASSUMES = "holds", "holds under an assumption"
FAILS, BELIEF = "fails as published", "fails, a common belief"
MARKS = {HOLDS: "✓", ASSUMES: "◐", FAILS: "✗", BELIEF: "✗"}  # of the statement
IDENTITY, OPTIMUM = 1e-9, 1e-8
BT, HARD, ANY = "bradley-terry", "hard", "any"

SECTIONS = {
    "1": "The two distributions in a preference data set",
    "2": "RLHF as imitation",
    "3": "DIL's objective and density ratios",
    "4": "Whose samples stand for the reference?",
    "5": "Relatives",
    "6": "beta, and lengths",
    "7": "The paper against its code",
    "8": "Finite data and training dynamics",
    "9": "Neighbors",
    "12": "What a pair is worth",
    "13": "RLHF itself",
    "14": "How the pairs were made: winners of K, groups",
}
# The claims that carry the argument, in reading order; a reader who has these has all of it.
ARGUMENT = (
    "1.chosen", "1.rejected", "1.mixture", "1.bound", "1.best-of-2", "1.bon-kl", "1.iterated",
    "2.gibbs", "2.every-policy", "2.ebm-optimum", "2.rlhf-imitates", "2.sft-and-rlhf",
    "2.cause", "2.forward-kl", "2.mode-seeking",
    "3.objective", "3.bregman", "3.table", "3.ukl-is-sft", "3.reverse-kl",
    "4.reference", "4.mixture", "4.lsif-published", "4.ukl-published", "4.bce-published",
    "4.one-multiplier", "4.lsif-zeros", "4.on-reference", "4.nca",
    "5.dpo", "5.dpo-cpc", "5.cpc-ratio", "5.bt-projection", "5.win-rates", "5.ipo", "5.f-dpo",
    "5.kto",
    "6.beta", "6.beta-direction", "6.mean", "6.mean-dpo",
    "7.means-at-start",
    "8.first-step", "8.chosen", "8.corrected-finite", "8.dpo-unseen", "8.noise",
    "9.idealized", "9.max-min-shared", "9.safe-implied", "9.safe-bound", "9.data-alignment",
    "9.variational", "9.f-or-bregman",
    "12.corrected", "12.half", "12.split", "12.soft", "12.bradley-terry",
    "13.floor", "13.proxy", "13.rounds", "13.flow", "13.grpo-success", "13.grpo-rises",
    "14.winners", "14.bound", "14.pair", "14.ladder", "14.group-loss", "14.infonca",
    "14.weight", "14.half", "14.worst", "14.first-step", "14.correct", "14.displacement",
    "14.coverage", "14.small-steps",
)  # fmt: skip
KINDS = {
    "argument": "claims of the argument",
    "further": "further claims",
    "loss": "properties of single losses",
}
PAPER_SECTIONS = {
    "4.1": "RLHF is a form of imitation learning",
    "4.2": "The objective: reverse KL to the chosen responses",
    "4.3": "Density ratios by Bregman divergences",
    "4.4": "The loss: a change of variables",
    "4.5": "DPO as a special case",
    "6.3": "Results: training dynamics",
}

Check = Callable[[World], Tensor]  # worlds with one prompt per seed -> (seeds,) residuals


@dataclass(frozen=True)
class Claim:
    """One statement.  ``check`` must stay within ``tolerance``; ``counter``, if any, must exceed it
    a thousandfold.

    ``counter`` is the statement *without* its assumption, or *as published*; it makes the verdict a
    real one.
    """

    id: str  # THEORY section and a short name, e.g. "4.lsif-published"
    statement: str  # one sentence, LaTeX between dollars
    source: str  # section of THEORY
    check: Check
    verdict: str = HOLDS
    tolerance: float = IDENTITY
    worlds: str = BT  # the family drawn for ``check``; see World.random
    counter: Check | None = None
    counter_worlds: str | None = None  # the family for ``counter`` where it differs
    note: str = ""  # the assumption, or the correction
    paper: str = ""  # the section of the paper that states it
    published: str = ""  # where else a statement that fails was published
    explanation: str = ""  # why, in a paragraph

    @property
    def kind(self) -> str:
        """One of ``KINDS``: a property of a single loss belongs to the page of losses.

        >>> [claim.kind for claim in select("1.chosen", "1.tanh", "5.sppo")]
        ['argument', 'further', 'loss']
        """
        if self.id in ARGUMENT:
            return "argument"
        return "loss" if self.id.startswith("5.") or self.id == "6.desensitised" else "further"

    @property
    def section(self) -> str:
        """The section of THEORY that the id begins with."""
        return self.id.split(".")[0]

    @property
    def fails(self) -> bool:
        """Whether the statement is recorded as false, and its note as a correction."""
        return self.verdict in (FAILS, BELIEF)


CLAIMS: list[Claim] = []


def claim(
    id: str, source: str, verdict: str = HOLDS, tolerance: float = IDENTITY, **fields: Any
) -> Callable[[Check], Check]:
    """Register the decorated check as a claim, ``fields`` as in ``Claim``.

    The check's docstring begins with the statement and, on a line of its own, "If: ..." or
    "Correction: ..." where the verdict needs such a note; then comes the explanation.  ``fields``
    may hold them instead.  With ``counter_worlds`` and no ``counter`` the check itself, on those
    worlds, is the counter-check."""

    def register(check: Check) -> Check:
        head, _, explanation = inspect.cleandoc(check.__doc__ or "").partition("\n\n")
        statement, *notes = re.split(r"^(?:If|Correction): ", head, flags=re.MULTILINE)
        texts = {
            "statement": statement,
            "note": "".join(notes).removesuffix("."),
            "explanation": explanation,
        }
        texts = {name: " ".join(text.split()) for name, text in texts.items()} | fields
        if "counter_worlds" in texts:
            texts.setdefault("counter", check)
        CLAIMS.append(
            Claim(
                id=id,
                source=f"THEORY §{source}",
                check=check,
                verdict=verdict,
                tolerance=tolerance,
                **texts,
            )
        )
        return check

    return register


@dataclass(frozen=True)
class Result:
    """What a run found for one claim."""

    claim: Claim
    residuals: list[float]  # one a seed
    counter: list[float]  # one a seed, empty without a counter-check
    seconds: float

    @property
    def residual(self) -> float:
        """The worst residual; NaN counts as worst."""
        return _worst(self.residuals)

    @property
    def size(self) -> float | None:
        """The smallest miss, over seeds, of the statement without its assumption or correction."""
        return min(self.counter) if self.counter else None

    @property
    def verdict(self) -> str:
        """The verdict this run supports, computed from the numbers alone."""
        if not self.residual <= self.claim.tolerance:
            return "does not hold"
        if self.size is None:
            return HOLDS
        if not self.size > 1000 * self.claim.tolerance:
            return HOLDS  # also without the assumption or correction
        return self.claim.verdict if self.claim.verdict != HOLDS else ASSUMES

    @property
    def as_recorded(self) -> bool:
        return self.verdict == self.claim.verdict

    @property
    def mark(self) -> str:
        """A sign for what became of the statement, ✓ ◐ ✗; ! where the ledger says otherwise."""
        return MARKS[self.verdict] if self.as_recorded else "!"

    def as_dict(self) -> dict[str, Any]:
        claim_fields = (
            "id",
            "kind",
            "statement",
            "explanation",
            "source",
            "paper",
            "note",
            "tolerance",
        )
        result_fields = ("verdict", "as_recorded", "residual", "residuals")
        return {
            **{name: getattr(self.claim, name) for name in claim_fields},
            "recorded": self.claim.verdict,
            **{name: getattr(self, name) for name in result_fields},
            "failure_size": self.size,
            "failure_sizes": self.counter,
            "seconds": round(self.seconds, 4),
        }


def _worst(values: Sequence[float]) -> float:
    return math.nan if any(math.isnan(v) for v in values) else max(values)


def run(claims: Sequence[Claim], seeds: Sequence[int]) -> Iterator[Result]:
    """Check ``claims`` on one random world a seed, yielding a Result each.

    >>> [result.as_recorded for result in run(select("1.mixture"), seeds=[0, 1])]
    [True]
    """
    if not seeds:
        raise InputError("verify: no seeds: ask for at least 1")
    worlds = {kind: World.random(seeds, kind=kind) for kind in (BT, HARD, ANY)}
    for claim in claims:
        start = time.perf_counter()
        with one_thread():
            residuals = claim.check(worlds[claim.worlds]).tolist()
            counter = (
                claim.counter(worlds[claim.counter_worlds or claim.worlds]).tolist()
                if claim.counter
                else []
            )
        yield Result(claim, residuals, counter, time.perf_counter() - start)


def save(results: Sequence[Result], seeds: int, path: Path) -> None:
    """The results as JSON, with versions, seeds and machine."""
    write_json(
        path,
        {
            **provenance(),
            "seeds": list(range(seeds)),
            "claims": [result.as_dict() for result in results],
        },
    )


def select(*patterns: str) -> list[Claim]:
    """The claims whose id or section is named; all of them without patterns.

    "4" is section 4 of THEORY, "4.mixture" one claim, "argument" the claims of the argument,
    "paper" what the paper states, "paper-4.1" in its section 4.1.

    >>> [claim.id for claim in select("4.mixture")]
    ['4.mixture']
    """
    chosen = list(CLAIMS)
    if patterns:
        for pattern in patterns:
            if not any(_matches(claim, pattern) for claim in CLAIMS):
                section = [claim.id for claim in CLAIMS if _matches(claim, pattern.split(".")[0])]
                sections = (
                    {claim.id.split(".")[0] for claim in CLAIMS}
                    | {"paper", *KINDS}
                    | {f"paper-{s}" for s in PAPER_SECTIONS}
                )
                raise unknown_name("claim", pattern, section or sections)
        chosen = [
            claim for claim in CLAIMS if any(_matches(claim, pattern) for pattern in patterns)
        ]
    return chosen


def _matches(claim: Claim, pattern: str) -> bool:
    names = (
        claim.id,
        claim.id.split(".")[0],
        claim.kind,
        *(["paper", f"paper-{claim.paper}"] if claim.paper else []),
    )
    return pattern in names


# --- Small helpers of the checks ------------------------------------------------------------------


def gap(a: Tensor, b: Tensor) -> Tensor:
    """The largest absolute difference for each prompt: (X, ...) -> (X,)."""
    return (a - b).abs().flatten(1).amax(1)


def excess(a: Tensor, bound: Tensor | float) -> Tensor:
    """By how much a exceeds its bound, 0 where it does not: (X, ...) -> (X,)."""
    return (a - bound).clamp(min=0).flatten(1).amax(1)


def some_policy(world: World) -> Tensor:
    """A policy that has nothing to do with the preferences: pi_ref tilted by a fixed wave.  (X,
    Y).
    """
    wave = torch.sin(3.0 * torch.arange(world.ref.numel(), dtype=world.ref.dtype)).view_as(
        world.ref
    )
    return rlhf.tilt(world.ref, wave)


def some_log_ratios(world: World, gen: Generator | None = None) -> Tensor:
    """Log-ratios on both sides of zero, (X, Y), below the bound at which ``gen`` continues along
    its tangents."""
    f = (some_policy(world) / world.ref).log() * 2
    return f if gen is None else f.clamp(max=math.log(gen.max_ratio))


def every_generator() -> list[Generator]:
    """All named generators, one of the power family between them, and one known only as a Python
    function.
    """
    return [
        *GENERATORS.values(),
        power(0.5),
        Generator.from_function(lambda r: (r - 1) ** 2 / (r + 1), name="triangular"),
    ]


def over_generators(check: Callable[[World, Generator], Tensor]) -> Check:
    """The worst residual over ``every_generator``; as a decorator it keeps the statement."""

    def worst(world: World) -> Tensor:
        return torch.stack([check(world, gen) for gen in every_generator()]).amax(0)

    worst.__doc__ = check.__doc__
    worst.__module__ = check.__module__  # the module whose claim it is
    return worst


def minimize(world: World, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """The policy (X, Y) that minimizes ``objective(policy)`` over the full tabular class."""
    logits = newton(lambda logits: objective(torch.softmax(logits, -1)), initial_logits(world))
    return torch.softmax(logits, -1)


def wrapped(text: str, first: str, then: str) -> str:
    """Text no wider than a notebook's page, with an indent of its first line and of the others."""
    return textwrap.fill(text, 88, initial_indent=first, subsequent_indent=then)


def report(*patterns: str, seeds: int = 20) -> None:
    """Run claims and print them, for notebooks: each statement, then what became of it.

    >>> report("1.bound", "4.lsif-published")
    Imitating chosen responses at most doubles a probability: π_chosen/π_ref ≤ 2.
      ✓ 1.bound holds: residual below 1e-09 on 20 random worlds
    DIL with LSIF as published (rejected responses for samples of π_ref) has its optimum at
    π_chosen.
      ✗ 4.lsif-published fails as published: off by at least 0.038
      Correction: holds with the mixture of both responses in the denominator.
    """
    for result in run(select(*patterns), range(seeds)):
        claim = result.claim
        print(wrapped(plain(claim.statement), "", ""))
        if not result.as_recorded:
            found = (
                f"{result.verdict}, recorded: {claim.verdict}; residual {result.residual:.1e}, "
                f"tolerance {claim.tolerance:.0e}"
            )
        elif claim.verdict == HOLDS:
            found = f"holds: residual below {claim.tolerance:.0e} on {seeds} random worlds"
        elif claim.verdict == ASSUMES:
            found = f"holds under an assumption, else off by at least {result.size:.2g}"
        else:
            found = f"{claim.verdict}: off by at least {result.size:.2g}"
        print(wrapped(f"{result.mark} {claim.id} {found}", "  ", "    "))
        if claim.note:
            word = "Correction" if claim.fails else "If"
            print(wrapped(f"{word}: {plain(claim.note)}.", "  ", "    "))
