"""Regret: the part of the cross entropy that was to be avoided, where the truth is known."""

from __future__ import annotations

import numpy as np

from evaluator.metrics.metric import Floats, Metric, PerEvent, mean_of


def regret(events: PerEvent) -> Floats | None:
    r"""Return each model's weighted divergence from the true chances q, shape (models, n).

    .. math:: w \, \left(q \ln \frac{q}{p} + (1 - q) \ln \frac{1 - q}{1 - p}\right)

    It is in nats, 0 or more, and not finite where a model was certain. None where the truth is not
    known.
    """
    if events.truth is None or events.truth_entropy is None:
        return None
    with np.errstate(invalid="ignore"):
        found = events.truth * events.log_click + (1 - events.truth) * events.log_other
        return np.asarray(events.weight * (-events.truth_entropy - found))


REGRET = Metric(
    name="regret",
    label="regret",
    title="regret to the true probability, nats",
    terms={"regret": regret},
    value=mean_of("regret"),
    explains="What a model loses in nats an event because it does not know the true chance of a "
    "click, which only a generated stream tells. 0 cannot be beaten.",
    format=".5f",
)
