"""The registry of the served model: a store that is kept complete, and how one is followed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from learner import ModelVersion, Publication, SnapshotError, SnapshotStore, masks_of
from pruner.masks.store import (
    MaskDamagedError,
    MaskMissingError,
    MaskStore,
    StoreAwayError,
    StoreError,
    content_hash,
    pack,
)

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
"""Seconds between two tries to reach a store that has been away for long."""

_FAULTS = (StoreError, MaskMissingError, SnapshotError)


class ReconcilingRegistry:
    """Publishes masks and the head to a store, and keeps going where the store is away.

    It knows what belongs into the store: the pruner names the versions that are kept, the served
    model's trainer what is in force. :meth:`reconcile` checks every few seconds that all of it is
    there, and restores what is missing: after a wipe, damage or an absence. It is the
    :class:`learner.ModelRegistry` of the served model. One thread uses one registry.

    Parameters
    ----------
    store
        Where to publish. What it refuses at the start raises
        :class:`~pruner.masks.StoreRefusedError` here; whatever happens later is logged, and does
        not raise.
    snapshots
        Where the masks of every kept version can be read.
    versions
        Returns all versions that the ledger names, for the head after a restart.
    check_seconds
        Between two checks; the first pause before a store that is away is tried again.
    clock
        Seconds that only grow.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from pruner.masks.store import MemoryMaskStore
    >>> store = MemoryMaskStore()
    >>> registry = ReconcilingRegistry(store, SnapshotStore(Path(tempfile.mkdtemp())))
    >>> mask = store.put({"top": torch.tensor([[True, False]])})
    >>> registry.publish(Publication(1, 0, "candidate-1/150000-af", 150_000, mask))
    >>> store.head().version, registry.away
    (1, None)
    """

    def __init__(
        self,
        store: MaskStore,
        snapshots: SnapshotStore,
        versions: Callable[[], Iterable[ModelVersion]] = tuple,
        *,
        check_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._versions = versions
        self._check_seconds = check_seconds
        self._clock = clock
        self._last: Publication | None = None
        self._kept: tuple[ModelVersion, ...] | None = None
        self._retained: tuple[object, ...] = ()
        self._version = 0
        self._due = clock()
        self._pause = check_seconds
        self._reason = ""
        self._since: float | None = None
        try:
            store.check()
        except StoreAwayError as error:
            self._failed(error)

    @property
    def away(self) -> str | None:
        """Why the store lacks something and since when, in words; None while it lacks nothing."""
        if self._since is None:
            return None
        return f"{self._reason} (for {self._clock() - self._since:.0f} s)"

    def put(self, masks: Mapping[str, Tensor]) -> None:
        """Put masks into the store before anything names them; where it is away, later."""
        if self._since is None:
            try:
                self._store.put(masks)
            except _FAULTS as error:
                self._failed(error)

    def keep(self, versions: Sequence[ModelVersion]) -> None:
        """Keep the masks of these versions, and delete those of others."""
        self._kept = tuple(versions)
        self._check_soon()
        self.reconcile()

    def publish(self, publication: Publication) -> None:
        """Make a publication the head; the head only moves forward."""
        if self._last is None or publication.rank > self._last.rank:
            self._last = publication
            self._check_soon()
        self.reconcile(publication.version)

    def reconcile(self, version: int = 0) -> None:
        """Check that the store holds what it should, if it is time, and restore what it lacks.

        It costs next to nothing where it is not time, and at most a few times the store's own
        timeout where that is away.

        Parameters
        ----------
        version
            The version in force, as the caller knows; 0 where it does not decide that.
        """
        if version > self._version:
            self._version = version
            self._check_soon()
        if self._clock() >= self._due:
            self._restore_all()

    def close(self) -> None:
        """Check a last time that everything is there, and close the store."""
        self._restore_all()
        self._store.close()

    def _restore_all(self) -> None:
        current = self._current()
        try:
            head = self._store.head()
            if current is not None:
                self._last = self._restore(current)
                self._store.publish(self._last)
            for kept in reversed(self._kept or ()):
                self._restore(Publication.first(kept))
            self._delete_others(head)
        except _FAULTS as error:
            self._failed(error)
        else:
            self._succeeded(complete=current is not None or not self._version)

    def _current(self) -> Publication | None:
        """Return the publication in force; None while only its version is known."""
        if self._last is not None and self._last.version == self._version:
            return self._last
        named = (one for one in self._versions() if one.version == self._version)
        return next((Publication.first(one) for one in named), None)

    def _restore(self, publication: Publication) -> Publication:
        """Put its mask into a store that lacks it, and return the publication with its mask."""
        if publication.mask is None:
            masks = masks_of(self._snapshots.read(publication.snapshot))
            publication = replace(publication, mask=content_hash(pack(masks)))
        try:
            self._store.get(publication.mask or "")
        except (MaskMissingError, MaskDamagedError) as error:
            self._store.put(masks_of(self._snapshots.read(publication.snapshot)))
            log.info("mask of version %d restored: %s", publication.version, error)
        return publication

    def _delete_others(self, head: Publication | None) -> None:
        """Delete the masks of versions that are not kept, once the head is past them too."""
        if self._kept is None or self._retained == (self._kept, head):
            return
        self._store.retain({one.mask for one in self._kept if one.mask})
        self._retained = (self._kept, head)

    def _check_soon(self) -> None:
        """Check at the next occasion; a store that is away is not asked more often for that."""
        if self._since is None:
            self._due = self._clock()

    def _succeeded(self, *, complete: bool) -> None:
        """Note that everything that is known is in the store."""
        now = self._clock()
        if self._since is not None:
            log.warning("the mask store is back after %.0f s", now - self._since)
        self._since, self._pause = None, self._check_seconds
        self._due = now + self._check_seconds if complete else now

    def _failed(self, error: Exception) -> None:
        """Note that the store lacks something; log it once."""
        now = self._clock()
        self._reason = str(error)
        if self._since is None:
            self._since = now
            log.warning("the mask store is away, learning goes on without it: %s", error)
        self._due = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A publication of the sparse model, with its masks."""

    publication: Publication
    masks: dict[str, Tensor] = field(repr=False)


