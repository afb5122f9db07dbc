"""Whether as many clicks come as were predicted."""

from __future__ import annotations

from typing import Final

import numpy as np

from evaluator.arrays import ArraySums
from evaluator.metrics.ranking import CLICKS, EXPECTED, OTHERS

GROUPS: Final = 10


def calibration(predicted: float, observed: float) -> float | None:
    """Return predicted over observed clicks: 1 is right, above 1 promises too much.

    Parameters
    ----------
    predicted
        Weighted sum of the probabilities.
    observed
        Weighted clicks.

    Returns
    -------
    None where nothing was clicked.

    Examples
    --------
    >>> calibration(110.0, 100.0)
    1.1
    >>> calibration(0.5, 0.0) is None
    True
    """
    return predicted / observed if observed else None


def expected_calibration_error(found: ArraySums, groups: int = GROUPS) -> float | None:
    r"""Return how far predicted and observed click rates lie apart, on average.

    .. math:: \sum_g \frac{W_g}{W} \, \lvert \bar p_g - \bar y_g \rvert

    over groups of neighbouring predictions, of equal weight W as far as whole bins allow: with
    clicks being rare, groups of equal width would put nearly all events into the first. Chance
    alone leaves about :math:`\sqrt{2 G r (1 - r) / (\pi n)}` of n events at a click rate r in G
    groups: 0.010 of 10 000 at 0.2, 0.001 of a million.

    Parameters
    ----------
    found
        A histogram of :mod:`evaluator.metrics.ranking`, of any number of bins.
    groups
        At most so many.

    Returns
    -------
    Share of events, 0 to 1; None without events.

    Examples
    --------
    Of the doubtful half no event was clicked, of the hopeful half every one:

    >>> from evaluator.metrics.ranking import histogram
    >>> chances, label = np.array([0.1, 0.1, 0.8, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> expected_calibration_error(histogram(chances, label, np.ones(4)))
    0.15

    References
    ----------
    Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural language
    processing models, EMNLP 2015 (groups of equal weight).
    """
    values = found.values
    weight = values[CLICKS] + values[OTHERS]
    total = float(weight.sum())
    if not total:
        return None
    middle = (np.cumsum(weight) - weight / 2) / total
    group = np.minimum((middle * groups).astype(np.int64), groups - 1)
    gaps = np.bincount(group, values[EXPECTED] - values[CLICKS], groups)
    return float(np.abs(gaps).sum()) / total
