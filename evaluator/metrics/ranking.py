"""How well predictions tell clicks from other events, from sums that merge.

Predictions are sorted into bins of equal width in log odds. All events of a bin count as predicted
alike, so what is found is exact but for the order inside bins; how much that can matter is told
with each figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluator.arrays import ArraySums

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS: Final = 1024
LEAST, MOST = -14.0, 6.0
"""Log odds: the first bin takes all below a chance of 8.3e-7 too, the last all above 0.9975."""
CLICKS, OTHERS, EXPECTED = range(3)
"""The rows of a histogram: weighted clicks, other events, and predicted clicks."""


def bins_of(log_odds: Floats) -> Ints:
    """Return the bin of each prediction, 0 to BINS − 1, in the same shape.

    >>> bins_of(np.array([-np.inf, 0.0, 0.02, np.inf]))
    array([   0,  716,  717, 1023])
    """
    place = (log_odds - LEAST) * (BINS / (MOST - LEAST))
    np.maximum(place, 0, out=place)
    np.minimum(place, BINS - 1, out=place)
    return place.astype(np.int64)


def histogram(probability: Floats, label: Floats, weight: Floats) -> ArraySums:
    """Sort one model's predictions, shapes (n,), into a histogram of shape (3, BINS).

    >>> histogram(np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([1.0, 2.0])).values.sum(1)
    array([1. , 2. , 1.5])
    """
    with np.errstate(divide="ignore"):
        bins = bins_of(np.log(probability) - np.log(1 - probability))
    return histograms(bins[None], label, weight, (weight * probability)[None])[0]


def histograms(bins: Ints, label: Floats, weight: Floats, expected: Floats) -> list[ArraySums]:
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
    Shape (3, BINS) each.

    Examples
    --------
    >>> bins, chance = bins_of(np.zeros((1, 2))), np.array([[0.5, 0.5]])
    >>> found = histograms(bins, np.array([1.0, 0.0]), np.array([1.0, 2.0]), chance)
    >>> found[0].values.sum(1)
    array([1., 2., 1.])
    """
    models = len(bins)
    cells = np.empty((models, 3, BINS))
    model = np.arange(models)[:, None]
    place = bins + BINS * (OTHERS - label.astype(np.int64) + 2 * model)
    counted = np.bincount(place.ravel(), np.concatenate([weight] * models), 2 * models * BINS)
    cells[:, :EXPECTED] = counted.reshape(models, 2, BINS)
    place = bins + BINS * model
    counted = np.bincount(place.ravel(), expected.ravel(), models * BINS)
    cells[:, EXPECTED] = counted.reshape(models, BINS)
    return [ArraySums(one) for one in cells]


@dataclass(frozen=True, slots=True)
class Area:
    """The area under a curve."""

    value: float
    error: float
    """The exact one lies no further off."""


def roc_auc(found: ArraySums) -> Area | None:
    r"""Return the chance that a click was given more than another event; a tie counts one half.

    With C clicks and O other events, :math:`c_b` and :math:`o_b` of them in bin b,

    .. math:: \frac{1}{C O} \sum_b c_b \left(\sum_{a < b} o_a + \tfrac{o_b}{2}\right)
        \quad \pm \quad \frac{1}{C O} \sum_b \tfrac{c_b o_b}{2}

    since only pairs inside a bin may be ordered otherwise than as a tie. With log odds that spread
    like a normal distribution of standard deviation 1.6 the bound is near 0.0015, and what is
    really missed, since such pairs go either way, near 1e-5.

    Parameters
    ----------
    found
        Shape (3, any number of bins), in the order of the predictions.

    Returns
    -------
    None without a click or without another event.

    Examples
    --------
    >>> chances, label = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0])
    >>> roc_auc(histogram(chances, label, np.ones(4)))
    Area(value=0.75, error=0.0)
    """
    clicks, others = found.values[CLICKS], found.values[OTHERS]
    pairs = float(clicks.sum()) * float(others.sum())
    if not pairs:
        return None
    tied = float((clicks * others).sum()) / 2
    ordered = float((clicks * (np.cumsum(others) - others)).sum())
    return Area((ordered + tied) / pairs, tied / pairs)


def pr_auc(found: ArraySums, clicked: int) -> Area | None:
    r"""Return the average precision: the mean, over clicks, of the precision down to each.

    Clicks and other events of a bin are taken to be mixed evenly. With c clicks of mean weight w
    and o other events in it, t clicks and f other events in the bins above, and C clicks in all:

    .. math:: \sum_b \frac{c}{C} \; \frac{t + (c + w) / 2}{t + (c + w) / 2 + f + o / 2}

    The exact one is at most what it would be if all clicks of a bin came before its other events,
    and at least what it would be if they came behind them:

    .. math:: \sum_b \frac{c}{C} \; \frac{t + c}{t + c + f}, \qquad
        \sum_b \frac{1}{C} \int_0^c \frac{t + x}{t + x + f + o} \, dx

    With log odds as in :func:`roc_auc` the bound is near 0.004, and what is really missed 1e-4.

    Parameters
    ----------
    found
        As of :func:`roc_auc`.
    clicked
        Events with a click, each counted once whatever it weighs.

    Returns
    -------
    None without a click or without another event.

    Examples
    --------
    >>> chances, label = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0])
    >>> pr_auc(histogram(chances, label, np.ones(4)), clicked=2).value
    0.8333
    """
    # Only bins with a click have a term; what stands above them is of all bins.
    there = found.values[CLICKS, ::-1] > 0
    clicks, others = found.values[CLICKS, ::-1], found.values[OTHERS, ::-1]
    total = float(clicks.sum())
    if not total or not others.any():
        return None
    c, o = clicks[there], others[there]
    t, f = np.cumsum(clicks)[there] - c, np.cumsum(others)[there] - o
    half = t + (c + total / clicked) / 2
    value = float((c * half / (half + f + o / 2)).sum())
    highest = float((c * (t + c) / (t + c + f)).sum())
    behind = np.divide(c, t + f + o, out=np.zeros_like(c), where=f + o > 0)
    lowest = float((c - (f + o) * np.log1p(behind)).sum())
    return Area(value / total, max(highest - value, value - lowest, 0.0) / total)