class RegistryFollower:
    """Follows the head of a store, for a server of the model.

    A store that is away, a head that went back after a wipe and a mask that is missing or damaged
    change nothing: the last good publication stays, and the next :meth:`poll` tries again.

    Parameters
    ----------
    store
        What the served model's trainer publishes to.

    Examples
    --------
    >>> import torch
    >>> from pruner.masks.store import MemoryMaskStore
    >>> store = MemoryMaskStore()
    >>> follower = RegistryFollower(store)
    >>> follower.poll() is None
    True
    >>> mask = store.put({"top": torch.tensor([[True, False]])})
    >>> store.publish(Publication(1, 0, "candidate-1/150000-af", 150_000, mask))
    >>> follower.poll().masks
    {'top': tensor([[ True, False]])}
    """

    def __init__(self, store: MaskStore) -> None:
        self._store = store
        self.served: ServedModel | None = None
        self.fault: str | None = None
        """Why the last poll could not follow, in words."""

    def poll(self) -> ServedModel | None:
        """Look at the head, and return what is to be served; None before the first version."""
        try:
            self._follow()
        except (StoreError, MaskMissingError, MaskDamagedError) as error:
            if self.fault is None:
                log.warning("the last mask stays in service: %s", error)
            self.fault = str(error)
        else:
            self.fault = None
        return self.served

    def _follow(self) -> None:
        head, served = self._store.head(), self.served
        if head is None or head.mask is None:
            return
        if served is None or head.rank > served.publication.rank:
            self.served = ServedModel(head, self._store.get(head.mask))
