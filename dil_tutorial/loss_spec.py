"""What is known of a loss besides its value: stated once, where the function is defined.

A loss is a pure function.  ``@loss("hinge", ...)`` above it records its name and properties as a
``LossSpec``, from which everything else is read: ``make_loss``, the trainer and its recipes, TRL's
names, tables, figures and the tests.  A *setting* is a parameter annotated with a ``Setting``,
which says which values it may have.  The two responses and ``INPUTS`` are given at every step, as
is ``kl`` where it is not set; there are no other inputs::

    @loss("hinge", Variant("Hinge", {"beta": 1.0}, color="#5F6A72", formula=r"$\\max(0, 1 - z)$"))
    def hinge_loss(f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.1) -> Tensor:
        return F.relu(1 - beta * (f_chosen - f_rejected))
"""

import dataclasses
import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any

from torch import Tensor

from dil_tutorial.bregman import Generator, get_generator
from dil_tutorial.errors import InputError, unknown_name

Loss = Callable[..., Tensor]
DENOMINATORS = ("rejected", "mixture", "reference")
# besides the responses themselves
INPUTS = ("f_reference", "ref_chosen", "ref_rejected", "solved")


@dataclass(frozen=True)
class Setting:
    """Which values a setting of a loss may have.

    >>> Setting(above=0).checked("beta", 0.1)
    0.1
    >>> Setting(least=0, most=1).checked("alpha", 1.5)
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: alpha is 1.5: give a number of at least 0 and at most 1
    """

    above: float = -math.inf
    least: float = -math.inf
    below: float = math.inf
    most: float = math.inf
    whole: bool = False  # a whole number
    tensor: bool = False  # a tensor will do, too: a value for each pair, or one that is learned
    choices: tuple[str, ...] = ()  # one of these words
    read: Callable[[Any], Any] | None = (
        None  # makes the value of what is given, or raises InputError
    )

    def checked(self, name: str, value: Any) -> Any:
        """The value; InputError where it is not allowed."""
        if self.read is not None:
            return self.read(value)
        if self.choices and value not in self.choices:
            raise unknown_name(name, value, self.choices)
        if self.choices:
            return value
        if self.tensor and isinstance(value, Tensor):
            return value
        if isinstance(value, str) and not self.whole and re.fullmatch(r"\d+/[1-9]\d*", value):
            value = float(Fraction(value))  # 1/3, which YAML and JSON cannot say
        kind = int if self.whole else (int, float)
        number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
        if number and self.above < value < self.below and self.least <= value <= self.most:
            return value
        raise InputError(f"{name} is {value!r}: give {self.wanted}")

    @property
    def wanted(self) -> str:
        """The allowed values in words.

        >>> Setting(above=0).wanted, Setting(least=2, whole=True).wanted
        ('a positive number', 'a whole number of at least 2')
        """
        if self == Setting(above=0):
            return "a positive number"
        limits = {"above": self.above, "of at least": self.least}
        limits |= {"below": self.below, "at most": self.most}
        bounds = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
        kind = "a whole number" if self.whole else "a number" if bounds else "a finite number"
        return " ".join([kind, " and ".join(bounds)]).strip()


Positive = Annotated[float, Setting(above=0)]
NonNegative = Annotated[float, Setting(least=0)]
Share = Annotated[float, Setting(least=0, most=1)]
ShareOrTensor = Annotated[Tensor | float, Setting(least=0, most=1, tensor=True)]
ErrorRate = Annotated[float, Setting(least=0, below=0.5)]  # of labels
Number = Annotated[float, Setting()]
NumberOrTensor = Annotated[Tensor | float, Setting(tensor=True)]
GeneratorSetting = Annotated[str | Generator, Setting(read=get_generator)]
DenominatorSetting = Annotated[str, Setting(choices=DENOMINATORS)]


