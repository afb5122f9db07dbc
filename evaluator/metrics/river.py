"""The evaluator's figures as metrics of River, fed one event at a time.

They take probabilities and weights, and can be rolled:
``river.utils.Rolling(NormalizedEntropy, window_size=10_000)``. While a figure is not
defined it is NaN. Reverting subtracts, which rounds; the evaluator itself adds up sums of batches
instead.
"""

from __future__ import annotations

import math

from river.metrics.base import BinaryMetric

from evaluator.metrics.calibration import calibration
from evaluator.metrics.entropy import background, normalized_entropy

Prediction = float | dict[bool, float]
"""The chance of a click, or of each label."""


class Tally:
    """Weighted sums over the events seen.

    Parameters
    ----------
    pos_val
        The label that counts as a click.
    """

    def __init__(self, pos_val: bool) -> None:
        self.pos_val = pos_val
        self.weight = self.clicks = self.predicted = self.loss = 0.0
        self.impossible = 0
        """Events of infinite loss, counted apart so that they can be taken back."""

    def update(self, y_true: bool, y_pred: Prediction, w: float) -> None:
        """Take in one event; with a negative weight take it back."""
        clicked = float(y_true == self.pos_val)
        p = y_pred.get(self.pos_val, 0.0) if isinstance(y_pred, dict) else y_pred
        loss = background(clicked, p)
        if loss == math.inf:
            self.impossible += 1 if w > 0 else -1
        else:
            self.loss += w * loss
        self.weight += w
        self.clicks += w * clicked
        self.predicted += w * p

    @property
    def cross_entropy(self) -> float:
        """Nats per event; infinite where a certain prediction was wrong."""
        if not self.weight:
            return math.nan
        return math.inf if self.impossible else self.loss / self.weight


class CrossEntropy(BinaryMetric):
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

    _fmt = ".6f"
    requires_labels = False
    bigger_is_better = False

    def __init__(self, pos_val: bool = True) -> None:
        self.pos_val = pos_val
        self.tally = Tally(pos_val)

    def update(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take in one event."""
        self.tally.update(y_true, y_pred, w)

    def revert(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take one event back."""
        self.tally.update(y_true, y_pred, -w)

    def get(self) -> float:
        """Return the figure for the events seen."""
        return self.tally.cross_entropy


class NormalizedEntropy(BinaryMetric):
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

    _fmt = ".6f"
    requires_labels = False
    bigger_is_better = False

    def __init__(self, pos_val: bool = True) -> None:
        self.pos_val = pos_val
        self.tally = Tally(pos_val)

    def update(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take in one event."""
        self.tally.update(y_true, y_pred, w)

    def revert(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take one event back."""
        self.tally.update(y_true, y_pred, -w)

    def get(self) -> float:
        """Return the figure for the events seen; NaN while all are of one kind."""
        tally = self.tally
        rate = tally.clicks / tally.weight if tally.weight else 0.0
        # Reverting may leave a rate a rounding error outside 0 to 1.
        if not 0 < rate < 1:
            return math.nan
        found = normalized_entropy(tally.cross_entropy, rate)
        return math.nan if found is None else found


class Calibration(BinaryMetric):
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
    requires_labels = False

    def __init__(self, pos_val: bool = True) -> None:
        self.pos_val = pos_val
        self.tally = Tally(pos_val)

    @property
    def bigger_is_better(self) -> bool:
        """Neither: there is no better of two calibrations by size alone."""
        raise NotImplementedError("calibration is best at 1; compare abs(metric.get() - 1)")

    def update(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take in one event."""
        self.tally.update(y_true, y_pred, w)

    def revert(self, y_true: bool, y_pred: Prediction, w: float = 1.0) -> None:
        """Take one event back."""
        self.tally.update(y_true, y_pred, -w)

    def get(self) -> float:
        """Return the figure for the events seen; NaN without a click."""
        found = calibration(self.tally.predicted, self.tally.clicks)
        return math.nan if found is None else found
