"""What tells a sparse learner under which mask to learn: declared here, handed in from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stream.spec import Waiting


@dataclass(frozen=True, slots=True)
class Continue:
    """Learn the next batch under the mask you have."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Become this snapshot before the next batch; one that is this version already goes on."""

    version: int
    """Versions of the sparse model grow by one with each swap; the first mask is version 1."""
    snapshot: str
    """Name of the candidate's snapshot, as the store of snapshots knows it."""
    count: int
    """E: the candidate has learned events 1 .. E."""
    mask: str | None = None
    """Content hash of its mask, for whoever publishes it."""


@dataclass(frozen=True, slots=True)
class RollBackTo:
    """Take the weights, sums and mask of an earlier version back, and go on from where you are."""

    to: Swap
    """Its ``version`` is a new one, its snapshot the earlier one's, ``count`` where it begins."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that decides the mask of the next batch is not known yet."""

    waiting: Waiting
    """What is missing, such as the verdict on rebuild 3."""


@dataclass(frozen=True, slots=True)
class NoModel:
    """No mask will ever come: the input ended before one was made."""


Answer = Continue | Swap | RollBackTo | Wait | NoModel


class MaskSource(Protocol):
    """Decides at every boundary of a batch under which mask the next one is learned."""

    def at(self, count: int | None) -> Answer:
        """Answer a model that has learned ``count`` events; None for one that has not started.

        It never blocks. The same count gets the same answer for ever once that is not
        :class:`Wait`.
        """


class ModelRegistry(Protocol):
    """Where the world sees which sparse model is in force."""

    def publish(self, swap: Swap) -> None:
        """Make this version the head; it only moves forward."""

    def tend(self, version: int) -> None:
        """See that the world still sees this version; called at every step, it seldom acts.

        Neither of the two raises where the world cannot be told now: it is told later.
        """