@dataclass(frozen=True)
class Variant:
    """A loss with certain settings, as tables and figures compare it: one label, one color.

    With ``claims`` it is on the map (``toy.family``), with ``optimum`` in the long table.

    >>> Variant("DPO", {"beta": 1.0}, color="#8B0000").line
    '-'
    """

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    color: str = "#7F7F7F"
    line: str = "-"  # of figures, as matplotlib has it
    also: str = ""  # another name of the same loss
    formula: str = ""  # LaTeX, as are the next two
    optimum: str = ""  # in a Bradley–Terry world, among all policies
    optimum_any: str = "the same"  # for any other preferences
    unbounded: bool = False  # no finite optimum where a label is certain
    cite: str = ""  # a key of book/references.bib
    claims: tuple[str, ...] = ()  # of the ledger, that settle its optimum


@dataclass(frozen=True)
class TRLName:
    """A ``loss_type`` of TRL's DPOConfig that is this loss, and how TRL's fields become settings.

    >>> TRLName("ipo", logprobs="mean", fields={"beta": "tau"}).fields
    {'beta': 'tau'}
    """

    loss_type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    logprobs: str = "sum"
    fields: Mapping[str, str] = field(default_factory=lambda: {"beta": "beta"})


@dataclass(frozen=True)
class LossSpec:
    """A loss, its settings and its properties; call it with f_chosen and f_rejected.

    A function of your own counts as one of log-ratios in pairs; where it is not, say so here.

    >>> import torch
    >>> own = LossSpec(lambda l_w, l_l, weight=2.0: -weight * l_w, reference_free=True)
    >>> own(torch.tensor([-1.0]), torch.tensor([-2.0])), own.all_settings
    (tensor([2.]), {'weight': 2.0})
    """

    function: Loss
    settings: Mapping[str, Any] = field(default_factory=dict)  # those given; others by default
    _: dataclasses.KW_ONLY
    name: str = ""  # as recipes and ``make_loss`` call it
    reference_free: bool = False  # of log-probabilities of the policy, not of log-ratios to pi_ref
    means_only: bool = False  # defined on means per token alone
    unpaired: bool = False  # a term of y_w plus a term of y_l, which need not be a pair
    of_batch: bool = False  # sorts a batch: not a loss of each pair
    of_ratios: bool = False  # of e^f, and beyond |f| = 30 of its tangent (``bregman``)
    of_groups: bool = False  # of K log-ratios and their weights, in place of f_chosen, f_rejected
    check: Callable[..., None] | None = None  # of settings together; raises InputError
    not_on_map: str = ""  # why no variant is on the map
    claims: tuple[str, ...] = ()  # that settle the loss where it is not on the map
    trl: tuple[TRLName, ...] = ()
    variant: Variant | None = None  # where these settings are one
    variants: tuple[Variant, ...] = ()

    def __call__(self, f_chosen: Tensor, f_rejected: Tensor | None = None, **more: Any) -> Tensor:
        return self.function(f_chosen, f_rejected, **{**self.settings, **more})

    @functools.cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        """The function's parameters behind the two responses of a pair."""
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {p.name: p for p in parameters if p.kind not in variadic}

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The settings that the function has, with their defaults."""
        settings = {name: p.default for name, p in self._parameters.items() if name not in INPUTS}
        return {name: value for name, value in settings.items() if name not in self.required}

    @functools.cached_property
    def required(self) -> list[str]:
        """Settings without a default."""
        empty = inspect.Parameter.empty
        return [n for n, p in self._parameters.items() if p.default is empty and n not in INPUTS]

    @functools.cached_property
    def allowed(self) -> dict[str, Setting]:
        """Which values each setting may have, by its annotation.

        Without one, a setting whose default is a number takes numbers, any other takes anything.
        """
        try:
            function = inspect.unwrap(self.function)
            hints = typing.get_type_hints(function, include_extras=True)
        except (TypeError, NameError):  # no function, or an annotation that cannot be read
            hints = {}
        kinds = {}
        for name in [*self.defaults, *self.required]:
            notes = getattr(hints.get(name), "__metadata__", ())
            number = type(self.defaults.get(name)) in (int, float)
            plain = Setting() if number else Setting(read=lambda value: value)
            kinds[name] = next((note for note in notes if isinstance(note, Setting)), plain)
        return kinds

    @property
    def all_settings(self) -> dict[str, Any]:
        """The settings with their values, given or by default.

        ``shift``, ``kl`` and ``mixture_weight`` count only where given.
        """
        only_given = ("shift", "kl", "mixture_weight")
        defaults = {k: v for k, v in self.defaults.items() if k not in only_given}
        return defaults | dict(self.settings)

    @property
    def needs_reference_samples(self) -> bool:
        """Whether it needs f_reference, log-ratios of fresh samples of pi_ref."""
        if "denominator" in self.defaults:
            return self.settings.get("denominator") == "reference"
        return "f_reference" in self._parameters

    @property
    def needs_reference_logps(self) -> bool:
        """Whether it needs ref_chosen and ref_rejected, log pi_ref of the two responses."""
        return "ref_chosen" in self._parameters

    @property
    def needs_solved(self) -> bool:
        """Whether it needs the share of groups that have a winner."""
        return "solved" in self._parameters

    @property
    def needs_kl(self) -> bool:
        """Whether it needs kl = KL(pi_theta || pi_ref) at every step."""
        return "kl" in self.defaults and "kl" not in self.settings

    def bind(self, **settings: Any) -> "LossSpec":
        """The same loss with these settings; InputError for one that it does not have or allow."""
        for key, value in settings.items():
            if not self.allowed:
                raise InputError(f"the {self.name} loss has no settings: leave {key!r} out")
            if key not in self.allowed:
                raise unknown_name(f"setting of the {self.name} loss", key, self.allowed)
            try:
                settings[key] = self.allowed[key].checked(key, value)
            except InputError as error:
                raise InputError(f"loss {self.name!r}: {error}") from None
        if self.check is not None:
            self.check(**{**self.settings, **settings})
        return dataclasses.replace(self, settings={**self.settings, **settings}, variant=None)

    def as_variant(self, variant: Variant) -> "LossSpec":
        """The same loss with the settings of one of its variants."""
        return dataclasses.replace(self.bind(**variant.settings), variant=variant)

    # --- What tables and figures read -------------------------------------------------------------

    @property
    def shown(self) -> Variant:
        """The variant that these settings are; a gray one for a loss of your own."""
        return self.variant or Variant(self.name)

    @property
    def label(self) -> str:
        return self.shown.label

    @property
    def color(self) -> str:
        return self.shown.color

    @property
    def line(self) -> str:
        return self.shown.line

    @property
    def described(self) -> str:
        """The label with the settings that are numbers, and the other name.

        >>> from dil_tutorial.losses import CATALOG
        >>> CATALOG["DPO"].described, CATALOG["DIL BCE corrected"].described
        ('DPO, β 1', 'DIL BCE corrected = NCA')
        """
        numbers = [(k, v) for k, v in self.settings.items() if type(v) in (int, float)]
        values = [
            f"{SYMBOLS.get(key, key)} {'1/2' if value == 0.5 else f'{value:g}'}"
            for key, value in numbers
        ]
        return ", ".join([self.label, *values]) + (
            f" = {self.shown.also}" if self.shown.also else ""
        )

    @property
    def named_settings(self) -> dict[str, Any]:
        """What ``make_loss`` takes, as JSON can hold it.

        >>> from dil_tutorial.losses import CATALOG
        >>> CATALOG["DIL BCE corrected"].named_settings
        {'name': 'dil', 'generator': 'bce', 'denominator': 'mixture'}
        """
        return {"name": self.name, **self.kwargs}

    @property
    def kwargs(self) -> dict[str, Any]:
        """The given settings, with generators by name, as a recipe's ``loss_kwargs`` has them."""
        return {key: getattr(value, "name", value) for key, value in self.settings.items()}


