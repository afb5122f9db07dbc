"""How many weights are kept when (schedule), of which layer (allocation), and which ones."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional


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


def lamp(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    r"""Rank all weights together, each score squared and over the squares of those not smaller.

    With the scores :math:`s_1 \ge s_2 \ge \dots` of a layer (of equals the earlier first), the
    layer-adaptive score is

    .. math:: \ell_u = \frac{s_u^2}{\sum_{v \le u} s_v^2}

    so the best of every layer has 1. Lee et al. 2021 have it for :math:`s = |\theta|`, from a bound
    on how far pruning moves the output of the model; with another criterion it is only a way to
    share out. Scores below 0 count as 0; a layer without any above 0 has :math:`\ell = 0`.

    Examples
    --------
    >>> scores = {"a": torch.tensor([[90.0, 20.0, 10.0]]), "b": torch.tensor([[1.0, 2.0, 3.0]])}
    >>> lamp(scores, sparsity=0.5), lamp(scores, sparsity=0.3)
    ({'a': 1, 'b': 2}, {'a': 1, 'b': 3})

    References
    ----------
    Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, arXiv 2010.07611, 2021.
    """
    return global_({name: _outliving_share(score) for name, score in scores.items()}, sparsity)


def _outliving_share(scores: Tensor) -> Tensor:
    """Return the layer-adaptive scores in float64, shape (weights,), highest first."""
    squares = scores.flatten().double().clamp_min(0).square().sort(descending=True).values
    total = squares.cumsum(0)
    return squares / torch.where(total > 0, total, 1.0)


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
    return _rounded(
        {n: 1 + Fraction((size - 1) * share, max(1, weights - layers)) for n, size in sizes.items()}
    )


def erk(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    r"""Keep a larger share of smaller layers: the Erdős-Rényi rule.

    The density of a layer is

    .. math:: \epsilon \, \frac{n_{in} + n_{out}}{n_{in} \, n_{out}}

    so a layer keeps :math:`\epsilon \, (n_{in} + n_{out})` weights, with the :math:`\epsilon` that
    gives the sparsity asked for over all layers together. Where that is more than a layer has it
    stays whole, and where it is less than one weight it keeps one; the others share what remains.
    Fractions of weights are rounded as in :func:`uniform`. Evci et al. 2020 call the rule ERK, as
    they add the sizes of convolution kernels, which linear layers do not have.

    Examples
    --------
    >>> erk({"a": torch.zeros(10, 10), "b": torch.zeros(1, 10)}, sparsity=0.8)
    {'a': 14, 'b': 8}
    >>> erk({"a": torch.zeros(10, 10), "b": torch.zeros(1, 10)}, sparsity=0.7)
    {'a': 23, 'b': 10}

    References
    ----------
    Mocanu et al., arXiv 1707.04780, 2018 (the rule). Evci et al., Rigging the Lottery: Making All
    Tickets Winners, arXiv 1911.11134, 2020 (the rule with whole layers).
    """
    sizes = {name: (sum(score.shape), score.numel()) for name, score in scores.items()}
    kept = kept_of(sum(size for _, size in sizes.values()), len(sizes), sparsity)

    def quotas(scale: Fraction) -> dict[str, Fraction]:
        return {
            n: min(max(scale * sides, Fraction(1)), Fraction(size))
            for n, (sides, size) in sizes.items()
        }

    # Between two of these scales no layer reaches one weight or all, so the sum is linear.
    bends = {Fraction(end, sides) for sides, size in sizes.values() for end in (1, size)}
    scale = max(bend for bend in bends if sum(quotas(bend).values()) <= kept)
    missing = kept - sum(quotas(scale).values(), Fraction(0))
    free = sum(sides for sides, size in sizes.values() if 1 <= scale * sides < size)
    return _rounded(quotas(scale + Fraction(missing, free) if free else scale))


def _rounded(quotas: Mapping[str, Fraction]) -> dict[str, int]:
    """Round to whole weights of the same sum: down, and up where that took most.

    >>> _rounded({"a": Fraction(5, 4), "b": Fraction(3, 2), "c": Fraction(5, 4)})
    {'a': 1, 'b': 2, 'c': 1}
    """
    counts = {name: int(quota) for name, quota in quotas.items()}
    left = int(sum(quotas.values())) - sum(counts.values())
    losers = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    return counts | {name: counts[name] + 1 for name in losers[:left]}


ALLOCATIONS: dict[str, Allocation] = {
    "erk": erk,
    "global": global_,
    "global_layer_mean": global_layer_mean,
    "lamp": lamp,
    "uniform": uniform,
}


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a pattern leaves to choose from."""

    scores: Mapping[str, Tensor]
    """By layer, one a candidate, two-dimensional."""
    sparsity: float | None
    """The share of candidates to remove. None: they are of different sizes, and as many are removed
    as bring the sparsity of weights nearest to the one that is asked for."""
    masks: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """Turns the candidates that are kept, bool, into masks of weights."""


