"""The versions of the sparse model: what the ledger tells of them, and how their masks differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.regime import Swap
from pruner.ledger import FIRST, swap_back, swap_of
from stream.messages import Decision, Layer, Verdict

SHORTEST = 6
"""Digits by which a mask may be named, at least."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the sparse model, as the ledger tells of it."""

    swap: Swap
    made_by: str
    """In words: the rebuild, or the rollback."""
    sparsity: float | None
    layers: Mapping[str, Layer]

    @property
    def number(self) -> int:
        """The version."""
        return self.swap.version


@dataclass(frozen=True, slots=True)
class Difference:
    """How two masks of one layer differ, in weights."""

    weights: int
    both: int
    """Kept by both."""
    only_a: int
    only_b: int


def versions(ledger: Iterable[Decision | Verdict]) -> tuple[Version, ...]:
    """Return all versions that a ledger tells of, oldest first."""
    found: dict[int, Version] = {}
    for one in ledger:
        made = _made(one, found)
        if made is not None:
            found[made.number] = made
    return tuple(found.values())


def _made(message: Decision | Verdict, earlier: Mapping[int, Version]) -> Version | None:
    if isinstance(message, Verdict):
        return _promoted(message) if message.verdict == "promoted" else None
    back = message.rollback
    if back is None:
        return None
    old = earlier[back.to_version]
    # What it shares with the version before it, only the masks can tell.
    layers = {n: one.model_copy(update={"overlap": None}) for n, one in old.layers.items()}
    return Version(swap_back(back), f"back to version {old.number}", old.sparsity, layers)


def _promoted(verdict: Verdict) -> Version:
    plan = verdict.rebuild
    made_by = "first mask" if plan.reason == FIRST else f"rebuild {plan.number}, {plan.reason}"
    return Version(swap_of(verdict), made_by, verdict.sparsity, verdict.layers)


def find(known: Sequence[Version], named: str) -> Version:
    """Return the version of a number, or the last one of a mask named by its first digits.

    >>> one = Version(Swap(1, "candidate-1/9-af", 9, "d32172defc9c76d1"), "first mask", 0.8, {})
    >>> find([one], "1") is one, find([one], "d32172d") is one
    (True, True)
    >>> find([one], "7")
    Traceback (most recent call last):
    ...
    ValueError: no version '7'; versions are 1 (or give 6 digits or more of a mask's hash)
    """
    numbered = [one for one in known if str(one.number) == named]
    hashed = [one for one in known if (one.swap.mask or "").startswith(named)]
    found = numbered or (hashed if len(named) >= SHORTEST else [])
    masks = sorted({one.swap.mask or "" for one in found})
    if len(masks) > 1:
        raise ValueError(f"{named!r} begins several masks: {', '.join(masks)}; give more digits")
    if not found:
        there = ", ".join(str(one.number) for one in known) or "none yet"
        raise ValueError(
            f"no version {named!r}; versions are {there} (or give {SHORTEST} digits or more of a "
            "mask's hash)"
        )
    return found[-1]


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Difference]:
    """Compare two masks, layer by layer.

    >>> import torch
    >>> a = {"top": torch.tensor([[True, True, False, False]])}
    >>> difference(a, {"top": torch.tensor([[True, False, True, False]])})
    {'top': Difference(weights=4, both=1, only_a=1, only_b=1)}
    """
    return {name: _difference(a[name], b[name]) for name in a}


def _difference(a: Tensor, b: Tensor) -> Difference:
    both = int((a & b).sum())
    return Difference(a.numel(), both, int(a.sum()) - both, int(b.sum()) - both)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Put cells under each other, all but the last column as wide as their widest cell.

    >>> list(columns([("layer", "kept"), ("bottom.0", "12")]))
    ['layer     kept', 'bottom.0  12']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
