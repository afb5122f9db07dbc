"""What each event of a batch adds to the sums, by model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluator.cells import Cells
from evaluator.entropy import losses
from evaluator.joined import Floats, JoinedBatch
from evaluator.ranking import bins_of, histograms


@dataclass(frozen=True, slots=True)
class Measures:
    """One model on the events of one batch; shapes (n,)."""

    loss: Floats
    """Weighted, nats."""
    expected: Floats
    """Weighted probabilities."""
    regret: Floats | None
    """Weighted divergence from the true probabilities, nats; None where these are not known."""
    bin: NDArray[np.int64]
    """Of :mod:`evaluator.ranking`."""
    histogram: Cells
    """Of all events together."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All models on the events of one batch."""

    models: dict[str, Measures]
    bayes: Floats | None
    """Shape (n,), weighted loss of the true probabilities, nats; None where these are not known."""


def measure(batch: JoinedBatch) -> Measured:
    """Look at a batch, of at least one event, taking logarithms once for all that needs them.

    Raises as :func:`weighted_losses` does.
    """
    names, true, weight = list(batch.models), batch.bayes, batch.weight
    rows = [one.probability for one in batch.models.values()]
    probability = np.array(rows if true is None else [*rows, true])
    with np.errstate(divide="ignore"):
        chosen, passed = np.log(probability), np.log(1 - probability)
    loss = weight * -np.where(batch.label == 1, chosen, passed)
    if loss[: len(names)].max() == np.inf:
        weighted_losses(batch)
    regret = [None] * len(names) if true is None else _regrets(weight, true, chosen, passed)
    chosen, passed = chosen[: len(names)], passed[: len(names)]
    expected, bins = weight * probability[: len(names)], bins_of(chosen - passed)
    found = histograms(bins, batch.label, weight, expected)
    columns = zip(names, loss, expected, regret, bins, found, strict=False)
    models = {name: Measures(*column) for name, *column in columns}
    return Measured(models, None if true is None else loss[-1])


def weighted_losses(batch: JoinedBatch) -> dict[str, Floats]:
    """Return each model's losses times the weights, shape (n,) each, in nats.

    Raises
    ------
    ValueError
        If a model was certain and wrong: no mean holds an infinite loss.
    """
    found = {}
    for name, one in batch.models.items():
        found[name] = batch.weight * losses(batch.label, one.probability)
        if found[name].max() == np.inf:
            raise ValueError(
                f"{name!r} gave probability 0 or 1 to an event of {batch.begin + 1:,} to "
                f"{batch.end:,} that went the other way, an infinite loss; lower its learning rate"
            )
    return found


def _regrets(weight: Floats, true: Floats, chosen: Floats, passed: Floats) -> Floats:
    """Return weighted divergences from the truth, whose logarithms stand in the last row.

    Shape (models, n); not finite where a model was certain.
    """
    with np.errstate(invalid="ignore"):
        found = true * chosen + (1 - true) * passed
        return np.asarray(weight * (found[-1] - found[:-1]))
