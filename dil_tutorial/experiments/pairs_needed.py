r"""How many pairs do I need?  ``dil plan-pairs FILE``: from a preference file alone (THEORY §12).

A loss's expected KL to pi_chosen is, to first order, ``share`` times d/(2 n): n pairs, d free
parameters, and SFT's share is 1.  For many responses a corrected loss has 1/2, whatever the labels:
B = 2(1 - w), its diagonal over SFT's, has mean 1, and half of it counts.  That half splits into the
noise of labels, which is the bound's, and the noise of who met whom, which is what soft labels
leave (claim 12.split).  Two moments, which pairs show without any model of them, say how:

    E[w^2]  two pairs share the response y, each with its own opponent: both are won with chance w(y)^2
    E[P^2]  one pair labeled twice is won twice by the same side with chance P^2

    rho = (Var P - Var w)/(1/4 - Var w),        soft labels rho/2,   the bound (1 - rho)/2

E[w(1 - w)] = 1/4 - Var w being all the noise of a win, of which Var P - Var w comes from opponents
(THEORY §12.4).  This takes the split to be alike for all responses.  Where the file does not show a
moment, what can be said is 2 Var w <= Var P <= 1/4: the best u(y) - u(y') for P - 1/2 has the
variance 2 Var w.  Where few responses were compared many times (a bandit), each prompt is a world
itself, counted, and ``toy.efficiency`` knows its costs without these roundings.
"""  # noqa: E501

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.real_pairs.measures import calibration
from dil_tutorial.llm.data import ACROSS
from dil_tutorial.losses import make_loss
from dil_tutorial.support import plotting
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.intervals import bootstrap
from toy import World, efficiency
from toy.budget import pairs_needed

OFTEN = (
    10  # meetings of every two responses of a prompt, from which on their counts are taken for P
)
FEW = 20  # responses, or pairs, that must recur before anything is said of their spread
CORRECTED = ("BCE", "UKL", "LSIF", "win")


@dataclass(frozen=True)
class Bouts:
    """Pairs as numbers: who met whom, and the chance (or the label, 0 or 1) that the first won.
    All (n,).

    Responses are numbered over all prompts, so ``prompt`` of each of them is ``home``, (Y,).
    """

    first: Tensor
    second: Tensor
    p: Tensor
    home: Tensor

    def prompts(self) -> Tensor:
        """Of each pair, (n,)."""
        return self.home[self.first]


def bouts_of(pairs: Sequence[dict[str, Any]]) -> Bouts:
    """Pairs of a file as numbers; equal texts to one prompt are one response.

    >>> rows = [("x", "a", "b"), ("x", "c", "a"), ("z", "a", "b")]
    >>> bouts_of([{"prompt": x, "chosen": w, "rejected": l} for x, w, l in rows])
    Bouts(first=tensor([0, 2, 3]), second=tensor([1, 0, 4]), p=tensor([1., 1., 1.], dtype=torch.float64),
          home=tensor([0, 0, 0, 1, 1]))
    """  # noqa: E501
    prompts: dict[str, int] = {}
    responses: dict[tuple[int, str], int] = {}
    sides: list[list[int]] = [[], []]
    for pair in pairs:
        if "rejected" not in pair or ACROSS in pair:
            raise InputError(
                "some rows are no two responses to one prompt: plan-pairs needs pairs, 'chosen' "
                "and 'rejected' to one 'prompt'"
            )
        x = prompts.setdefault(str(pair["prompt"]), len(prompts))
        for side, field in zip(sides, ("chosen", "rejected"), strict=True):
            side.append(responses.setdefault((x, str(pair[field])), len(responses)))
    p = torch.tensor([pair.get("p_chosen", 1.0) for pair in pairs], dtype=torch.float64)
    return Bouts(
        torch.tensor(sides[0]), torch.tensor(sides[1]), p, torch.tensor([x for x, _ in responses])
    )


