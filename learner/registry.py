"""The versions of a sparse model: who decides on them, and where they are published.

Both are declared here and handed to the trainer from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stream import Waiting


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of the sparse model, as it begins."""

    version: int
    """Versions grow by one with each switch and each rollback; the first mask is version 1."""
    snapshot: str
    """Name of the snapshot that it begins as, as the store of snapshots knows it."""
    count: int
    """Events after which it begins."""
    mask: str | None = None
    """Content hash of its mask."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Learn the next batch as the version that the model is."""


@dataclass(frozen=True, slots=True)
class SwitchTo:
    """Become this version before the next batch; a model that is this version already continues."""

    to: ModelVersion
    """Its snapshot has learned ``count`` events."""


@dataclass(frozen=True, slots=True)
class RollBackTo:
    """Have weights, sums and masks of an earlier version again, and continue from this count."""

    to: ModelVersion
    """Its ``version`` is a new one, its snapshot the earlier one's, ``count`` where it begins."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that decides the mask of the next batch is not known yet."""

    waiting: Waiting
    """What is missing, such as the verdict on rebuild 3."""


@dataclass(frozen=True, slots=True)
class NoModel:
    """There will never be a mask: the input ended before one was made."""


Answer = Continue | SwitchTo | RollBackTo | Wait | NoModel


class MaskSource(Protocol):
    """Decides at every boundary of a batch as which version the next one is learned."""

    def at(self, count: int | None) -> Answer:
        """Answer a model that has learned ``count`` events; None for one that has not started.

        It never blocks. The same count gets the same answer for ever once that is not
        :class:`Wait`.
        """


@dataclass(frozen=True, slots=True)
class Publication:
    """The weights and masks to serve: a version, as it began or as it was some events later."""

    version: int
    sequence: int
    """0 where the version begins, then growing by one with each publication of its weights."""
    snapshot: str
    """Name of the snapshot that holds them."""
    count: int
    """Events that it has learned."""
    mask: str | None = None
    """Content hash of its mask; None: that of the masks in the snapshot."""

    @classmethod
    def first(cls, of: ModelVersion) -> Publication:
        """Return the first publication of a version.

        >>> Publication.first(ModelVersion(2, "candidate-5/150000-af", 150_000)).sequence
        0
        """
        return cls(of.version, 0, of.snapshot, of.count, of.mask)

    @property
    def rank(self) -> tuple[int, int]:
        """Version and sequence: of two publications the greater one is newer."""
        return self.version, self.sequence


class ModelRegistry(Protocol):
    """Where everybody else sees which weights are in force.

    Neither method raises where the registry cannot be reached: it catches up later.
    """

    def publish(self, publication: Publication) -> None:
        """Put a publication in force, if it is newer than the one there."""

    def reconcile(self, version: int) -> None:
        """Restore what the registry lacks; called at every step, it seldom acts.

        Parameters
        ----------
        version
            The version in force.
        """
