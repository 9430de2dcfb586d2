"""What the runs on whole sentences say, computed from ``real_text.json``: log-ratios, KL, reward,
and the texts' own measures.

Means over pi_chosen and pi_rejected are means over pi_ref's samples y, weighed by 1 + t(y) and 1 -
t(y) (THEORY §10).  The chosen log-ratio has a meaning of its own (THEORY §1):

    E_chosen[f] = KL(pi_chosen || pi_ref) - KL(pi_chosen || pi_theta),

how much closer to the chosen distribution the policy is than the reference.  It is negative where
training has moved the policy further away, and never above KL(pi_chosen || pi_ref)."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.known_truth.measures import Truth, predicted, regress, stacked
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support.files import read_json, write_text
from dil_tutorial.support.intervals import bootstrap
from dil_tutorial.support.paths import BENCHMARKS

Results = dict[str, Any]
COMMITTED = BENCHMARKS / "real_text.json"
SECOND = BENCHMARKS / "real_text_gemma.json"  # a smaller copy, on another family
PARTS = {"preset", "losses", "truth", "reference", "sweep", "runs"}


def save(results: Results, folder: Path) -> Path:
    """``real_text.json`` in ``folder``."""
    path = folder / "real_text.json"
    write_text(path, json.dumps(results, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Results:
    """The results of a ``real_text.json``."""
    results = read_json(path)
    if not isinstance(results, dict) or not results.keys() >= PARTS:
        raise InputError(
            f"{path}: not a results file of dil experiment real-text: run that command"
        )
    return results


def weighed(f: Tensor, weight: Tensor) -> Tensor:
    """Mean over a prompt's samples of f (..., X, K) under the distribution pi_ref x ``weight`` (X,
    K): (..., X).

    >>> weighed(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 1.5]]))
    tensor([0.])
    """
    return with_control_variate(f * weight, f)


def with_control_variate(values: Tensor, f: Tensor) -> Tensor:
    """Mean of values (..., X, K) over a prompt's samples, less what chance made of E_ref[e^f - 1],
    which is 0: (..., X).

    Every policy is normalized, so this is a control variate; its coefficient leaves the least
    variance.  Where the samples miss what the policy writes, the mean of e^f - 1 is many standard
    errors from 0, and nothing can be taken off.

    >>> with_control_variate(
    ...     torch.tensor([[0.5, -0.5, 1.0]]).expm1(), torch.tensor([[0.5, -0.5, 1.0]])
    ... ).abs() < 1e-6
    tensor([True])
    """
    control = f.expm1()
    spread = control.var(correction=0)
    if control.mean().abs() >= 4 * (spread / control.numel()).sqrt():
        return values.mean(-1)
    coefficient = (values * (control - control.mean())).mean() / spread
    return (values - coefficient * control).mean(-1)


SCALES = torch.linspace(0, 2, 41, dtype=torch.float64)


def best_interpolation(f: Tensor, weight: Tensor) -> tuple[float, list[float]]:
    """How far to go towards the policy: a of pi_ref^(1-a) pi_theta^a / Z with the greatest E_chosen
    of its log-ratio, and that mean.

    E_chosen[log pi_a/pi_ref] = a E_chosen[f] - E log E_ref[e^(af)] >= a E_chosen[f] - E_ref[e^(af)
    - 1], which is what is given, with its interval; a is chosen on one half of the prompts for the
    other.  f is (S, X, K), the weight 1 + t, (X, K).

    >>> t = torch.tensor([[0.5, -0.5]] * 4).double()
    >>> scale, (value, _, _) = best_interpolation(
    ...     3 * t.log1p()[None], 1 + t
    ... )  # thrice as far as pi_chosen
    >>> round(scale, 2), bool(value > 0)
    (0.35, True)
    """
    # (A, X)
    values = torch.stack(
        [with_control_variate(a * f * weight - (a * f).expm1(), f).mean(0) for a in SCALES]
    )
    estimates = torch.empty(values.shape[1], dtype=torch.float64)
    for own, other in (
        (slice(0, None, 2), slice(1, None, 2)),
        (slice(1, None, 2), slice(0, None, 2)),
    ):
        estimates[own] = values[values[:, other].mean(1).argmax(), own]
    return SCALES[values.mean(1).argmax()].item(), bootstrap(estimates)


def bayes_accuracy(f: Tensor) -> Tensor:
    """How often the best conceivable judge, shown a text of each, says which one is the policy's:
    (..., X) from f (..., X, M).

    It takes the text with the larger f.  From pi_ref's samples y, y': 1/2 + E|e^f(y) - e^f(y')|/4.

    >>> bayes_accuracy(torch.tensor([[1.5, 0.5]]).log())
    tensor([0.7500])
    """
    ratio = f.exp()
    M = f.shape[-1]
    apart = (ratio.unsqueeze(-1) - ratio.unsqueeze(-2)).abs().sum((-2, -1)) / (M * (M - 1))
    return 0.5 + apart / 4


REACH = 0.05


def reach(f: Tensor) -> float:
    """The effective share of samples under weights e^f, of all f given: 1 where f is 0, 1/N where
    one of N outweighs all.

    >>> reach(torch.zeros(5)), round(reach(torch.tensor([0.0, 0.0, 0.0, 50.0])), 2)
    (1.0, 0.25)
    """
    weight = (f - f.max()).exp()
    return (weight.sum() ** 2 / (weight**2).sum() / weight.numel()).item()


def measures(rows: list[dict[str, Any]], truth: Truth, before: Tensor) -> dict[str, Any]:
    """Everything about the runs of one loss (one a seed) on held-out prompts, with 95% intervals
    over prompts.

    ======================  ========================================================================
    Key                     Meaning
    ======================  ========================================================================
    slope, correlation      of f on log(1 + t); slope 1: imitates pi_chosen
    chosen, rejected        E[f] under pi_chosen and pi_rejected, nats
    best interpolation      the a of pi_ref^(1-a) pi_theta^a with the greatest E_chosen of its
                            log-ratio, and that mean
    KL                      KL(pi_theta || pi_ref) from pi_ref's samples, reweighed: E_ref[f e^f -
                            e^f + 1]
    mean ratio              E_ref[e^f], 1 for every normalized policy
    reach                   share of pi_ref's samples that a mean weighed by e^f is worth, (sum
                            e^f)^2/sum e^2f over their number;
                            below ``REACH`` they say nothing of what the policy writes: no KL, gain,
                            win rate or judge
    doubled                 share of pi_ref's responses that the policy makes more than twice as
                            probable; pi_chosen: none
    Bayes accuracy              how often the best conceivable judge knows which of two texts is the
                            policy's; 1/2: never
    gain, win rate          expected reward beyond pi_ref's, nats, and how often the policy beats
                            pi_ref by the labeler's P:
                            from pi_ref's samples, weighed by e^f
    own gain                the first of them from texts that the policy wrote with the random
                            numbers of
                            pi_ref's, whose rewards are
                            ``before``, (X, 1)
    tokens, repetition      length of own responses; share of their word pairs that came before in
                            the same response
    perplexity              on unrelated paragraphs
    ======================  ========================================================================
    """
    f = stacked(rows, "f held-out")  # (S, X, M)
    M = f.shape[2]
    t, x = truth.world.advantage[:, :M], truth.log_ratio[:, :M].clamp(min=-5)
    above = (truth.reward - truth.reward.mean(1, keepdim=True))[:, :M]
    own = stacked(rows, "own reward").mean(0)
    return {
        **{name: value for name, value in regress(x, f).items() if name != "intercept"},
        "chosen": bootstrap(weighed(f, 1 + t).mean(0)),
        "rejected": bootstrap(weighed(f, 1 - t).mean(0)),
        "best interpolation": best_interpolation(f, 1 + t),
        "KL": bootstrap(kl_terms(f).mean((0, 2))),
        "Bayes accuracy": bootstrap(bayes_accuracy(f).mean(0)),
        "doubled": (f > math.log(2)).double().mean().item(),
        "reach": reach(f),
        "mean ratio": bootstrap(f.exp().mean((0, 2))),
        "gain": bootstrap((f.expm1() * above).mean((0, 2))),
        "win rate": bootstrap(0.5 + (f.expm1() * t).mean((0, 2)) / 2),
        "own gain": bootstrap((own - before).mean(1)),
        "tokens": sum(
            sum(map(sum, row["own tokens"])) / sum(map(len, row["own tokens"])) for row in rows
        )
        / len(rows),
        "repetition": sum(row["repetition"] for row in rows) / len(rows),
        "perplexity": sum(row["perplexity"] for row in rows) / len(rows),
    }


def targets(truth: Truth) -> dict[str, tuple[float, float, float]]:
    """Where exact policies stand, in the prompts' worlds of K samples: {name: (KL to pi_ref, gain,
    win rate by the labeler's P)}.
    """
    ref, t = truth.world.ref, truth.world.advantage

    def place(policy: Tensor) -> tuple[float, float, float]:
        gain = ((policy - ref) * truth.reward).sum(1).mean().item()
        return kl(policy, ref).mean().item(), gain, 0.5 + (policy * t).sum(1).mean().item() / 2

    named = {
        f"RLHF, beta {beta}": place(rlhf_optimum(ref, truth.reward, beta)) for beta in (16, 8, 4)
    }
    return {
        **named,
        "best of 2": place(best_of_n(ref, truth.reward, 2)),
        "pi_chosen": place(truth.world.chosen),
    }


def repetition(texts: list[str]) -> float:
    """The share of pairs of neighboring words that stood before in the same text.

    >>> repetition(["a b a b", "c d e"])
    0.2
    """
    repeated = count = 0
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        pairs = list(itertools.pairwise(words))
        repeated += len(pairs) - len(set(pairs))
        count += len(pairs)
    return repeated / count if count else 0.0


def summary(results: Results) -> dict[str, Any]:
    """All numbers of the report: by loss, the sweep of learning rates on validation prompts, and
    where exact targets stand.
    """
    held, validation = (Truth.of(results, split) for split in ("held-out", "validation"))
    M = results["preset"]["evaluated"]
    before = torch.tensor(results["reference"]["own reward"], dtype=torch.float64)
    loss_stats: dict[str, Any] = {}
    for loss in dict.fromkeys(row["loss"] for row in results["runs"]):
        rows = [row for row in results["runs"] if row["loss"] == loss]
        target = predicted(results["losses"][loss], rows[0]["reduction"], held)
        alive = target[:, :M] > -30
        x = held.log_ratio[:, :M].clamp(min=-5)
        loss_stats[loss] = {
            "reduction": rows[0]["reduction"],
            "learning rate": rows[0]["learning rate"],
            "seeds": len(rows),
            **measures(rows, held, before),
            "expected slope": regress(x, target[:, :M], alive)["slope"],
        }
    sweep: dict[str, list[dict[str, float]]] = {}
    t, x = validation.world.advantage[:, :M], validation.log_ratio[:, :M].clamp(min=-5)
    for row in results["sweep"]:
        f = torch.tensor(row["f validation"], dtype=torch.float64)
        sweep.setdefault(row["loss"], []).append(
            {
                "learning rate": row["learning rate"],
                "validation loss": row["validation loss"],
                "chosen": weighed(f, 1 + t).mean().item(),
                "rejected": weighed(f, 1 - t).mean().item(),
                "KL": kl_terms(f).mean().item() if reach(f) >= REACH else math.nan,
                "slope": regress(x, f)["slope"][0],
            }
        )
    return {
        "losses": loss_stats,
        "sweep": sweep,
        "marks": targets(held),
        "reference": results["reference"],
    }


def as_text(value: dict[str, Any]) -> list[str]:
    """A row of a table: slope, chosen and rejected log-ratio, KL, gain, win rate."""
    return [
        f"{value[name][0]:.3f}"
        for name in ("slope", "chosen", "rejected", "KL", "gain", "win rate")
    ]
