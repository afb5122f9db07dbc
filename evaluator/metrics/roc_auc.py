"""Area under the ROC curve: how well predictions tell clicks from other events."""

from __future__ import annotations

import numpy as np

from evaluator.metrics.metric import CLICKS, OTHERS, Bounded, Floats, Metric


def roc_auc(histogram: Floats) -> Bounded | None:
    r"""Return the chance that a click was given more than another event; a tie counts one half.

    With C clicks and O other events, :math:`c_b` and :math:`o_b` of them in bin b,

    .. math:: \frac{1}{C O} \sum_b c_b \left(\sum_{a < b} o_a + \tfrac{o_b}{2}\right)
        \quad \pm \quad \frac{1}{C O} \sum_b \tfrac{c_b o_b}{2}

    since only pairs inside a bin may be ordered otherwise than as a tie. With log odds that spread
    like a normal distribution of standard deviation 1.6 the bound is near 0.0015, and what is
    really missed, since such pairs go either way, near 1e-5.

    Parameters
    ----------
    histogram
        Shape (3, any number of bins), in the order of the predictions.

    Returns
    -------
    None without a click or without another event.

    Examples
    --------
    >>> from evaluator.metrics.metric import histogram
    >>> chances, label = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0])
    >>> roc_auc(histogram(chances, label, np.ones(4)))
    Bounded(value=0.75, error=0.0)
    """
    clicks, others = histogram[CLICKS], histogram[OTHERS]
    pairs = float(clicks.sum()) * float(others.sum())
    if not pairs:
        return None
    tied = float((clicks * others).sum()) / 2
    ordered = float((clicks * (np.cumsum(others) - others)).sum())
    return Bounded((ordered + tied) / pairs, tied / pairs)


ROC_AUC = Metric(
    name="roc_auc",
    label="ROC AUC",
    title="ROC AUC",
    value=lambda scored: roc_auc(scored.histogram),
    needs_both=True,
    explains="How often an event with a click is ranked above one without. 0.5 is chance, 1 is "
    "best.",
)