# --- Moments --------------------------------------------------------------------------------------


def recurring(key: Tensor, won: Tensor, home: Tensor) -> dict[str, Any] | None:
    """The variance over keys of the chance to win, from labels that share a ``key`` (n,); None
    where fewer than ``FEW`` do.

    The mean of a b over two labels a, b of one key, less the squared mean of a: no label is
    squared, so the labels' own noise stays out.  Keys count as often as they occur; ``won`` (0, 1
    or a probability) and ``home``, the prompt, are (n,), too.

    >>> key, won = torch.arange(40).repeat_interleave(2), torch.tensor([1.0, 1, 0, 0] * 20).double()
    >>> recurring(key, won, torch.arange(80) // 4)  # two coins that are sure of themselves
    {'variance': [0.25, 0.25, 0.25], 'mean': [0.5, 0.5, 0.5], 'recur': 40}
    """
    _, key = key.unique(return_inverse=True)
    times = torch.bincount(key)
    total = torch.zeros(len(times), dtype=won.dtype).scatter_add_(0, key, won)
    squares = torch.zeros(len(times), dtype=won.dtype).scatter_add_(0, key, won**2)
    # times the mean of a b over ordered couples of labels
    product = (total**2 - squares) / (times - 1).clamp(min=1)
    where = torch.zeros_like(times).scatter_(0, key, home)
    recurs = times > 1
    if int(recurs.sum()) < FEW:
        return None
    sums = torch.zeros(3, int(home.max()) + 1, dtype=won.dtype)
    for row, value in zip(sums, (product, total, times.to(won.dtype)), strict=True):
        row.scatter_add_(0, where[recurs], value[recurs])
    sums = sums[:, sums[2] > 0]  # over prompts

    def mean(parts: Tensor, dim: int) -> Tensor:
        return parts[1].sum(dim) / parts[2].sum(dim)

    def variance(parts: Tensor, dim: int) -> Tensor:
        return parts[0].sum(dim) / parts[2].sum(dim) - mean(parts, dim) ** 2

    return {
        "variance": bootstrap(sums, variance),
        "mean": bootstrap(sums, mean),
        "recur": int(recurs.sum()),
    }


def spread(bouts: Bouts) -> dict[str, Any]:
    """What a file shows of its labels.

    ==================  ============================================================================
    Key                 Meaning
    ==================  ============================================================================
    Var w               [value, low, high] of the spread of win rates, from responses that recur;
                        None where too few do
    those that recur    [value, low, high], how often these won: if not 1/2, they are not like the
                        others
    recur               how many did
    Var P               [value, low, high] of the spread of a pair's chance: from p_chosen or pairs
                        labeled twice; or None
    ties                share of pairs with p_chosen = 1/2
    ==================  ============================================================================

    >>> rows = [("a", "b"), ("a", "c"), ("c", "b"), ("a", "b")]
    >>> spread(bouts_of([{"prompt": "x", "chosen": w, "rejected": l} for w, l in rows]))[
    ...     "Var w"
    ... ]  # too few
    """
    first, second, home = bouts.first, bouts.second, bouts.prompts()
    p = torch.where(first == second, 0.5, bouts.p)  # of two equal responses neither wins
    both_sides = torch.cat([p, 1 - p]), torch.cat([home, home])
    w = recurring(torch.cat([first, second]), *both_sides)
    if bool(((bouts.p > 0) & (bouts.p < 1)).any()):
        P: dict[str, Any] | None = {
            "variance": [value - 0.25 for value in bootstrap((p**2 + (1 - p) ** 2) / 2)]
        }
    else:
        other = (first != second).nonzero().squeeze(1)
        a, b, won, where = first[other], second[other], p[other], home[other]
        met = torch.minimum(a, b) * len(bouts.home) + torch.maximum(a, b)
        P = recurring(
            torch.cat([2 * met + (a > b), 2 * met + (a < b)]),
            torch.cat([won, 1 - won]),
            torch.cat([where, where]),
        )
        if P:  # of a response and itself the chance is 1/2, without labels
            P["variance"] = [value * len(other) / len(p) for value in P["variance"]]
    return {
        "Var w": w and w["variance"],
        "those that recur": w and w["mean"],
        "recur": w["recur"] if w else 0,
        "Var P": P and P["variance"],
        "ties": float((bouts.p == 0.5).double().mean()),
    }


