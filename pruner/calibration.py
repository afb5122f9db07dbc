"""The penalty of AUX that meets a target sparsity.

First a guess without any pruning: average the importances over some batches of the dense model
and take their quantile. Then, where it matters, secant steps on measured sparsities: weights that
are cut change what the others are worth, so the guess overshoots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.online import OnlineModel
from pruner.criteria.aux import AuxOptions, cut, importance, penalty_for
from pruner.pruning import evidence_of, with_means
from stream.batch import ClickBatch

_DEFAULTS = AuxOptions()


@dataclass(frozen=True, slots=True)
class Calibration:
    """A penalty, and how it was found."""

    penalty: float
    sparsity: float
    """Measured with this penalty."""
    measured: tuple[tuple[float, float], ...]
    """Every penalty tried with its sparsity, in order."""


def average_importance(
    model: OnlineModel, batches: Iterable[ClickBatch], options: AuxOptions = _DEFAULTS
) -> Tensor:
    """Average the importance of every weight over some batches, learning nothing.

    Returns
    -------
    Shape (weights of all prunable layers,), in the order of the model's layers.
    """
    total, count = torch.zeros(()), 0
    for batch in batches:
        layers = evidence_of(model, model.gradients(batch))
        if options.norm == "global_mean":
            layers = with_means(layers)
        flats = [importance(layer, options).flatten() for layer in layers.values()]
        total, count = total + torch.cat(flats), count + 1
    if count == 0:
        raise ValueError("no batches to average over; about 100 do")
    return total / count


def first_guess(
    importances: Tensor, sparsity: float, steps: int, options: AuxOptions = _DEFAULTS
) -> float:
    """Return the penalty that would meet a sparsity if importances stayed what they are.

    Parameters
    ----------
    importances
        Averages, any shape, of all layers together.
    sparsity
        Share of weights to remove.
    steps
        K: batches of the prune phase.
    options
        How a begins.

    Examples
    --------
    >>> importances = torch.tensor([0.49, 0.98, 1.47, 1.96])
    >>> first_guess(importances, sparsity=0.5, steps=200)
    1.0
    """
    return penalty_for(cut(importances, sparsity), steps, options)


def calibrate(
    measure: Callable[[float], float],
    sparsity: float,
    guess: float,
    tolerance: float = 0.01,
    most: int = 12,
) -> Calibration:
    """Find the penalty that is measured to give a sparsity.

    Secant steps, held inside the bracket known so far: sparsity rises with the penalty.

    Parameters
    ----------
    measure
        Runs a prune phase with a penalty and returns its sparsity.
    sparsity
        The target.
    guess
        A positive penalty to begin with.
    tolerance
        How near is near enough.
    most
        Measurements after which it gives up with ``ValueError``.

    Examples
    --------
    >>> calibrate(lambda penalty: 1 - 2**-penalty, sparsity=0.75, guess=1.5).penalty
    2.0
    """
    if guess <= 0:
        raise ValueError(f"guess is {guess}; a penalty to begin with must be positive")
    measured: list[tuple[float, float]] = []
    penalty = guess
    while len(measured) < most:
        measured.append((penalty, measure(penalty)))
        if abs(measured[-1][1] - sparsity) <= tolerance:
            return Calibration(penalty, measured[-1][1], tuple(measured))
        penalty = _next(measured, sparsity)
    raise ValueError(
        f"no penalty found for sparsity {sparsity} in {most} measurements; the last "
        f"gave {measured[-1][1]:.4f}"
    )


def _next(measured: list[tuple[float, float]], target: float) -> float:
    """Return the next penalty to try."""
    low = max((p for p, s in measured if s < target), default=0.0)
    high = min((p for p, s in measured if s >= target), default=None)
    if high is None:
        return 2 * low
    secant = _secant(measured[-2:], target)
    return secant if secant is not None and low < secant < high else (low + high) / 2


def _secant(last: list[tuple[float, float]], target: float) -> float | None:
    if len(last) == 1 or last[0][1] == last[1][1]:
        return None
    (p0, s0), (p1, s1) = last
    return p1 + (target - s1) * (p1 - p0) / (s1 - s0)
