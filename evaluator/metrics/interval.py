"""Confidence intervals of figures from one run.

Both kinds are *within-run*: they tell how well these events measure these models, not how another
seed would turn out. Under drift the windows of a run are correlated, which the bootstrap by blocks
allows for; a verdict on a method takes seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from stream.messages import Interval

CONFIDENCE = 0.95
MIN_STRETCHES = 2
"""Fewer say nothing about how much they differ."""


@dataclass(frozen=True, slots=True)
class RatioSums:
    r"""Sums over events of two numbers a and b: enough for :math:`\sum a / \sum b`.

    With a the weighted difference of two models' losses and b the weight, the ratio is the mean
    difference; with b the weighted loss of one of them, it is the relative difference. Sums of
    separate events add up.

    Examples
    --------
    >>> first = RatioSums.of(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    >>> second = RatioSums.of(np.array([2.0]), np.array([2.0]))
    >>> (first + second).interval()
    Interval(mean=1.0, low=-0.24, high=2.24)
    """

    events: int
    a: float
    b: float
    aa: float
    ab: float
    bb: float

    @classmethod
    def of(cls, a: NDArray[np.float64], b: NDArray[np.float64]) -> RatioSums:
        """Sum up events, shapes (n,) both."""
        sums = (a, b, a * a, a * b, b * b)
        return cls(len(a), *(float(terms.sum()) for terms in sums))

    def __add__(self, other: RatioSums) -> RatioSums:
        return RatioSums(
            self.events + other.events,
            self.a + other.a,
            self.b + other.b,
            self.aa + other.aa,
            self.ab + other.ab,
            self.bb + other.bb,
        )

    def interval(self) -> Interval:
        r"""Return the ratio and its 95 % interval, by the delta method.

        .. math:: r = \frac{\sum a}{\sum b}, \qquad
            \operatorname{var} r = \frac{n}{n - 1} \frac{\sum (a - r b)^2}{(\sum b)^2}

        with the quantile of Student's t with n − 1 degrees of freedom. One event has no interval.
        """
        ratio = self.a / self.b
        if self.events == 1:
            return Interval(mean=ratio, low=None, high=None)
        spread = max(self.aa - 2 * ratio * self.ab + ratio * ratio * self.bb, 0.0)
        n = self.events
        error = math.sqrt(n / (n - 1) * spread) / self.b
        reach = error * float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
        return Interval(mean=ratio, low=ratio - reach, high=ratio + reach)


def block_bootstrap(
    values: NDArray[np.float64], block: int, rng: np.random.Generator, resamples: int = 10_000
) -> Interval:
    r"""Return the mean of consecutive windows' values and its 95 % interval.

    The moving-block bootstrap draws stretches of ``block`` windows that follow each other, so that
    what neighbours have in common stays in the error. Its percentiles alone are too narrow where
    only a few stretches fit into the run: of 200 windows correlated by 0.8, in stretches of 20,
    they cover the mean in 83 % of runs. With Student's t for the k = n / block stretches,

    .. math:: \bar x \pm t_{k-1} \sqrt{\tfrac{k}{k-1}} \, \operatorname{sd}(\text{drawn means})

    covers it in 92 %.

    Parameters
    ----------
    values
        Shape (n,), one value a window, in the order of the stream; windows must not overlap.
    block
        Windows a stretch; several times as far as values are correlated. 1 takes them for
        independent.
    rng
        Draws where stretches begin.
    resamples
        Means drawn.

    Returns
    -------
    Without bounds where fewer than two stretches fit.

    Examples
    --------
    >>> block_bootstrap(np.array([2.0, 2.0, 2.0, 2.0]), 2, np.random.default_rng(0))
    Interval(mean=2.0, low=2.0, high=2.0)

    References
    ----------
    Künsch, The jackknife and the bootstrap for general stationary observations, 1989.
    """
    n = len(values)
    if not 1 <= block <= n:
        raise ValueError(f"block is {block}; use 1 to {n}, the number of values")
    mean, stretches = float(values.mean()), n / block
    if stretches < MIN_STRETCHES:
        return Interval(mean=mean, low=None, high=None)
    starts = rng.integers(0, n - block + 1, size=(resamples, -(-n // block), 1))
    drawn = values[(starts + np.arange(block)).reshape(resamples, -1)[:, :n]].mean(axis=1)
    error = float(drawn.std()) * math.sqrt(stretches / (stretches - 1))
    reach = error * float(stdtrit(stretches - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean=mean, low=mean - reach, high=mean + reach)