SYMBOLS = {
    "beta": "β", "tau": "τ", "gamma": "γ", "delta": "δ", "sft_weight": "weight",
    "label_smoothing": "ε", "alpha": "α", "eta": "η", "kl": "KL",
}  # fmt: skip
LOSSES: dict[str, LossSpec] = {}  # by name; those of your own join by ``@loss`` or by assignment
GROUP_LOSSES: dict[str, LossSpec] = {}  # those of K responses and their weights, by name
CATALOG: dict[str, LossSpec] = {}  # the variants, by label
_REGISTERED: list[LossSpec] = []


def loss(name: str, *variants: Variant, **properties: Any) -> Callable[[Loss], Loss]:
    """Register the function below as the loss ``name``; it stays the plain function that it is.

    >>> @loss("twice-sft")
    ... def twice_sft_loss(f_chosen, f_rejected, weight: NonNegative = 2.0):
    ...     return -weight * f_chosen
    >>> make_loss("twice-sft", weight=3.0).settings, LOSSES.pop("twice-sft").name
    ({'weight': 3.0}, 'twice-sft')
    """

    def register(function: Loss) -> Loss:
        spec = LossSpec(function, name=name, variants=variants, **properties)
        labels = {variant.label: CATALOG.get(variant.label) for variant in variants}
        for taken in [LOSSES.get(name), GROUP_LOSSES.get(name), *labels.values()]:
            other = getattr(getattr(taken, "function", taken), "__qualname__", None)
            if other not in (None, function.__qualname__):
                raise InputError(f"loss {name!r}: the name or a label is taken by {other}")
        (GROUP_LOSSES if spec.of_groups else LOSSES)[name] = spec
        _REGISTERED.append(spec)
        for variant in variants:
            CATALOG[variant.label] = spec.as_variant(variant)
        return function

    return register


