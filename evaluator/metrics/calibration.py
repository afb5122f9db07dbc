"""Calibration: whether as many clicks come as were predicted, in all and group by group."""

from __future__ import annotations

from typing import Final

import numpy as np

from evaluator.metrics.metric import (
    CLICKS,
    EXPECTED,
    OTHERS,
    Export,
    Floats,
    Metric,
    ScoredEvents,
)

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


def _value(scored: ScoredEvents) -> float | None:
    return calibration(scored.terms["predicted_clicks"], scored.on.clicks)


CALIBRATION = Metric(
    name="calibration",
    label="calibration",
    title="Calibration, predicted over observed clicks",
    terms={"predicted_clicks": lambda events: events.expected},
    value=_value,
    format=".3f",
    view="panel",
    level=1.0,
)
PREDICTED_CLICKS = Metric(
    name="predicted_clicks",
    label="predicted clicks",
    title="predicted clicks, weighted",
    terms=CALIBRATION.terms,
    value=lambda scored: scored.terms["predicted_clicks"],
    format=".1f",
    view="data",
    export=Export(
        "resprout_predicted_clicks_total",
        "Clicks that the model expected in the events it was scored on, weighted",
        is_total=True,
    ),
)


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
)
