"""How far the features of the clicks are from where they were: the population stability index.

Values are told apart in groups that are chosen from the window to compare with: numbers by its
tenths, categories by its most frequent buckets, the rest together. A feature that has drifted is
compared with what it has become from then on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from evaluator.arrays import ArraySums
from stream.batch import ClickBatch
from stream.schema import FeatureSchema

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FREQUENT: Final = 19
"""Buckets of a category in a group of their own."""
TENTHS: Final = 10
FALSE_ALARM: Final = 1e-6
"""How often chance alone lifts the index of one feature in one window over the threshold."""
SAMPLE: Final = 1_000
"""About so many events of a window are looked at, evenly spaced: chance then leaves the index of 20
groups below 0.13, and looking costs next to nothing."""


def population_stability(reference: Ints, current: Ints) -> float:
    r"""Return the population stability index of two samples that were sorted into groups.

    .. math:: \sum_g (q_g - p_g) \ln \frac{q_g}{p_g}, \qquad
        p_g = \frac{c_g + 1/2}{\sum_h c_h + G/2}

    with q likewise of the current counts; the half counts keep it finite. By the custom of credit
    scoring 0.1 is a moderate change and 0.25 a major one: of a normal feature, a shift of its mean
    by 0.32 and by 0.5 standard deviations.

    Parameters
    ----------
    reference, current
        Shape (groups,), counts.

    Returns
    -------
    Nats, 0 or more; the same if both are exchanged.

    Examples
    --------
    >>> population_stability(np.array([500, 500]), np.array([500, 500]))
    0.0
    >>> population_stability(np.array([500, 500]), np.array([700, 300]))
    0.169
    """
    before, now, half = reference.tolist(), current.tolist(), len(reference) / 2
    n, m = sum(before) + half, sum(now) + half
    shares = [((b + 0.5) / n, (c + 0.5) / m) for b, c in zip(before, now, strict=True)]
    return float(sum((q - p) * math.log(q / p) for p, q in shares))


def chance(reference: int, current: int, groups: int) -> float:
    r"""Return what the index exceeds by chance once in a million samples of one distribution.

    It is :math:`(1 / n + 1 / m) \chi^2_{G - 1}` for samples of n and m events in G groups.

    Examples
    --------
    >>> chance(10_000, 10_000, 20)
    0.0127

    References
    ----------
    Yurdakul, Statistical properties of population stability index, Western Michigan University
    2018.
    """
    return float(chdtri(max(groups - 1, 1), FALSE_ALARM)) * (1 / reference + 1 / current)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one feature is from where it was."""

    feature: str
    psi: float
    threshold: float
    """Above it the feature has drifted: the one asked for, or more in small windows."""
    begin: int
    end: int
    """The window that it is compared with."""

    @property
    def has_drifted(self) -> bool:
        """Tell whether that is too far."""
        return self.psi > self.threshold


@dataclass(frozen=True, slots=True)
class Reference:
    """One feature in the window that later ones are compared with."""

    groups: ArraySums
    """Of numbers the upper bounds, of categories the buckets of all groups but the last;
    ascending."""
    counts: ArraySums
    """Shape (groups,)."""
    end: int


@dataclass(frozen=True, slots=True)
class StabilityState:
    """All that is known, for a checkpoint."""

    references: tuple[Reference | None, ...]
    """By feature; None until a window has ended since the start, or since it drifted."""
    numeric: ArraySums
    """Shape (n, numeric features), what was looked at of the open window."""
    categorical: ArraySums
    """Shape (n, categorical columns)."""
    events: int = 0
    """In the open window."""


class InputWatch:
    """Compares the features of each window with those of an earlier one.

    Parameters
    ----------
    schema
        Of the clicks. Every value of a feature with several counts, and so do empty places.
    window_events
        The size of the windows.
    threshold
        The index above which a feature has drifted.
    state
        Where to go on; None begins with the first event.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        window_events: int,
        threshold: float,
        state: StabilityState | None = None,
    ) -> None:
        self._names, self._first_category = schema.names, schema.numeric_count
        self._columns = [slice(at, at + 1) for at in range(schema.numeric_count)]
        self._columns += [schema.columns_of(feature.name) for feature in schema.categorical]
        self._step, self._threshold = max(window_events // SAMPLE, 1), threshold
        none = ClickBatch.empty(schema.numeric_count, schema.column_count)
        self._nothing = (none.numeric, none.categorical)
        self._references: list[Reference | None] = [None] * len(self._names)
        self._events, self._sample = 0, [self._nothing]
        if state is not None:
            self._references, self._events = list(state.references), state.events
            self._sample = [(state.numeric.values, state.categorical.values)]

    @property
    def state(self) -> StabilityState:
        """All that it knows, for a checkpoint."""
        numeric, categorical = self._looked_at()
        return StabilityState(
            tuple(self._references), ArraySums(numeric), ArraySums(categorical), self._events
        )

    def add(self, clicks: ClickBatch) -> None:
        """Take in a batch."""
        rows = slice(-self._events % self._step, None, self._step)
        self._sample.append((clicks.numeric[rows].copy(), clicks.categorical[rows].copy()))
        self._events += len(clicks)

    def close(self, end: int) -> tuple[Shift, ...]:
        """End a window; return every feature's distance from where it was, if that is known."""
        found = []
        parts = self._looked_at()
        for at, feature in enumerate(self._names):
            is_number, known = at < self._first_category, self._references[at]
            values = parts[not is_number][:, self._columns[at]].ravel()
            if known is None:
                groups = (_bounds if is_number else _frequent)(values)
                counts = _count(values, groups, is_number)
                self._references[at] = Reference(ArraySums(groups), ArraySums(counts), end)
                continue
            counts = _count(values, known.groups.values, is_number)
            found.append(self._shift(feature, known, counts, len(parts[0])))
            if found[-1].has_drifted:
                self._references[at] = None
        self._events, self._sample = 0, [self._nothing]
        return tuple(found)

    def _looked_at(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        numeric, categorical = zip(*self._sample, strict=True)
        return np.concatenate(numeric), np.concatenate(categorical)

    def _shift(self, feature: str, known: Reference, counts: Ints, events: int) -> Shift:
        psi = population_stability(known.counts.values, counts)
        least = max(self._threshold, chance(events, events, len(counts)))
        return Shift(feature, psi, least, known.end - self._events, known.end)


def _count(values: NDArray[Any], groups: NDArray[Any], is_number: bool) -> Ints:
    """Count the values in each group, shape (groups + 1,)."""
    place = np.searchsorted(groups, values)
    if not is_number:
        found = groups.take(place, mode="clip") == values
        place = np.where(found, place, len(groups))
    return np.bincount(place, minlength=len(groups) + 1)


def _bounds(values: NDArray[Any]) -> NDArray[Any]:
    """Return the upper bounds of the tenths, and one below all that was seen."""
    tenths = np.quantile(values, np.arange(1, TENTHS) / TENTHS, method="inverted_cdf")
    return np.unique([np.nextafter(values.min(), values.dtype.type(-np.inf)), *tenths])


def _frequent(values: NDArray[Any]) -> NDArray[Any]:
    """Return the most frequent buckets, ascending; of those as frequent the lower ones."""
    bucket, times = np.unique_counts(values)
    return np.sort(bucket[np.lexsort((bucket, -times))[:FREQUENT]])