def as_spec(loss: Loss, name: str = "") -> LossSpec:
    """The spec of a loss: itself, that of a registered function, or of one that wraps such a one.

    >>> import functools
    >>> from dil_tutorial.losses import kto_loss, simpo_loss
    >>> as_spec(kto_loss).unpaired, as_spec(functools.partial(simpo_loss, gamma=0.5)).settings
    (True, {'gamma': 0.5})
    >>> as_spec(functools.partial(simpo_loss, gamma=0.5)).reference_free
    True
    """
    if isinstance(loss, LossSpec):
        return loss if loss.name else dataclasses.replace(loss, name=name)
    if isinstance(loss, functools.partial) and not loss.args:
        inputs = {key: value for key, value in loss.keywords.items() if key in INPUTS}
        settings = {key: value for key, value in loss.keywords.items() if key not in INPUTS}
        spec = as_spec(loss.func, name).bind(**settings)
        return dataclasses.replace(spec, function=loss) if inputs else spec
    inner = inspect.unwrap(loss)
    known = next((spec for spec in _REGISTERED if spec.function is inner), None)
    if known is None:
        return LossSpec(loss, name=name)
    if known.function is loss:
        return known
    # it is given what the wrapped one is given, but it is another loss
    own_name = name or f"{known.name}, wrapped"
    return dataclasses.replace(known, function=loss, name=own_name, variants=(), trl=())


def make_loss(name: str, **settings: Any) -> LossSpec:
    """The loss called ``name`` with its settings: what the toy and the trainer differentiate.

    A setting that the loss does not have, or a value that it does not allow, is an InputError.

    >>> import torch
    >>> from dil_tutorial.losses import make_loss
    >>> make_loss("dil", generator="bce", denominator="mixture")(torch.zeros(1), torch.zeros(1))
    tensor([1.3863])
    >>> make_loss("dpo", tau=1.0)
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: unknown setting of the dpo loss 'tau': Known: beta,
        label_smoothing, sft_weight
    """
    known = {**LOSSES, **GROUP_LOSSES}
    if name not in known:
        raise unknown_name("loss", name, known)
    return as_spec(known[name], name).bind(**settings)


def variants(*labels: str) -> dict[str, LossSpec]:
    """The variants with these labels.

    >>> from dil_tutorial.losses import variants
    >>> list(variants("SFT", "DPO"))
    ['SFT', 'DPO']
    """
    return {label: CATALOG[label] for label in labels}


def colors(*labels: str) -> dict[str, str]:
    """The colors of the variants with these labels; of all without any.

    >>> from dil_tutorial.losses import colors
    >>> colors("SFT")
    {'SFT': '#000000'}
    """
    return {label: CATALOG[label].color for label in labels or CATALOG}
