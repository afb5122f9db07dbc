"""Area under the precision-recall curve, as average precision."""

from __future__ import annotations

import numpy as np

from evaluator.metrics.metric import CLICKS, OTHERS, Bounded, Floats, Metric


def pr_auc(histogram: Floats, clicked: int) -> Bounded | None:
    r"""Return the average precision: the mean, over clicks, of the precision down to each.

    Clicks and other events of a bin are taken to be mixed evenly. With c clicks of mean weight w
    and o other events in it, t clicks and f other events in the bins above, and C clicks in all:

    .. math:: \sum_b \frac{c}{C} \; \frac{t + (c + w) / 2}{t + (c + w) / 2 + f + o / 2}

    The exact one is at most what it would be if all clicks of a bin came before its other events,
    and at least what it would be if they came after them:

    .. math:: \sum_b \frac{c}{C} \; \frac{t + c}{t + c + f}, \qquad
        \sum_b \frac{1}{C} \int_0^c \frac{t + x}{t + x + f + o} \, dx

    With log odds as in :func:`roc_auc` the bound is near 0.004, and what is really missed 1e-4.

    Parameters
    ----------
    histogram
        Shape (3, any number of bins), in the order of the predictions.
    clicked
        Events with a click, each counted once whatever it weighs.

    Returns
    -------
    None without a click or without another event.

    Examples
    --------
    >>> from evaluator.metrics.metric import histogram
    >>> chances, label = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0])
    >>> pr_auc(histogram(chances, label, np.ones(4)), clicked=2).value
    0.8333
    """
    # Only bins with a click have a term; what is above them is of all bins.
    there = histogram[CLICKS, ::-1] > 0
    clicks, others = histogram[CLICKS, ::-1], histogram[OTHERS, ::-1]
    total = float(clicks.sum())
    if not total or not others.any():
        return None
    c, o = clicks[there], others[there]
    t, f = np.cumsum(clicks)[there] - c, np.cumsum(others)[there] - o
    half = t + (c + total / clicked) / 2
    value = float((c * half / (half + f + o / 2)).sum())
    highest = float((c * (t + c) / (t + c + f)).sum())
    ratio = np.divide(c, t + f + o, out=np.zeros_like(c), where=f + o > 0)
    lowest = float((c - (f + o) * np.log1p(ratio)).sum())
    return Bounded(value / total, max(highest - value, value - lowest, 0.0) / total)


PR_AUC = Metric(
    name="pr_auc",
    label="PR AUC",
    title="PR AUC",
    value=lambda scored: pr_auc(scored.histogram, scored.on.clicked),
    needs_both=True,
    explains="The average precision: the share of clicks among the events ranked highest, over all "
    "cuts. The click rate is chance, 1 is best.",
)
