"""Expected calibration error: how far predicted and observed click rates are apart."""

from __future__ import annotations

from typing import Final

import numpy as np

from evaluator.metrics.metric import CLICKS, EXPECTED, OTHERS, Floats, Metric

GROUPS: Final = 10


def expected_calibration_error(histogram: Floats, groups: int = GROUPS) -> float | None:
    r"""Return how far predicted and observed click rates are apart, on average.

    .. math:: \sum_g \frac{W_g}{W} \, \lvert \bar p_g - \bar y_g \rvert

    over groups of neighbouring predictions, of equal weight W as far as whole bins allow: with
    clicks being rare, groups of equal width would put nearly all events into the first. Chance
    alone leaves about :math:`\sqrt{2 G r (1 - r) / (\pi n)}` of n events at a click rate r in G
    groups: 0.010 of 10 000 at 0.2, 0.001 of a million.

    Parameters
    ----------
    histogram
        Shape (3, any number of bins).
    groups
        At most so many.

    Returns
    -------
    Share of events, 0 to 1; None without events.

    Examples
    --------
    Of the half with low predictions no event was clicked, of the other half every one:

    >>> from evaluator.metrics.metric import histogram
    >>> chances, label = np.array([0.1, 0.1, 0.8, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> expected_calibration_error(histogram(chances, label, np.ones(4)))
    0.15

    References
    ----------
    Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural language
    processing models, EMNLP 2015 (groups of equal weight).
    """
    weight = histogram[CLICKS] + histogram[OTHERS]
    total = float(weight.sum())
    if not total:
        return None
    middle = (np.cumsum(weight) - weight / 2) / total
    group = np.minimum((middle * groups).astype(np.int64), groups - 1)
    gaps = np.bincount(group, histogram[EXPECTED] - histogram[CLICKS], groups)
    return float(np.abs(gaps).sum()) / total


ECE = Metric(
    name="ece",
    label="ECE",
    title="expected calibration error",
    value=lambda scored: expected_calibration_error(scored.histogram),
    needs_both=True,
    explains="How far the predicted click rate is from the observed one, on average over tenths of "
    "the events sorted by prediction. 0 is best.",
)
