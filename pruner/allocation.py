"""How much of which layer is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import torch
from torch import Tensor

from pruner.selection import top_k

Allocation = Callable[[Mapping[str, Tensor], float], dict[str, int]]
"""Turns the scores of all layers and a sparsity into the number of weights that each keeps: at
least 1 in every layer, and :func:`kept_of` in all.
"""


def kept_of(weights: int, layers: int, sparsity: float) -> int:
    """Return how many weights a sparsity leaves: at least one a layer.

    >>> kept_of(weights=10, layers=2, sparsity=0.75), kept_of(10, 2, sparsity=0.99)
    (2, 2)
    """
    return max(layers, weights - round(weights * sparsity))


def global_(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """Rank all weights together, whatever their layer.

    A layer keeps its best weight in any case; the last of all others then gives way.

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


def uniform(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """Keep the same share of every layer, as nearly as whole weights allow.

    One a layer is set aside; the rest is shared out in proportion, what is left over going where
    the fraction lost is largest (of equals to the earlier layer).

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


ALLOCATIONS: dict[str, Allocation] = {"global": global_, "uniform": uniform}
