"""Normalised entropy: cross entropy over that of predicting nothing but a click rate."""

from __future__ import annotations

import math
from typing import Final

from scipy.special import xlogy

from evaluator.metrics.metric import Export, Metric, ScoredEvents, Term


def background(rate: float, predicted: float) -> float:
    r"""Return the cross entropy of predicting one rate for events that click at another.

    .. math:: -r \ln q - (1 - r) \ln (1 - q)

    Parameters
    ----------
    rate
        r, the share of events that were clicked.
    predicted
        q, what is predicted for all of them.

    Returns
    -------
    Nats per event; infinite where q rules out what happened.

    Examples
    --------
    >>> background(0.5, 0.5), background(0.2, 0.5), background(0.2, 0.0), background(0.0, 0.0)
    (0.6931, 0.6931, inf, 0.0)
    """
    hits = xlogy(rate, max(predicted, 0.0)) + xlogy(1 - rate, max(1 - predicted, 0.0))
    return 0.0 - float(hits)


def normalized_entropy(ce: float, rate: float, predicted: float | None = None) -> float | None:
    """Return a cross entropy over that of a constant prediction; below 1 is better than it.

    Parameters
    ----------
    ce
        The model's cross entropy, nats per event.
    rate
        The click rate of the same events.
    predicted
        The constant: the click rate of the events before (He et al. 2014). None: the rate of the
        same events (TorchRec), which no constant beats.

    Returns
    -------
    None where the constant has no finite, positive cross entropy: all events of one kind.

    Examples
    --------
    >>> normalized_entropy(0.4, 0.2), normalized_entropy(0.4, 0.0)
    (0.7993, None)

    References
    ----------
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014.
    """
    reference = background(rate, rate if predicted is None else predicted)
    return ce / reference if 0 < reference < math.inf else None


_TERMS: Final[dict[str, Term]] = {"loss": lambda events: events.loss}


def _value(scored: ScoredEvents, predicted: float | None = None) -> float | None:
    return normalized_entropy(
        scored.terms["loss"] / scored.on.weight, scored.on.click_rate, predicted
    )


def _training_value(scored: ScoredEvents) -> float | None:
    return None if scored.rate_before is None else _value(scored, scored.rate_before)


NORMALIZED_ENTROPY = Metric(
    name="ne",
    label="NE",
    title="Normalised entropy",
    terms=_TERMS,
    value=_value,
    needs_both=True,
    view="main",
    level=1.0,
    level_label="no better than the click rate",
    explains="The cross entropy of a model's predictions, divided by that of always predicting the "
    "click rate of the same events. Lower is better; at 1 a model is no better than the click "
    "rate.",
    export=Export(
        "resprout_normalized_entropy_ratio",
        "Cross entropy over the entropy of the click rate, on the last full window",
    ),
)
NE_TRAINING = Metric(
    name="ne_training",
    label="NE by the click rate so far",
    title="NE by the click rate so far",
    terms=_TERMS,
    value=_training_value,
    needs_both=True,
    level=1.0,
    explains="The cross entropy of a model's predictions, divided by that of predicting the click "
    "rate of all events before them, which can be known in time. Lower is better.",
)
