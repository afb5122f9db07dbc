"""How many weights are kept when (schedule), of which layer (allocation), and which ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a prune phase.

    Examples
    --------
    >>> Phase(step=50, steps=200, sparsity=0.8).progress
    0.25
    """

    step: int
    """Batches of evidence so far."""
    steps: int
    """K: batches of evidence in all; then the mask is frozen."""
    sparsity: float
    """The share of weights to remove by its end."""

    @property
    def progress(self) -> float:
        """How much of the phase is over, 0 to 1."""
        return self.step / self.steps


Shape = Callable[[float], float]
"""How much of the target is reached, 0 to 1, when a share of the ramp is done, 0 to 1."""


def linear(done: float) -> float:
    """Rise steadily.

    >>> linear(0.5)
    0.5
    """
    return done


def cubic(done: float) -> float:
    """Rise fast, then ever slower (Zhu and Gupta 2017, arXiv 1710.01878, Eq. 1).

    >>> cubic(0.5)
    0.875
    """
    return 1 - (1 - done) ** 3


def cosine(done: float) -> float:
    """Rise slowly, fast, slowly.

    >>> cosine(0.5), cosine(1.0)
    (0.5, 1.0)
    """
    return (1 - math.cos(math.pi * done)) / 2


def one_shot(done: float) -> float:
    """Cut nothing until the end, then everything.

    >>> one_shot(0.99), one_shot(1.0)
    (0.0, 1.0)
    """
    return float(done >= 1)


