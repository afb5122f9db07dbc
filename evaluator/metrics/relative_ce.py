"""Relative cross entropy: what a model loses to the root, with its confidence interval.

Intervals are *within-run*: they say how well these events measure these models, not how another
seed would turn out. A verdict on a method takes seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from scipy.special import stdtrit

from evaluator.metrics.metric import Floats, Metric, ScoredEvents, Term, added
from stream.messages import Interval

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class RatioSums:
    r"""Sums over events of two numbers a and b: enough for :math:`\sum a / \sum b`.

    With a the weighted difference of two models' losses and b the weight, the ratio is the mean
    difference; with b the weighted loss of one of them, it is the relative difference. Sums of
    separate events add up.

    Examples
    --------
    >>> import numpy as np
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
    def of(cls, a: Floats, b: Floats) -> RatioSums:
        """Sum up events, shapes (n,) both."""
        sums = (a, b, a * a, a * b, b * b)
        return cls(len(a), *(float(terms.sum()) for terms in sums))

    def __add__(self, other: RatioSums) -> RatioSums:
        return added(self, other)

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
        half_width = error * float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
        return Interval(mean=ratio, low=ratio - half_width, high=ratio + half_width)


TERMS: Final[dict[str, Term]] = {
    "difference": lambda events: events.difference,
    "root_loss": lambda events: events.loss[0],
    "difference_squared": lambda events: events.difference * events.difference,
    "difference_by_root_loss": lambda events: events.difference * events.loss[0],
    "root_loss_squared": lambda events: events.loss[0] * events.loss[0],
}
"""What :class:`RatioSums` sums up, in its order."""


def _value(scored: ScoredEvents) -> Interval | None:
    """Return CE(model) / CE(root) − 1; None where the root has no loss at all."""
    sums = RatioSums(scored.on.events, *(scored.terms[name] for name in TERMS))
    return sums.interval() if sums.b else None


RELATIVE_CE = Metric(
    name="relative_ce",
    label="vs {root}",
    title="Cross entropy relative to {root}",
    terms=TERMS,
    value=_value,
    compares=True,
    format="+.2%",
    view="main",
    level=0.0,
    level_label="as good as {root}",
    band=0.005,
    explains="How much larger a model's cross entropy is than that of {root} on the same events: "
    "what pruning costs. At 0 % a model predicts as well as {root}.",
)
