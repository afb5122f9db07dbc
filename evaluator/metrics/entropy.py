"""Cross entropy, the entropy of a click rate, and their ratio; pure functions, all in nats."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def losses(label: Floats, probability: Floats) -> Floats:
    r"""Return each event's loss, :math:`-\ln p` of what happened.

    No epsilon hides in it: certainty that turns out wrong costs infinity.

    Parameters
    ----------
    label
        Shape (n,), 0 or 1.
    probability
        Shape (n,), predicted chance of a click, 0 to 1.

    Returns
    -------
    Shape (n,), nats, 0 to infinity.

    Examples
    --------
    >>> losses(np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.5, 1.0]))
    array([0.693, 0.693, inf])
    """
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(np.where(label == 1, probability, 1 - probability)))


def cross_entropy(label: Floats, probability: Floats, weight: Floats | None = None) -> float:
    """Return the mean loss, in nats per event.

    Parameters
    ----------
    label
        Shape (n,), 0 or 1.
    probability
        Shape (n,), predicted chance of a click, 0 to 1.
    weight
        Shape (n,), positive; None weighs all events alike.

    Examples
    --------
    >>> cross_entropy(np.array([1.0, 0.0]), np.array([0.8, 0.2]))
    0.2231
    """
    if not len(label):
        raise ValueError("cross entropy of 0 events is not defined; pass at least 1")
    loss = losses(label, probability)
    weight = np.ones_like(loss) if weight is None else weight
    return float((weight * loss).sum() / weight.sum())


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
    >>> background(0.5, 0.5), background(0.2, 0.5), background(0.2, 0.0)
    (0.6931, 0.6931, inf)
    """
    return _times_log(rate, predicted) + _times_log(1 - rate, 1 - predicted)


def _times_log(share: float, predicted: float) -> float:
    """Return −share · ln(predicted), 0 where the share is 0."""
    if share == 0:
        return 0.0
    return -share * math.log(predicted) if predicted > 0 else math.inf


def entropy(rate: float) -> float:
    """Return the entropy of a click rate: the cross entropy of predicting just that rate.

    >>> entropy(0.5), entropy(0.0)
    (0.6931, 0.0)
    """
    return background(rate, rate)


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