SHAPES: dict[str, Shape] = {f.__name__: f for f in (one_shot, linear, cubic, cosine)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the mask changes, and to what sparsity.

    Examples
    --------
    >>> schedule = Schedule("linear", every_steps=5)
    >>> schedule(Phase(step=4, steps=20, sparsity=0.8)) is None
    True
    >>> schedule(Phase(step=5, steps=20, sparsity=0.8))
    0.2
    """

    shape: str = "linear"
    """One of :data:`SHAPES`."""
    ramp_ratio: float = 1.0
    """Share of the phase after which the target is reached."""
    every_steps: int = 1
    """Batches between two changes."""

    def __call__(self, phase: Phase) -> float | None:
        """Return the sparsity to have now; None: leave the mask as it is."""
        if phase.step < phase.steps and phase.step % self.every_steps:
            return None
        done = min(1.0, phase.progress / self.ramp_ratio)
        return SHAPES[self.shape](done) * phase.sparsity or None


Allocation = Callable[[Mapping[str, Tensor], float], dict[str, int]]
"""Turns the scores of all layers and a sparsity into the number of weights that each keeps: at
least 1 in every layer, and :func:`kept_of` in all.
"""


def top_k(scores: Tensor, kept: int) -> Tensor:
    """Keep exactly ``kept`` entries, those of the highest scores; of equals the earlier ones.

    Parameters
    ----------
    scores
        Any shape, finite or infinite, no NaN.
    kept
        0 to the number of entries.

    Returns
    -------
    bool, the shape of ``scores``.

    Examples
    --------
    >>> top_k(torch.tensor([[1.0, 2.0], [2.0, 2.0]]), kept=2)
    tensor([[False,  True],
            [ True, False]])
    """
    flat = scores.flatten()
    if not 0 <= kept <= len(flat):
        raise ValueError(f"cannot keep {kept} of {len(flat)} weights")
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = flat.kthvalue(len(flat) - kept + 1).values
    mask = flat > least
    ties = (flat == least).nonzero().flatten()
    mask[ties[: kept - int(mask.sum())]] = True
    return mask.view(scores.shape)


def kept_of(weights: int, layers: int, sparsity: float) -> int:
    """Return how many weights a sparsity leaves: at least one a layer.

    >>> kept_of(weights=10, layers=2, sparsity=0.75), kept_of(10, 2, sparsity=0.99)
    (2, 2)
    """
    return max(layers, weights - round(weights * sparsity))


def global_(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """Rank all weights together, whatever their layer.

    A layer keeps its best weight in any case; the lowest of all others is then pruned for it.

    Examples
    --------
    >>> scores = {"a": torch.tensor([[9.0, 8.0, 7.0]]), "b": torch.tensor([[1.0, 2.0, 3.0]])}
    >>> global_(scores, sparsity=0.5)
    {'a': 2, 'b': 1}
    """
    flats = [score.flatten() for score in scores.values()]
    kept = kept_of(sum(map(len, flats)), len(flats), sparsity)
    others = [flat.index_fill(0, flat.argmax(), -torch.inf) for flat in flats]
    mask = top_k(torch.cat(others), kept - len(flats))
    parts = torch.split(mask, [len(flat) for flat in flats])
    return {name: 1 + int(part.sum()) for name, part in zip(scores, parts, strict=True)}


def global_layer_mean(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """Rank all weights together, each score divided by the mean of its layer.

    A layer whose scores are small as a whole can so be compared with the others. The mean is that
    of absolute values, for criteria whose scores may be negative; a layer where it is 0 is left
    undivided.

    Examples
    --------
    >>> scores = {"a": torch.tensor([[90.0, 20.0, 10.0]]), "b": torch.tensor([[1.0, 2.0, 3.0]])}
    >>> global_layer_mean(scores, sparsity=0.5), global_(scores, sparsity=0.5)
    ({'a': 1, 'b': 2}, {'a': 2, 'b': 1})
    """
    return global_({name: _over_mean(score) for name, score in scores.items()}, sparsity)


def _over_mean(scores: Tensor) -> Tensor:
    """Divide by the mean of absolute values, in float64, so that small means are not lost."""
    scores = scores.double()
    mean = scores.abs().mean()
    return scores / torch.where(mean > 0, mean, 1.0)


def uniform(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """Keep the same share of every layer, as nearly as whole weights allow.

    Each layer gets one weight, then its proportion of the others, rounded down; what remains goes
    to the layers that rounding took most from (of equals the earlier ones).

    Examples
    --------
    >>> uniform({"a": torch.zeros(2, 2), "b": torch.zeros(4, 4)}, sparsity=0.5)
    {'a': 2, 'b': 8}
    """
    sizes = {name: score.numel() for name, score in scores.items()}
    weights, layers = sum(sizes.values()), len(sizes)
    share = kept_of(weights, layers, sparsity) - layers
    quotas = {
        name: Fraction((n - 1) * share, max(1, weights - layers)) for name, n in sizes.items()
    }
    counts = {name: 1 + int(quota) for name, quota in quotas.items()}
    left = share + layers - sum(counts.values())
    losers = sorted(quotas, key=lambda name: int(quotas[name]) - quotas[name])
    return counts | {name: counts[name] + 1 for name in losers[:left]}


ALLOCATIONS: dict[str, Allocation] = {
    "global": global_,
    "global_layer_mean": global_layer_mean,
    "uniform": uniform,
}


def keep_exactly(
    scores: Mapping[str, Tensor], sparsity: float, allocation: str = "global"
) -> dict[str, Tensor]:
    """Keep the highest scores: exactly as many as a sparsity asks, at least one a layer.

    Parameters
    ----------
    scores
        By layer, shape (out, in), finite.
    sparsity
        Share of all weights to remove, 0 to 1.
    allocation
        How much of which layer, one of :data:`ALLOCATIONS`.

    Returns
    -------
    By layer, bool, shape (out, in), True is kept.

    Examples
    --------
    >>> keep_exactly({"top": torch.tensor([[3.0, 1.0, 2.0, 0.0]])}, sparsity=0.5)
    {'top': tensor([[ True, False,  True, False]])}
    """
    counts = ALLOCATIONS[allocation](scores, sparsity)
    return {name: top_k(score, counts[name]) for name, score in scores.items()}
