"""What a metric is: values of single events, sums of them that add up, and a figure from these."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator

from stream.messages import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS: Final = 1024
LOWEST, HIGHEST = -14.0, 6.0
"""Log odds: the first bin also holds all below a chance of 8.3e-7, the last all above 0.9975."""
CLICKS, OTHERS, EXPECTED = range(3)
"""The rows of a histogram: weighted clicks, other events, and predicted clicks."""
_FORMAT: Final = re.compile(r"\+?\.\d+[f%]")


def _encode(values: NDArray[Any]) -> str:
    """Write type, shape and content as text."""
    shape = ",".join(str(length) for length in values.shape)
    # Most cells are 0: the quickest compression already makes them small.
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), level=1))
    return f"{values.dtype.str} {shape} {packed.decode()}"


def _decode(text: str) -> NDArray[Any]:
    kind, shape, packed = text.split(" ")
    content = zlib.decompress(base64.b64decode(packed))
    return np.frombuffer(content, np.dtype(kind)).reshape([int(one) for one in shape.split(",")])


@dataclass(frozen=True, slots=True, eq=False)
class ArraySums:
    """An array of sums, which add up, compare, and come back from a checkpoint bit for bit.

    Nobody writes into it.

    Examples
    --------
    >>> from pydantic import TypeAdapter
    >>> once = ArraySums(np.array([1.0, 0.1]))
    >>> (once + once).values
    array([2. , 0.2])
    >>> adapter = TypeAdapter(ArraySums)
    >>> adapter.validate_json(adapter.dump_json(once)) == once
    True
    """

    values: Annotated[NDArray[Any], PlainValidator(_decode), PlainSerializer(_encode)]

    def __add__(self, other: ArraySums) -> ArraySums:
        return ArraySums(self.values + other.values)

    def __eq__(self, other: object) -> bool:
        """Tell whether type, shape and every bit are the same."""
        return isinstance(other, ArraySums) and _encode(self.values) == _encode(other.values)

    def __hash__(self) -> int:
        return hash(_encode(self.values))


def bins_of(log_odds: Floats) -> Ints:
    """Return the bin of each prediction, 0 to BINS − 1, in the same shape.

    >>> bins_of(np.array([-np.inf, 0.0, 0.02, np.inf]))
    array([   0,  716,  717, 1023])
    """
    place = (log_odds - LOWEST) * (BINS / (HIGHEST - LOWEST))
    np.maximum(place, 0, out=place)
    np.minimum(place, BINS - 1, out=place)
    return place.astype(np.int64)


def histogram(probability: Floats, label: Floats, weight: Floats) -> Floats:
    """Sort one model's predictions, shapes (n,), into a histogram of shape (3, BINS).

    Predictions are sorted into bins of equal width in log odds. All events of a bin count as
    predicted alike, so what follows from a histogram is exact except for the order inside bins.

    >>> histogram(np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([1.0, 2.0])).sum(1)
    array([1. , 2. , 1.5])
    """
    with np.errstate(divide="ignore"):
        bins = bins_of(np.log(probability) - np.log(1 - probability))
    return np.asarray(histograms(bins[None], label, weight, (weight * probability)[None])[0])


def histograms(bins: Ints, label: Floats, weight: Floats, expected: Floats) -> Floats:
    """Sort the predictions of several models into histograms; those of two parts add up.

    Parameters
    ----------
    bins
        Shape (models, n).
    label, weight
        Shape (n,).
    expected
        Shape (models, n), weight times probability.

    Returns
    -------
    Shape (models, 3, BINS).

    Examples
    --------
    >>> bins, expected = bins_of(np.zeros((1, 2))), np.array([[0.5, 0.5]])
    >>> found = histograms(bins, np.array([1.0, 0.0]), np.array([1.0, 2.0]), expected)
    >>> found[0].sum(1)
    array([1., 2., 1.])
    """
    models = len(bins)
    model = np.arange(models)[:, None]
    place = bins + BINS * (OTHERS - label.astype(np.int64) + 2 * model)
    counted = np.bincount(place.ravel(), np.concatenate([weight] * models), 2 * models * BINS)
    summed = np.bincount((bins + BINS * model).ravel(), expected.ravel(), models * BINS)
    parts = counted.reshape(models, EXPECTED, BINS), summed.reshape(models, 1, BINS)
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class PerEvent:
    """All models on the events of one batch: what the terms of metrics are made of.

    Arrays have shape (n,), and (models, n) where models differ; the first model is the root, which
    the others are compared with.
    """

    label: Floats
    """Shape (n,), 0 or 1."""
    weight: Floats
    """Shape (n,), positive."""
    probability: Floats
    """Shape (models, n), the predicted chance of a click."""
    log_click: Floats
    """Shape (models, n), ln p."""
    log_other: Floats
    """Shape (models, n), ln (1 − p)."""
    loss: Floats
    """Shape (models, n), −ln p of what happened, times the weight; nats."""
    difference: Floats
    """Shape (models, n), the loss less that of the root."""
    expected: Floats
    """Shape (models, n), the probability times the weight."""
    truth: Floats | None = None
    """Shape (n,), the true chance of a click; None where it is not known."""
    truth_loss: Floats | None = None
    """Shape (n,), the weighted loss of the true chance, nats."""
    truth_entropy: Floats | None = None
    """Shape (n,), the entropy of the true chance, nats."""


D = TypeVar("D")


def added(one: D, other: D) -> D:
    """Add up two dataclasses with slots, field by field."""
    names: Sequence[str] = getattr(type(one), "__slots__", ())
    return type(one)(*[getattr(one, name) + getattr(other, name) for name in names])


@dataclass(frozen=True, slots=True)
class EventSums:
    """What happened, whoever predicted it.

    Examples
    --------
    >>> EventSums.of(np.array([1.0, 0.0]), np.array([1.0, 4.0])).click_rate
    0.2
    """

    events: int = 0
    clicked: int = 0
    """Events with a click, each counted once whatever it weighs."""
    weight: float = 0.0
    clicks: float = 0.0
    """Weighted."""

    @classmethod
    def of(cls, label: Floats, weight: Floats) -> EventSums:
        """Sum up events, shapes (n,) both."""
        weighted = float(weight.sum()), float((weight * label).sum())
        return cls(len(label), int(np.count_nonzero(label)), *weighted)

    def __add__(self, other: EventSums) -> EventSums:
        return added(self, other)

    @property
    def click_rate(self) -> float:
        """Weighted share of events with a click; there must be an event."""
        return self.clicks / self.weight

    def has_both(self, enough: int) -> bool:
        """Tell whether there are ``enough`` events of either kind."""
        return min(self.clicked, self.events - self.clicked) >= enough


@dataclass(frozen=True, slots=True)
class ScoredEvents:
    """The sums of one model over some events: what the value of a metric is computed from."""

    on: EventSums
    terms: Mapping[str, float] = field(default_factory=dict)
    """The sums of the terms, by name; without those that are not known of all events."""
    histogram: Floats = field(default_factory=lambda: np.zeros((3, BINS)))
    """Shape (3, any number of bins), in the order of the predictions."""
    rate_before: float | None = None
    """The click rate of all events before these; None with too few of either kind."""


class Bounded(NamedTuple):
    """A value that is known up to an error."""

    value: float
    error: float
    """The exact value is no further away than this."""


Term = Callable[[PerEvent], Floats | None]
"""Computes a value of every event, in shape (models, n) or (n,); None where it is not known."""
Value = Callable[[ScoredEvents], float | Bounded | Interval | None]
"""Computes a metric; None where it is not defined."""


def terms_of(metrics: Iterable[Metric]) -> dict[str, Term]:
    """Gather the terms of several metrics, each once."""
    return {name: term for metric in metrics for name, term in metric.terms.items()}


def mean_of(term: str) -> Value:
    """Return a function that computes the weighted mean of a term.

    >>> mean_of("loss")(ScoredEvents(EventSums(2, 1, 4.0, 2.0), {"loss": 1.0}))
    0.25
    """
    return lambda scored: scored.terms[term] / scored.on.weight


@dataclass(frozen=True, slots=True)
class Export:
    """How Prometheus sees a metric."""

    name: str
    text: str
    is_total: bool = False
    """It is a counter over all events scored; else a gauge of the last full window of each size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure that says how good a model is on some events.

    Examples
    --------
    >>> brier = Metric(
    ...     name="brier",
    ...     label="Brier",
    ...     title="Brier score",
    ...     terms={"squares": lambda e: e.weight * (e.label - e.probability) ** 2},
    ...     value=lambda scored: scored.terms["squares"] / scored.on.weight,
    ... )
    >>> brier.compute(ScoredEvents(EventSums(2, 1, 2.0, 1.0), {"squares": 0.5}), min_clicks=1)
    0.25
    >>> brier.write(0.25)
    '0.2500'
    """

    name: str
    """In messages, columns and addresses."""
    label: str
    """What people call it, in the head of a table; ``{root}`` stands for the root model."""
    title: str
    """The same in full, with its unit."""
    value: Value
    terms: Mapping[str, Term] = field(default_factory=dict)
    """The values of single events whose sums it needs, by name; a name that several metrics share
    stands for the same values. Where one of them is not known, the metric has no value."""
    needs_both: bool = False
    """It is empty with fewer than ``evaluator.min_clicks`` events with a click, or without one."""
    compares: bool = False
    """It compares a model with the root, so the root itself has none."""
    format: str = ".4f"
    """As Python writes it: a sign, digits after the point, and ``f`` or ``%``."""
    view: Literal["main", "panel", "choice", "data"] = "choice"
    """Where the page shows it: large, small, among those to choose from, or in its CSV alone."""
    level: float | None = None
    """A value to compare with, drawn as a line."""
    band: float | None = None
    """How far from the level does not matter; drawn as two lines."""
    level_label: str = ""
    """What the level means, in a few words; stands beside its line."""
    explains: str = ""
    """For those who do not know it: what it is, and what is good, in a sentence or two. Both this
    and the label of the level may name the ``{root}`` model."""
    export: Export | None = None
    """How Prometheus sees it; None: not at all."""

    def __post_init__(self) -> None:
        if not _FORMAT.fullmatch(self.format):
            raise ValueError(
                f"format of the metric {self.name!r} is {self.format!r}; use one such as '.4f' or "
                "'+.2%': perhaps a sign, digits after the point, f or %"
            )

    def compute(self, scored: ScoredEvents, min_clicks: int) -> float | Bounded | Interval | None:
        """Return the value; None where it is not defined, or not known."""
        if self.needs_both and not scored.on.has_both(min_clicks):
            return None
        return self.value(scored) if self.terms.keys() <= scored.terms.keys() else None

    def write(self, value: float | None, error: float | None = None) -> str:
        """Write a value, and how far away the exact one may be; an error is rounded up.

        >>> area = Metric(name="roc_auc", label="ROC AUC", title="ROC AUC", value=lambda _: None)
        >>> area.write(0.75, 0.00151), area.write(None)
        ('0.7500 ± 0.0016', '')
        """
        if value is None:
            return ""
        text = f"{value:{self.format}}"
        if error is None:
            return text
        shown = self.format.lstrip("+")
        digits = int(shown[shown.index(".") + 1 : -1]) + 2 * shown.endswith("%")
        return f"{text} ± {np.ceil(error * 10**digits) / 10**digits:{shown}}"
