"""Every loss that the tutorial compares: its label, its settings and its colour, written down once.

A table, a legend and a results file call a loss by its label; so a label, and its colour, mean the same loss everywhere.  DIL's
labels name the generator and what stands for pi_ref: the losers (published), losers and winners (repaired), fresh samples
(reference).  Repaired variants are green and blue, published ones orange and red.
"""

from dataclasses import dataclass
from typing import Any

from dil_tutorial.losses import BoundLoss, make_loss


@dataclass(frozen=True)
class Named:
    """A loss with its settings, as ``make_loss`` takes them, and how figures draw it; ``also`` is another name of it.

    >>> LOSSES["DPO"].settings, LOSSES["DPO"].described
    ({'name': 'dpo', 'beta': 1.0}, 'DPO, β 1')
    >>> LOSSES["DIL BCE repaired"].described
    'DIL BCE repaired = NCA'
    """

    label: str
    settings: dict[str, Any]
    colour: str
    line: str = "-"
    also: str = ""

    @property
    def loss(self) -> BoundLoss:
        return make_loss(**self.settings)

    @property
    def described(self) -> str:
        """The label with the settings that are numbers, and the other name."""
        numbers = [(key, value) for key, value in self.settings.items() if isinstance(value, float)]
        settings = [f"{SYMBOLS[key]} {'1/2' if value == 0.5 else f'{value:g}'}" for key, value in numbers]
        return ", ".join([self.label, *settings]) + (f" = {self.also}" if self.also else "")


SYMBOLS = {"beta": "β", "tau": "τ", "gamma": "γ", "delta": "δ", "weight": "weight", "sft_weight": "weight"}
VARIANTS = {"rejected": "published", "mixture": "repaired", "reference": "reference"}  # a label's word for each denominator


def _dil(generator: str, denominator: str, colour: str, line: str, also: str = "", name: str = "") -> Named:
    label = f"DIL {name or generator.upper()} {VARIANTS[denominator]}"
    return Named(label, {"name": "dil", "generator": generator, "denominator": denominator}, colour, line, also)


LOSSES: dict[str, Named] = {named.label: named for named in [
    Named("SFT", {"name": "sft"}, "#000000"),
    _dil("lsif", "mixture", "#009E73", "-"),
    _dil("ukl", "mixture", "#56B4E9", "--"),
    _dil("bce", "mixture", "#0072B2", ":", "NCA"),
    _dil("lsif", "rejected", "#D55E00", "-"),
    _dil("ukl", "rejected", "#E69F00", "--"),
    _dil("bce", "rejected", "#CC79A7", ":", "BCO, no shift"),
    _dil("lsif", "reference", "#117733", "-"),
    _dil("ukl", "reference", "#88CCEE", "--"),
    _dil("bce", "reference", "#332288", ":"),
    _dil("power(0.5)", "mixture", "#999933", "--", name="power(0.5)"),
    _dil("hellinger", "mixture", "#44AA99", "-.", name="Hellinger"),
    _dil("itakura-saito", "mixture", "#882255", ":", name="Itakura–Saito"),
    Named("NCA", {"name": "nca", "beta": 1.0}, "#0072B2", "-."),
    Named("BCO", {"name": "bco", "beta": 1.0}, "#CC79A7", "-."),
    Named("DPO", {"name": "dpo", "beta": 1.0}, "#8B0000"),
    Named("f-DPO Jensen–Shannon", {"name": "f-dpo", "generator": "bce", "beta": 1.0}, "#8B0000", "--"),
    Named("IPO", {"name": "ipo", "tau": 0.5}, "#7F7F7F", "-."),
    Named("SPPO", {"name": "sppo", "beta": 0.5}, "#7F7F7F", ":"),
    Named("KTO", {"name": "kto", "beta": 0.1}, "#AA4499", "-."),
    Named("SimPO", {"name": "simpo", "beta": 2.0, "gamma": 1.0}, "#B8860B", "-."),
    Named("SLiC", {"name": "slic", "delta": 1.0, "sft_weight": 0.1}, "#B8860B", ":"),
    Named("CPO", {"name": "cpo", "beta": 0.1}, "#B8860B", "--"),
    Named("ORPO", {"name": "orpo", "weight": 0.1}, "#B8860B"),
]}  # fmt: skip


def losses(*labels: str) -> dict[str, BoundLoss]:
    """The losses of some labels, ready to call.

    >>> list(losses("SFT", "DPO"))
    ['SFT', 'DPO']
    """
    return {label: LOSSES[label].loss for label in labels}


def colours(*labels: str) -> dict[str, str]:
    """The colours of some labels; of all without any."""
    return {label: LOSSES[label].colour for label in labels or LOSSES}