def shares(w: list[float] | None, P: list[float] | None) -> dict[str, tuple[float, float]]:
    """The least and the most of SFT's pairs that each way needs, from Var w and Var P, as far as
    they are known.

    >>> shares([0.05], [0.15])["the bound"], shares([0.05], [0.15])["a corrected loss, soft labels"]
    ((0.25, 0.25), (0.25, 0.25))
    >>> shares([0.05], None)["the bound"], shares(None, None)["a corrected loss"]
    ((0.0, 0.375), (0.5, 0.5))
    """
    known_P = None if P is None else min(max(P[0], 0.0), 0.25)
    most_w = 0.125 if known_P is None else known_P / 2  # 2 Var w <= Var P
    low_w, high_w = (0.0, most_w) if w is None else (min(max(w[0], 0.0), most_w),) * 2

    def rho(of_w: float, of_P: float) -> float:
        return (of_P - of_w) / (0.25 - of_w)

    # rho falls with Var w, rises with Var P, and along Var P = 2 Var w rises with both.
    least = rho(low_w, 2 * low_w) if known_P is None else rho(high_w, known_P)
    most = rho(low_w, 0.25 if known_P is None else known_P)
    return {
        "SFT": (1.0, 1.0),
        "a corrected loss": (0.5, 0.5),
        "a corrected loss, soft labels": (round(least / 2, 4), round(most / 2, 4)),
        "the bound": (round((1 - most) / 2, 4), round((1 - least) / 2, 4)),
    }


# --- Worlds that were counted ---------------------------------------------------------------------


def counted(bouts: Bouts) -> list[World] | None:
    """Each prompt as a world, where all responses of every prompt met each other ``OFTEN``;
    otherwise None.
    """
    worlds = []
    for x in range(int(bouts.home.max()) + 1):
        here, ids = bouts.prompts() == x, (bouts.home == x).nonzero().squeeze(1)
        Y, start = len(ids), {int(y): place for place, y in enumerate(ids)}
        if Y > 64 or int(here.sum()) < OFTEN * Y * (Y - 1) / 2:
            return None
        first = torch.tensor([start[int(y)] for y in bouts.first[here]])
        second = torch.tensor([start[int(y)] for y in bouts.second[here]])
        wins = torch.zeros(Y, Y, dtype=torch.float64)
        wins.index_put_((first, second), bouts.p[here], accumulate=True)
        wins.index_put_((second, first), 1 - bouts.p[here], accumulate=True)
        met = wins + wins.T
        if int((met + met.diagonal().diag_embed() + torch.eye(Y) * OFTEN).min()) < OFTEN / 2:
            return None
        P = (wins + 0.5) / (met + 1)  # half a win to each, so that no chance is nought
        worlds.append(World(met.sum(1) / met.sum(), P))
    return worlds


