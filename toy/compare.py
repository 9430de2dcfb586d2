r"""Every loss side by side: its objective, where it ends, what it needs, how hard one pair can pull (THEORY §5).

What a loss needs and how its gradient grows is computed from the loss, not typed; its optimum comes from ``optima`` or, where
there is no closed form, from a search.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.bregman import derivative
from dil_tutorial.losses import BoundLoss, Loss, bound, make_loss
from dil_tutorial.rlhf import kl
from toy import optima
from toy.catalogue import LOSSES
from toy.fit import search
from toy.worlds import World

Optimum = Callable[[World], Tensor]


@dataclass(frozen=True)
class Entry:
    """A loss of the catalogue; ``bt`` and ``any_preference`` are its optimum in LaTeX, ``optimum`` computes it.

    >>> [entry.label for entry in ENTRIES if entry.runs_off]
    ['DPO, β 1', 'f-DPO Jensen–Shannon, β 1', 'SimPO, β 2, γ 1']
    """

    name: str  # in ``catalogue.LOSSES``
    objective: str
    bt: str
    any_preference: str
    optimum: Optimum | None = None  # None: searched for
    runs_off: bool = field(default=False)  # no finite optimum where some label is certain

    @property
    def label(self) -> str:
        return LOSSES[self.name].described

    @property
    def loss(self) -> BoundLoss:
        return LOSSES[self.name].loss

    def policy(self, world: World) -> Tensor | None:
        """The optimal policies (X, Y); None where there is no finite optimum."""
        if self.runs_off:
            off_diagonal = ~torch.eye(world.ref.shape[1], dtype=torch.bool)
            if ((world.preference == 0) & off_diagonal).any():
                return None
        return search(world, self.loss) if self.optimum is None else self.optimum(world)


def dpo_optimum(world: World) -> Tensor:
    """exp(R) tilt under Bradley–Terry; otherwise the Bradley–Terry projection, searched for."""
    transitive = world.reward is not None and not world.hard
    return optima.rlhf(world, 1.0) if transitive else search(world, make_loss("dpo", beta=1.0), starts=2)


CHOSEN = r"$\pi_\text{ref}(1+t)$"
SAME = "the same"
NUMERIC = "numerical"
ENTRIES = [
    Entry("SFT", r"$-f_w$", CHOSEN, SAME, lambda w: w.chosen),
    Entry("DIL LSIF repaired", r"$-r_w + \frac14(r_w^2 + r_l^2)$", CHOSEN, SAME, lambda w: optima.dil(w, "lsif", "mixture")),
    Entry("DIL UKL repaired", r"$-f_w + \frac12(r_w + r_l)$", CHOSEN, SAME, lambda w: optima.dil(w, "ukl", "mixture")),
    Entry("DIL BCE repaired", r"$-\log\sigma(f_w) - \frac12\log\sigma(-f_w) - \frac12\log\sigma(-f_l)$",
          CHOSEN, SAME, lambda w: optima.dil(w, "bce", "mixture")),
    Entry("DIL LSIF published", r"$-r_w + \frac12 r_l^2$", r"$\pi_\text{ref}\max(A-\lambda,0)/B$", SAME,
          lambda w: optima.dil(w, "lsif", "rejected")),
    Entry("DIL UKL published", r"$-f_w + r_l$", r"$\pi_\text{ref}\,A/(B+\lambda)$", SAME,
          lambda w: optima.dil(w, "ukl", "rejected")),
    Entry("DIL BCE published", r"$-\log\sigma(f_w) - \log\sigma(-f_l)$",
          r"$\pi_\text{ref}\,r$, $\lambda r^2 + (B+\lambda)r = A$", SAME, lambda w: optima.dil(w, "bce", "rejected")),
    Entry("DPO", r"$-\log\sigma(\beta(f_w - f_l))$", r"$\pi_\text{ref}\,e^{R/\beta}/Z$",
          "Bradley–Terry with the same $w$", dpo_optimum, runs_off=True),
    Entry("f-DPO Jensen–Shannon", r"$-\log\sigma(\beta(h'(r_w) - h'(r_l)))$", r"$\beta h'(r) = R - \lambda$", NUMERIC,
          lambda w: optima.f_dpo(w, "bce", 1.0) if w.reward is not None and not w.hard
          else search(w, make_loss("f-dpo", generator="bce", beta=1.0)), runs_off=True),
    Entry("IPO", r"$(f_w - f_l - \frac{1}{2\tau})^2$", r"$\pi_\text{ref}\,e^{w/\tau}/Z$", SAME, lambda w: optima.ipo(w, 0.5)),
    Entry("SPPO", r"$(f_w - \frac{1}{2\beta})^2 + (f_l + \frac{1}{2\beta})^2$",
          r"$f + \lambda e^f = t/(2\beta)$", SAME, lambda w: optima.sppo(w, 0.5)),
    Entry("KTO", r"$\sigma(z - \beta f_w) + \sigma(\beta f_l - z)$",
          r"0 where $t \le 0$, else $t\,\sigma'(\beta f - z) = \lambda e^f$", SAME, lambda w: optima.kto(w, 0.1)),
    Entry("SimPO", r"$-\log\sigma(\beta(\bar\ell_w - \bar\ell_l) - \gamma)$",
          r"numerical ($e^{R/\beta}/Z$ for $\gamma = 0$)", NUMERIC, runs_off=True),
    Entry("SLiC", r"$\max(0, \delta - \ell_w + \ell_l) - 0.1\,\ell_w$",
          "numerical, with kinks", NUMERIC, lambda w: optima.slic(w, 1.0, 0.1)),
    Entry("CPO", r"$-\log\sigma(\beta(\ell_w - \ell_l)) - \ell_w$", NUMERIC, NUMERIC),
    Entry("ORPO", r"$-\bar\ell_w - 0.1\log\sigma(\log\text{odds}_w - \log\text{odds}_l)$", NUMERIC, NUMERIC),
]  # fmt: skip


def needs_pairs(loss: Loss) -> bool:
    """Whether the loss looks at winner and loser together."""
    return not (bound(loss).unpaired or bound(loss).needs_reference_samples)


def needs_reference(loss: Loss) -> bool:
    """Whether pi_ref's log-probabilities enter the gradient: no for reference-free losses, nor where the slope in f is constant (SFT)."""
    if bound(loss).reference_free:
        return False
    f = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    return pull(loss, f).diff().abs().max().item() > 1e-12


