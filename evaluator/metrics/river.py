"""Three of the evaluator's metrics as metrics of River, fed one event at a time.

They take probabilities and weights, and can be rolled:
``river.utils.Rolling(NormalizedEntropy, window_size=10_000)``. While a figure is not
defined it is NaN. Reverting subtracts, which rounds; the evaluator itself adds up sums of batches
instead.
"""

from __future__ import annotations

import math

from river.metrics.base import BinaryMetric

from evaluator.metrics.calibration import calibration
from evaluator.metrics.normalized_entropy import background, normalized_entropy

Prediction = float | dict[bool, float]
"""The chance of a click, or of each label."""


class EventMetric(BinaryMetric):
    """Weighted sums over the events seen, and a figure from them.

    Parameters
    ----------
    pos_val
        The label that counts as a click.
    """

    _fmt = ".6f"
    requires_labels = False

    def __init__(self, pos_val: bool = True) -> None:
        self.pos_val = pos_val
        self._weight = self._clicks = self._predicted = self._loss = 0.0
        # Events of infinite loss are counted apart so that they can be taken back.
        self._impossible = 0

    @property
    def bigger_is_better(self) -> bool:
        """Tell whether more is better."""
        return False

    def update(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take in one event."""
        clicked = float(y_true == self.pos_val)
        p = y_pred.get(self.pos_val, 0.0) if isinstance(y_pred, dict) else y_pred
        loss = background(clicked, p)
        if loss == math.inf:
            self._impossible += (w > 0) - (w < 0)
        else:
            self._loss += w * loss
        self._weight += w
        self._clicks += w * clicked
        self._predicted += w * p

    def revert(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take one event back."""
        self.update(y_true, y_pred, -w)

    def get(self) -> float:
        """Return the figure for the events seen; NaN where it is not defined."""
        found = self._value()
        return math.nan if found is None else found

    def _value(self) -> float | None:
        """Return the cross entropy, infinite where a certain prediction was wrong."""
        if not self._weight:
            return None
        return math.inf if self._impossible else self._loss / self._weight


class CrossEntropy(EventMetric):
    """Mean loss, in nats per event. Unlike River's ``LogLoss`` it clips no probability.

    Parameters
    ----------
    pos_val
        The label that counts as a click.

    Examples
    --------
    >>> metric = CrossEntropy()
    >>> for clicked, chance in [(True, 0.9), (False, 0.1), (True, 0.65)]:
    ...     metric.update(clicked, chance)
    >>> metric
    CrossEntropy: 0.213835
    """


class NormalizedEntropy(EventMetric):
    """Cross entropy over the entropy of the click rate of the same events; below 1 is good.

    Parameters
    ----------
    pos_val
        The label that counts as a click.

    Examples
    --------
    Whoever predicts the click rate scores 1:

    >>> metric = NormalizedEntropy()
    >>> for clicked in (True, False, False, False):
    ...     metric.update(clicked, {True: 0.25, False: 0.75})
    >>> metric.get()
    1.0
    """

    def _value(self) -> float | None:
        ce = super()._value()
        rate = self._clicks / self._weight if self._weight else 0.0
        # Reverting may leave a rate a rounding error outside 0 to 1.
        return normalized_entropy(ce, rate) if ce is not None and 0 < rate < 1 else None


class Calibration(EventMetric):
    """Predicted over observed clicks; 1 is right, and neither more nor less is better.

    Parameters
    ----------
    pos_val
        The label that counts as a click.

    Examples
    --------
    >>> metric = Calibration()
    >>> for clicked, chance in [(True, 0.75), (False, 0.75)]:
    ...     metric.update(clicked, chance)
    >>> metric
    Calibration: 1.5
    """

    _fmt = ".4f"

    @property
    def bigger_is_better(self) -> bool:
        """Neither: there is no better of two calibrations by size alone."""
        raise NotImplementedError("calibration is best at 1; compare abs(metric.get() - 1)")

    def _value(self) -> float | None:
        return calibration(self._predicted, self._clicks)
