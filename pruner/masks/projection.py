"""The projection: what the ledger says, shown in a mask store that may come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from learner.online import MASK
from learner.registry import Swap
from learner.snapshots import Snapshot, SnapshotError, SnapshotStore
from pruner.masks import MaskDamagedError
from pruner.masks.store import MaskMissingError, MaskStore, StoreAwayError, StoreError

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
"""Seconds between two tries to reach a store that has been away for long."""

_FAULTS = (StoreError, MaskMissingError, SnapshotError)


class Projection:
    """Shows masks, head and history in a store, and goes on without it where it is away.

    It knows what belongs into the store: the pruner says which versions are kept, the sparse
    learner which one is in force. :meth:`tend` sees every few seconds that all of it is there, and
    fills in what lacks: after a wipe, damage or an absence. It is the
    :class:`learner.registry.ModelRegistry` of the sparse learner. One thread uses one projection.

    Parameters
    ----------
    store
        Where to show it. What refuses at the start raises
        :class:`~pruner.masks.store.StoreRefusedError` here; whatever happens later is said, and
        does not raise.
    snapshots
        Where the masks of every kept version can be read.
    swaps
        Returns all versions that the ledger tells of, for the head and the history after a
        restart.
    check_seconds
        Between two looks; the first pause before a store that is away is tried again.
    clock
        Seconds that only grow.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pruner.masks.store import MemoryMaskStore
    >>> store = MemoryMaskStore()
    >>> projection = Projection(store, SnapshotStore(Path(tempfile.mkdtemp())))
    >>> projection.publish(Swap(1, "candidate-1/150000-af", 150_000))
    >>> store.head().version, projection.away
    (1, None)
    """

    def __init__(
        self,
        store: MaskStore,
        snapshots: SnapshotStore,
        swaps: Callable[[], Iterable[Swap]] = tuple,
        *,
        check_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._swaps = swaps
        self._check_seconds = check_seconds
        self._clock = clock
        self._told: dict[int, Swap] = {}
        self._kept: tuple[Swap, ...] | None = None
        self._retained: tuple[object, ...] = ()
        self._version = 0
        self._due = clock()
        self._pause = check_seconds
        self._reason = ""
        self._since: float | None = None
        try:
            store.check()
        except StoreAwayError as error:
            self._miss(error)

    @property
    def away(self) -> str | None:
        """Say why the store lacks something and since when; None while it lacks nothing."""
        if self._since is None:
            return None
        return f"{self._reason} (for {self._clock() - self._since:.0f} s)"

    def put(self, masks: Mapping[str, Tensor]) -> None:
        """Put masks into the store before anything names them; where it is away, later."""
        if self._since is None:
            try:
                self._store.put(masks)
            except _FAULTS as error:
                self._miss(error)

    def keep(self, swaps: Sequence[Swap]) -> None:
        """Keep the masks of these versions, and forget those of others."""
        self._kept = tuple(swaps)
        self._soon()
        self.tend()

    def publish(self, swap: Swap) -> None:
        """Make this version the head; it only moves forward."""
        self._told[swap.version] = swap
        self.tend(swap.version)

    def tend(self, version: int = 0) -> None:
        """See that the store shows what it should, if it is time to look.

        It costs next to nothing where it is not time, and at most a few times the store's own
        patience where that is away.

        Parameters
        ----------
        version
            That is in force, as the caller knows; 0 where it does not decide that.
        """
        if version > self._version:
            self._version = version
            self._soon()
        if self._clock() >= self._due:
            self._fill()

    def close(self) -> None:
        """See a last time that all is there, and let go of the store."""
        self._fill()
        self._store.close()

    def _fill(self) -> None:
        versions = self._versions()
        try:
            head = self._store.head()
            for swap in dict.fromkeys((*versions[-1:], *reversed(self._kept or ()))):
                self._restore(swap)
            if versions:
                self._store.publish(versions[-1], versions[:-1])
            self._forget(head)
        except _FAULTS as error:
            self._miss(error)
        else:
            self._meet(known=bool(versions) or not self._version)

    def _versions(self) -> tuple[Swap, ...]:
        """Return all versions through the one in force; none while that is not known of."""
        known = {swap.version: swap for swap in (*self._swaps(), *self._told.values())}
        if self._version not in known:
            return ()
        return tuple(known[version] for version in sorted(known) if version <= self._version)

    def _restore(self, swap: Swap) -> None:
        """Put the mask of a version into a store that lacks it or holds a damaged one."""
        if swap.mask is None:
            return
        try:
            self._store.get(swap.mask)
        except (MaskMissingError, MaskDamagedError) as error:
            self._store.put(masks_of(self._snapshots.read(swap.snapshot)))
            log.info("mask of version %d filled in: %s", swap.version, error)

    def _forget(self, head: Swap | None) -> None:
        """Forget the masks of versions that are kept no more, once the head is past them too."""
        if self._kept is None or self._retained == (self._kept, head):
            return
        self._store.retain({swap.mask for swap in self._kept if swap.mask})
        self._retained = (self._kept, head)

    def _soon(self) -> None:
        """Look at the next occasion; one that is away is not asked more often for that."""
        if self._since is None:
            self._due = self._clock()

    def _meet(self, *, known: bool) -> None:
        """Note that everything that is known is shown."""
        now = self._clock()
        if self._since is not None:
            log.warning("the mask store is back after %.0f s", now - self._since)
        self._since, self._pause = None, self._check_seconds
        self._due = now + self._check_seconds if known else now

    def _miss(self, error: Exception) -> None:
        """Note that the store lacks something; say so once."""
        now = self._clock()
        self._reason = str(error)
        if self._since is None:
            self._since = now
            log.warning("the mask store is away, learning goes on without it: %s", error)
        self._due = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def masks_of(snapshot: Snapshot) -> dict[str, Tensor]:
    """Read the masks of a model from its snapshot, by layer."""
    found = snapshot.tensors.items()
    return {n.removeprefix(MASK): t.bool() for n, t in found if n.startswith(MASK)}


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A version of the sparse model, with its masks."""

    swap: Swap
    masks: dict[str, Tensor] = field(repr=False)


class MaskFollower:
    """Follows the head of a store.

    A store that is away, a head that went back after a wipe and a mask that is missing or damaged
    change nothing: the last good version stays, and the next :meth:`poll` tries again.

    Parameters
    ----------
    store
        What the sparse learner publishes to.

    Examples
    --------
    >>> import torch
    >>> from pruner.masks.store import MemoryMaskStore
    >>> store = MemoryMaskStore()
    >>> follower = MaskFollower(store)
    >>> follower.poll() is None
    True
    >>> mask = store.put({"top": torch.tensor([[True, False]])})
    >>> store.publish(Swap(1, "candidate-1/150000-af", 150_000, mask))
    >>> follower.poll().masks
    {'top': tensor([[ True, False]])}
    """

    def __init__(self, store: MaskStore) -> None:
        self._store = store
        self.served: Served | None = None
        self.fault: str | None = None
        """Why the last poll could not follow, in words."""

    def poll(self) -> Served | None:
        """Look at the head, and return the version to serve; None before the first."""
        try:
            self._look()
        except (StoreError, MaskMissingError, MaskDamagedError) as error:
            if self.fault is None:
                log.warning("the last mask stays in service: %s", error)
            self.fault = str(error)
        else:
            self.fault = None
        return self.served

    def _look(self) -> None:
        head = self._store.head()
        now = self.served.swap.version if self.served else 0
        if head is not None and head.version > now and head.mask is not None:
            self.served = Served(head, self._store.get(head.mask))