def pull(loss: Loss, f: Tensor) -> Tensor:
    """The gradient of one pair in (f_w, f_l) at (f, -f) and (-f, f), stacked: (N,) -> (4, N)."""
    if bound(loss).reference_free:  # log-probabilities: f at most 0
        pairs = [(-f.abs(), torch.zeros_like(f) - 0.1), (torch.zeros_like(f) - 0.1, -f.abs())]
    else:
        pairs = [(f, -f), (-f, f)]
    slopes = []
    for f_w, f_l in pairs:
        slopes += [derivative(lambda x, f_l=f_l: loss(x, f_l), f_w), derivative(lambda x, f_w=f_w: loss(f_w, x), f_l)]  # type: ignore[misc]
    return torch.stack(slopes)


def gradient_growth(loss: Loss) -> str:
    """How one pair's pull grows with the size of f: "bounded", "linear" or "exponential", measured at 12 and 24.

    >>> [gradient_growth(make_loss(name)) for name in ("dpo", "ipo", "dil")]
    ['bounded', 'linear', 'exponential']
    """
    sizes = pull(loss, torch.tensor([12.0, 24.0], dtype=torch.float64)).abs().amax(0)
    growth = (sizes[1] / sizes[0]).item()
    return "bounded" if growth < 1.2 else "linear" if growth < 3 else "exponential"


def table(world: World, game: World) -> list[dict[str, Any]]:
    """One row a loss: its formulas, its needs, and its optimum in a Bradley–Terry ``world`` and a non-transitive ``game``.

    >>> from toy.gallery import bandit, rock_paper_scissors
    >>> rows = table(bandit(), rock_paper_scissors())
    >>> len(rows), sorted(rows[0])
    (16, ['KL to RLHF', 'KL to pi_chosen', 'game', 'gradient', 'loss', 'needs a reference', 'needs pairs', 'objective', 'optimum', 'optimum without transitivity', 'reward'])
    """
    rows = []
    for entry in ENTRIES:
        policy, played = entry.policy(world), entry.policy(game)
        assert policy is not None
        assert played is not None
        rows.append(
            {
                "loss": entry.label,
                "objective": entry.objective,
                "optimum": entry.bt,
                "optimum without transitivity": entry.any_preference,
                "needs pairs": needs_pairs(entry.loss),
                "needs a reference": needs_reference(entry.loss),
                "gradient": gradient_growth(entry.loss),
                "KL to pi_chosen": kl(policy, world.chosen)[0].item(),
                "KL to RLHF": kl(policy, optima.rlhf(world, 1.0))[0].item(),
                "reward": (policy * world.true_reward).sum(1)[0].item(),
                "game": played[0].tolist(),
            }
        )
    return rows