Pattern = Callable[[Mapping[str, Tensor], float], Candidates]
"""Turns the scores of all layers and a sparsity into candidates."""


def unstructured(scores: Mapping[str, Tensor], sparsity: float) -> Candidates:
    """Let every weight be kept or not, whatever its neighbours are."""
    return Candidates(scores, sparsity, dict)


@dataclass(frozen=True, slots=True)
class Groups:
    """Keep at most n of every m inputs of an output that follow each other: n:m sparsity.

    The candidates are the n highest scores of each group, of equals the earlier ones. Where the
    number of inputs is no multiple of m, the last group of a row is what remains, and at most n of
    it are kept too. While a schedule asks for more weights than n of m, groups keep as many more as
    that takes, so the pattern holds from a sparsity of 1 - n/m on; at that sparsity, and with
    multiples of m, each group keeps exactly n.

    Examples
    --------
    >>> scores = {"top": torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]])}
    >>> keep_exactly(scores, 0.6, pattern=Groups(1, 2))
    {'top': tensor([[ True, False,  True, False, False]])}
    """

    n: int
    m: int

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> Candidates:
        """Leave the best of each group."""
        shapes = [score.shape for score in scores.values()]

        def left(most: int) -> int:
            return sum(o * (i // self.m * most + min(i % self.m, most)) for o, i in shapes)

        kept = kept_of(left(self.m), len(shapes), sparsity)
        most = next(most for most in range(self.n, self.m + 1) if left(most) >= kept)
        best = {name: self._best(score, most) for name, score in scores.items()}
        return Candidates(
            {name: score[best[name]].view(len(score), -1) for name, score in scores.items()},
            1 - kept / left(most),
            lambda chosen: {
                name: torch.zeros_like(one).masked_scatter_(one, chosen[name])
                for name, one in best.items()
            },
        )

    def _best(self, scores: Tensor, most: int) -> Tensor:
        """Return where the highest scores of each group stand, bool, shape (out, in)."""
        rows, columns = scores.shape
        filled = functional.pad(scores, (0, -columns % self.m), value=-torch.inf)
        groups = filled.view(rows, -1, self.m)
        order = groups.argsort(dim=2, descending=True, stable=True)[..., :most]
        best = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order, True)
        return best.view(rows, -1)[:, :columns]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Keep or prune rows x columns neighbours together, by the mean of their scores.

    Where a layer is no multiple of a block, those at its lower and right edge are smaller; among
    whole blocks the mean ranks as the sum does. As many blocks are kept as bring the number of
    weights nearest to what the sparsity asks (of equals the fewer), at least one block a layer.

    Examples
    --------
    >>> scores = {"top": torch.tensor([[1.0, 1.0, 3.0], [1.0, 1.0, 2.0]])}
    >>> keep_exactly(scores, 0.5, pattern=Blocks(2, 2))
    {'top': tensor([[False, False,  True],
            [False, False,  True]])}
    """

    rows: int
    columns: int

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> Candidates:
        """Leave whole blocks."""
        return Candidates(
            {name: self._means(score) for name, score in scores.items()},
            None,
            lambda chosen: {
                name: chosen[name]
                .repeat_interleave(self.rows, 0)
                .repeat_interleave(self.columns, 1)[: score.shape[0], : score.shape[1]]
                .contiguous()
                for name, score in scores.items()
            },
        )

    def _means(self, scores: Tensor) -> Tensor:
        """Return the mean over each block in float64, one row a row of blocks."""
        scores = scores.double()
        return self._sums(scores) / self._sums(torch.ones_like(scores))

    def _sums(self, values: Tensor) -> Tensor:
        rows, columns = values.shape
        down, across = -(-rows // self.rows), -(-columns // self.columns)
        edge = (0, across * self.columns - columns, 0, down * self.rows - rows)
        filled = functional.pad(values, edge)
        return filled.view(down, self.rows, across, self.columns).sum((1, 3))


def pattern_of(text: str) -> Pattern:
    """Read a pattern as it stands in the settings.

    >>> pattern_of("2:4"), pattern_of("4x1")
    (Groups(n=2, m=4), Blocks(rows=4, columns=1))
    >>> pattern_of("4:2")
    Traceback (most recent call last):
    ...
    ValueError: unknown pattern '4:2'; known: 'unstructured', N:M such as '2:4', where N is less ...
    """
    if text == unstructured.__name__:
        return unstructured
    if found := re.fullmatch(r"([1-9]\d{0,5})([:x])([1-9]\d{0,5})", text):
        first, last = int(found[1]), int(found[3])
        if found[2] == "x":
            return Blocks(first, last)
        if first < last:
            return Groups(first, last)
    raise ValueError(
        f"unknown pattern {text!r}; known: 'unstructured', N:M such as '2:4', where N is less than "
        "M, and blocks of ROWSxCOLUMNS such as '4x1'"
    )


def keep_exactly(
    scores: Mapping[str, Tensor],
    sparsity: float,
    allocation: str = "global",
    pattern: Pattern = unstructured,
) -> dict[str, Tensor]:
    """Keep the highest scores: exactly as many as a sparsity asks, at least one a layer.

    Parameters
    ----------
    scores
        By layer, shape (out, in), finite.
    sparsity
        Share of all weights to remove, 0 to 1; whole :class:`Blocks` come as near as they can.
    allocation
        How much of which layer, one of :data:`ALLOCATIONS`. It shares out the candidates that the
        pattern leaves.
    pattern
        Which weights may be kept beside each other.

    Returns
    -------
    By layer, bool, shape (out, in), True is kept.

    Examples
    --------
    >>> keep_exactly({"top": torch.tensor([[3.0, 1.0, 2.0, 0.0]])}, sparsity=0.5)
    {'top': tensor([[ True, False,  True, False]])}
    """
    candidates = pattern(scores, sparsity)

    def masks(sparsity: float) -> dict[str, Tensor]:
        counts = ALLOCATIONS[allocation](candidates.scores, sparsity)
        return candidates.masks({n: top_k(one, counts[n]) for n, one in candidates.scores.items()})

    if candidates.sparsity is not None:
        return masks(candidates.sparsity)
    weights, total = (sum(map(Tensor.numel, of.values())) for of in (scores, candidates.scores))
    wanted = kept_of(weights, len(scores), sparsity)

    def weights_of(candidates_kept: int) -> int:
        return sum(int(mask.sum()) for mask in masks(1 - candidates_kept / total).values())

    numbers = range(len(scores), total + 1)
    enough = bisect_left(numbers, wanted, key=weights_of)
    near = numbers[max(0, enough - 1) : enough + 1]
    return masks(1 - min(near, key=lambda number: abs(weights_of(number) - wanted)) / total)
