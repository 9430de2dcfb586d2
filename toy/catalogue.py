"""Every loss that the tutorial compares, written down once, in ``catalogue.yaml``.

A table, a legend and a results file call a loss by its label; so a label, and its colour, mean the
same loss everywhere.  DIL's labels name the generator and what stands for pi_ref: the losers
(published), losers and winners (repaired), fresh samples (reference).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.losses import BoundLoss, make_loss


@dataclass(frozen=True)
class Named:
    """A loss of the catalogue; ``catalogue.yaml`` says what each field means.

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
    objective: str = ""
    bt: str = ""
    any_preference: str = "the same"
    runs_off: bool = False
    feed: str = "sum"
    cite: str = ""
    claims: tuple[str, ...] = ()

    @property
    def loss(self) -> BoundLoss:
        return make_loss(**self.settings)

    @property
    def described(self) -> str:
        """The label with the settings that are numbers, and the other name."""
        numbers = [(key, value) for key, value in self.settings.items() if isinstance(value, float)]
        settings = [
            f"{SYMBOLS[key]} {'1/2' if value == 0.5 else f'{value:g}'}" for key, value in numbers
        ]
        return ", ".join([self.label, *settings]) + (f" = {self.also}" if self.also else "")


SYMBOLS = {
    "beta": "β",
    "tau": "τ",
    "gamma": "γ",
    "delta": "δ",
    "weight": "weight",
    "sft_weight": "weight",
    "label_smoothing": "ε",
    "alpha": "α",
    "eta": "η",
    "kl": "KL",
}
# a label's word for each denominator
VARIANTS = {"rejected": "published", "mixture": "repaired", "reference": "reference"}
ROWS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
LOSSES: dict[str, Named] = {label: Named(label, **row) for label, row in ROWS.items()}


def losses(*labels: str) -> dict[str, BoundLoss]:
    """The losses of some labels, ready to call.

    >>> list(losses("SFT", "DPO"))
    ['SFT', 'DPO']
    """
    return {label: LOSSES[label].loss for label in labels}


def colours(*labels: str) -> dict[str, str]:
    """The colours of some labels; of all without any.

    >>> colours("SFT")
    {'SFT': '#000000'}
    """
    return {label: LOSSES[label].colour for label in labels or LOSSES}
