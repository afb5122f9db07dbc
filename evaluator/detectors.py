"""Detectors of change in a series of figures, one a window; those that decide are River's.

Both are fed the scatter of single figures as their unit, and both say where the change began and
how large it is against the least that they take for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from river import drift

Floats = NDArray[np.float64]
_SHORTEST: Final = 5
"""Figures that ADWIN wants on either side of a change."""
_GRACE: Final = 10
"""Figures before any change is looked for."""
_RANGE_TO_SCATTER: Final = 1.128
"""Mean distance of two normal figures, in standard deviations: 2 / √π."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was found in a series."""

    at: int
    """Figures before it began."""
    before: float
    """Mean of these."""
    after: float
    """Mean of those since."""
    statistic: float
    threshold: float

    @property
    def rose(self) -> bool:
        """Tell whether the figures are larger since."""
        return self.after > self.before


class Detector(Protocol):
    """Looks at one figure after the other."""

    def update(self, value: float) -> bool:
        """Take in a figure, and tell whether there has been a change."""

    def change(self, values: Sequence[float]) -> Change:
        """Describe the change that :meth:`update` has just found in all that it was given."""


class _River(Protocol):
    """What River leaves untyped."""

    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float) -> object: ...


class Adwin:
    r"""River's ADWIN: looks for a cut such that the means before and behind it differ.

    They do where they lie further apart than

    .. math:: \sqrt{2 m v \delta'} + \tfrac{2}{3} m \delta', \qquad
        m = \frac{1}{n_0 - 4} + \frac{1}{n_1 - 4}, \quad \delta' = \ln \frac{2 \ln n}{\delta}

    with n₀ figures before and n₁ behind, at least 5 each, v the variance of all n. The second term
    wants figures that spread by about 1, so they are divided by their scatter: that of the first
    ten, by the mean distance of neighbours, which a slope does not widen.

    Parameters
    ----------
    delta
        Chance of a false alarm.

    Examples
    --------
    >>> adwin, values = Adwin(delta=0.002), [1.0, 1.2, 0.9, 1.1] * 5 + [2.0, 2.2, 1.9, 2.1] * 5
    >>> found = [adwin.update(value) for value in values]
    >>> found.index(True)
    33
    >>> change = adwin.change(values[:34])
    >>> change.at, change.before, change.after
    (20, 1.05, 2.05)

    References
    ----------
    Bifet and Gavaldà, Learning from time-changing data with adaptive windowing, SDM 2007.
    """

    def __init__(self, delta: float) -> None:
        self._delta = delta
        make: Callable[..., _River] = drift.ADWIN
        self._adwin = make(delta=delta, clock=1, min_window_length=_SHORTEST, grace_period=_GRACE)
        self._first: list[float] = []
        self._scatter: float | None = None

    def update(self, value: float) -> bool:
        """Take in a figure, and tell whether there has been a change."""
        if self._scatter is None:
            self._first.append(value)
            if len(self._first) == _GRACE:
                self._scatter = _scatter(self._first)
                for one in self._first:
                    self._adwin.update(one / self._scatter)
            return False
        self._adwin.update(value / self._scatter)
        return self._adwin.drift_detected

    def change(self, values: Sequence[float]) -> Change:
        """Let the change begin where the means differ most, measured by their standard errors.

        The statistic is of the cut that ADWIN likes best, which leaves at least 5 on either side.
        """
        scaled = np.array(values) / _scatter(values[:_GRACE])
        n, sums = len(scaled), np.cumsum(scaled)
        before = np.arange(1, n)
        behind = n - before
        apart = np.abs((sums[-1] - sums[:-1]) / behind - sums[:-1] / before)
        at = int((apart / np.sqrt(1 / before + 1 / behind)).argmax()) + 1
        cuts = slice(_SHORTEST - 1, n - _SHORTEST)
        inverse = 1 / (before[cuts] - _SHORTEST + 1) + 1 / (behind[cuts] - _SHORTEST + 1)
        log = math.log(2 * math.log(n) / self._delta)
        least = np.sqrt(2 * inverse * scaled.var() * log) + 2 / 3 * inverse * log
        best = int((apart[cuts] - least).argmax())
        return Change(at, *_means(values, at), float(apart[cuts][best]), float(least[best]))


class PageHinkley:
    r"""River's test of Page and Hinkley: tells when rises above the mean so far have added up.

    .. math:: S_t = \sum_{i \le t} (x_i - \bar x_i - \alpha), \qquad
        S_t - \min_{i \le t} S_i > \lambda

    with :math:`\bar x_i` the mean of the first i figures, all in units of ``error``. On figures
    that scatter independently, by 1, α = 0.5 and λ = 10 give 7 false alarms in a million.

    Parameters
    ----------
    error
        Standard error of one figure.
    tolerance
        α.
    threshold
        λ.

    Examples
    --------
    >>> test, values = PageHinkley(0.1, 0.5, 10.0), [0.5, 0.6, 0.4] * 5 + [0.9, 1.0, 0.8] * 5
    >>> found = [test.update(value) for value in values]
    >>> found.index(True), test.change(values[:19])
    (18, Change(at=15, before=0.5, after=0.9, statistic=11.7, threshold=10.0))

    References
    ----------
    Page, Continuous inspection schemes, Biometrika 1954.
    """

    def __init__(self, error: float, tolerance: float, threshold: float) -> None:
        self._error, self._tolerance, self._threshold = error, tolerance, threshold
        self._test: _River = drift.PageHinkley(
            min_instances=_GRACE, delta=tolerance, threshold=threshold, alpha=1.0, mode="up"
        )

    def update(self, value: float) -> bool:
        """Take in a figure, and tell whether they have risen."""
        self._test.update(value / self._error)
        return self._test.drift_detected

    def change(self, values: Sequence[float]) -> Change:
        """Let the change begin where the rises began to add up."""
        scaled = np.array(values) / self._error
        means = np.cumsum(scaled) / np.arange(1, len(scaled) + 1)
        sums = np.cumsum(scaled - means - self._tolerance)
        at = int(sums.argmin()) + 1
        return Change(at, *_means(values, at), float(sums[-1] - sums.min()), self._threshold)


def _scatter(values: Sequence[float]) -> float:
    """Return the standard deviation of single figures; 1 where they are all the same."""
    return float(np.abs(np.diff(values)).mean()) / _RANGE_TO_SCATTER or 1.0


def _means(values: Sequence[float], at: int) -> tuple[float, float]:
    """Return the means before and behind a cut."""
    return float(np.mean(values[:at])), float(np.mean(values[at:]))