def costs(world: World, kl: float) -> dict[str, float]:
    """Pairs until the expected KL to pi_chosen is ``kl``, by each way, for a world of one prompt.

    >>> found = costs(World.random([0]), 0.01)
    >>> [
    ...     round(found[name])
    ...     for name in ("SFT", "DIL win corrected", "DIL win corrected, soft labels", "the bound")
    ... ]
    [250, 146, 15, 131]
    >>> found["DIL BCE published"]  # its bias is more
    inf
    """
    of_ratio = world.ref.unsqueeze(2) * world.ref.unsqueeze(1)
    forms = {"SFT": efficiency.counted(world)}
    forms |= {f"DIL {h} corrected": efficiency.corrected(world, h.lower()) for h in CORRECTED}
    forms |= {"DIL win corrected, soft labels": efficiency.corrected(world, "win", soft=True)}
    forms |= {"the bound": efficiency.tournament(world)}
    Y = world.ref.shape[1]
    pair_counts = {
        name: (efficiency.error(world.chosen, part * of_ratio) * (Y - 1) / (2 * kl)).item()
        for name, part in forms.items()
    }
    for h in ("BCE", "UKL", "LSIF"):
        loss = make_loss("dil", generator=h.lower(), denominator="rejected")
        pair_counts[f"DIL {h} published"] = pairs_needed(world, loss, kl).item()
    return pair_counts


# --- What the command says ------------------------------------------------------------------------


def slope_of_judge(bouts: Bouts) -> list[float] | None:
    """The a for which sigma(a logit p_chosen) fits who was written down as chosen, with its 95%
    interval: 1 is calibrated.

    Less is an overconfident judge.  None where 'chosen' never is the side that p_chosen
    holds less likely: then the judge named it.

    >>> rows = [
    ...     {"prompt": "x", "chosen": "a", "rejected": "b", "p_chosen": p}
    ...     for p in [0.9] * 3 + [0.1]
    ... ]
    >>> [round(a, 2) for a in slope_of_judge(bouts_of(rows))]  # 3 of 4 where it said 9 of 10
    [0.5, -0.53, 1.53]
    """
    odds = torch.logit(bouts.p[(bouts.p > 0) & (bouts.p < 1)])
    if not bool((odds < 0).any()) or not bool((odds > 0).any()):
        return None
    a = calibration(odds)
    information = (odds**2 * torch.sigmoid(a * odds) * torch.sigmoid(-a * odds)).sum()
    reach = 1.96 / float(information.sqrt())
    return [a, a - reach, a + reach]


def parameters_of(pilot: str) -> float:
    """Free parameters from a pilot "PAIRS:GAP": SFT on so many pairs left the chosen f so much
    higher on them than on others.

    A maximum of likelihood fits its own d-parameter noise: the gap is d/n (Akaike).

    >>> parameters_of("2000:0.05")
    100.0
    """
    try:
        pairs, gap = map(float, pilot.split(":"))
    except ValueError:
        raise InputError(f"--pilot is {pilot!r}: give PAIRS:GAP, for example 2000:0.05") from None
    if not pairs * gap > 0:
        raise InputError(
            f"--pilot is {pilot!r}: a gap of {gap:g} says nothing of parameters: give one above "
            "0 nats"
        )
    return pairs * gap


def plan(bouts: Bouts, kl: float, parameters: float | None = None) -> dict[str, Any]:
    """What the file shows, and by each way the pairs that an expected KL of ``kl`` nats to
    pi_chosen takes: [least, most].

    ==================  ============================================================================
    Key                 Meaning
    ==================  ============================================================================
    pairs, prompts      how many
    responses           different ones
    met                 labels a response, on average
    uneven              how many times more pairs a table needs than were they spread evenly over
                        prompts
    Var w, ...          ``spread``
    judge               ``slope_of_judge``
    counted             whether each prompt could be taken as a world
    needed              {way: [least, most]} pairs for all prompts; for each free parameter where
                        their number is not known
    parameters          free parameters: one less than responses, a prompt, where prompts were
                        counted
    ==================  ============================================================================

    >>> rows = [("a", "b"), ("a", "c"), ("c", "b"), ("a", "b")]
    >>> plan(
    ...     bouts_of([{"prompt": "x", "chosen": w, "rejected": l} for w, l in rows]),
    ...     0.01,
    ...     parameters=10,
    ... )["needed"]["SFT"]
    [500.0, 500.0]
    """
    if kl <= 0 or (parameters is not None and parameters <= 0):
        raise InputError(f"kl {kl:g}, parameters {parameters}: give numbers above 0")
    each = torch.bincount(bouts.prompts()).double()
    variances = spread(bouts)
    worlds = None if parameters is not None else counted(bouts)
    if worlds is None:
        d = parameters or 1.0
        parts = shares(variances["Var w"], variances["Var P"])
        needed = {
            method: [share * d / (2 * kl) for share in both] for method, both in parts.items()
        }
    else:
        d = float(sum(world.ref.shape[1] - 1 for world in worlds))
        rows = [costs(world, kl) for world in worlds]
        needed = {method: [sum(row[method] for row in rows)] * 2 for method in rows[0]}
    return {
        "kl": kl,
        "pairs": len(bouts.p),
        "prompts": len(each),
        "responses": len(bouts.home),
        "met": 2 * len(bouts.p) / len(bouts.home),
        "uneven": float(each.mean() * (1 / each).mean()),
        **variances,
        "judge": slope_of_judge(bouts),
        "counted": worlds is not None,
        "parameters": d if worlds or parameters else None,
        "needed": needed,
    }


