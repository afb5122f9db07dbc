"""Cross entropy: the mean loss of the predictions, in nats per event."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evaluator.metrics.metric import Export, Floats, Metric, mean_of


def losses(label: Floats, probability: Floats) -> Floats:
    r"""Return each event's loss, :math:`-\ln p` of what happened.

    There is no epsilon in it: certainty that turns out wrong costs infinity.

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


def weighted_losses(
    label: Floats, weight: Floats, probabilities: Mapping[str, Floats], begin: int
) -> dict[str, Floats]:
    """Return each model's losses times the weights, shape (n,) each, in nats.

    Parameters
    ----------
    label, weight
        Shape (n,).
    probabilities
        By model, shape (n,).
    begin
        Events before these.

    Raises
    ------
    ValueError
        If a model was certain and wrong: no mean holds an infinite loss.
    """
    found = {name: weight * losses(label, one) for name, one in probabilities.items()}
    for name, loss in found.items():
        refuse_infinite(name, loss, begin)
    return found


def refuse_infinite(name: str, loss: Floats, begin: int) -> None:
    """Raise ``ValueError`` where a model was certain and wrong: no mean holds an infinite loss."""
    if loss.max() == np.inf:
        raise ValueError(
            f"{name!r} gave probability 0 or 1 to an event of {begin + 1:,} to "
            f"{begin + len(loss):,} that went the other way, an infinite loss; lower its "
            "learning rate"
        )


CROSS_ENTROPY = Metric(
    name="ce",
    label="CE",
    title="cross entropy, nats",
    terms={"loss": lambda events: events.loss},
    value=mean_of("loss"),
    explains="The mean of −ln of the chance that a model gave to what then happened, in nats an "
    "event. Lower is better; no model is below the true probability for long.",
    export=Export(
        "resprout_cross_entropy_nats", "Cross entropy per event, on the last full window"
    ),
)