def row_of(needed: tuple[float, float], sft: float) -> tuple[str, str]:
    """Pairs, and their share of SFT's, as texts: one number, or the least and the most.

    >>> (
    ...     row_of((25.0, 50.0), 100.0),
    ...     row_of((50.0, 50.0), 100.0),
    ...     row_of((torch.inf, torch.inf), 100.0),
    ... )
    (('25–50', '0.25–0.50'), ('50', '0.50'), ('never: it ends elsewhere', '–'))
    """
    if needed[0] == float("inf"):
        return "never: it ends elsewhere", "–"
    ends = needed if needed[1] > needed[0] else needed[:1]
    return "–".join(f"{n:,.0f}" for n in ends), "–".join(f"{n / sft:.2f}" for n in ends)


def figure(pair_plan: dict[str, Any]) -> Figure:
    """Pairs against the KL that they reach, by each way; the file's own number of pairs as a
    line.
    """
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4)
    reached = torch.logspace(-1, 1, 20) * pair_plan["kl"]
    ranges = {
        method: both for method, both in pair_plan["needed"].items() if both[0] < float("inf")
    }
    for place, (method, (least, most)) in enumerate(ranges.items()):
        color, scale = plotting.COLORS[place % len(plotting.COLORS)], pair_plan["kl"] / reached
        if most > least:  # where the file leaves it open
            axes.fill_between(
                reached,
                least * scale,
                most * scale,
                facecolor=color,
                alpha=0.2,
                lw=0,
                label=f"{method}: in here",
            )
        else:
            axes.plot(
                reached,
                most * scale,
                color=color,
                marker=plotting.MARKERS[place % len(plotting.MARKERS)],
                ms=3,
                label=method,
            )
    if pair_plan["parameters"]:
        axes.axhline(pair_plan["pairs"], color="black", lw=0.8, ls=":")
        axes.annotate(
            "this file",
            (float(reached[0]), pair_plan["pairs"]),
            fontsize=8,
            xytext=(2, 2),
            textcoords="offset points",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="expected KL to $\\pi_{chosen}$, nats",
        ylabel="pairs" if pair_plan["parameters"] else "pairs a free parameter",
    )
    axes.legend(frameon=False, fontsize=8)
    return drawn


def save(pair_plan: dict[str, Any], folder: Path) -> list[Path]:
    """``plan_pairs.json`` and the figure, in ``folder``."""
    path = folder / "plan_pairs.json"
    needed = {
        method: [n if n < float("inf") else None for n in both]
        for method, both in pair_plan["needed"].items()
    }
    write_json(path, {**provenance(), **pair_plan, "needed": needed})
    return [path, *plotting.save(figure(pair_plan), folder / "plan_pairs")]
