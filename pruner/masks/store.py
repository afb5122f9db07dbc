"""Where masks are kept for those who serve: a projection of the ledger.

Masks are blobs named by their content. The head says which version is in force; only the sparse
learner moves it, only forward, and only to a mask that is there: who reads the head can read its
mask. Nothing here decides anything: a store that was wiped is filled again from the ledger and the
snapshots.

::

    StoreError
        StoreAwayError      cannot be reached, or takes nothing for now: go on, and try again
        StoreRefusedError   refuses for good: the settings must change
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from learner.registry import Swap
from pruner.masks import MaskDamagedError, content_hash, pack, unpack
from stream.state import write_atomic

HISTORY = 1000
"""Heads that a store remembers."""


KEPT = 3
"""Last versions whose masks a store never forgets, unless it is told otherwise."""


class StoreError(Exception):
    """A mask store did not do what it was asked for."""


class StoreAwayError(StoreError):
    """A mask store cannot be reached, or takes nothing for now; it may be back later."""


class StoreRefusedError(StoreError):
    """A mask store refuses who asks or what it holds is another's: the settings must change."""


class MaskMissingError(LookupError):
    """A store holds no mask of that name."""


class MaskStore(Protocol):
    """Keeps masks and the head, for several processes at once.

    Any of its methods may raise :class:`StoreError`.
    """

    def check(self) -> None:
        """See that the store can be used.

        Raises :class:`StoreRefusedError` where only other settings would help, and
        :class:`StoreAwayError` where that cannot be told now.
        """

    def close(self) -> None:
        """Let go of connections."""

    def put(self, masks: Mapping[str, Tensor]) -> str:
        """Keep masks and return their content hash; the same masks are kept once."""

    def get(self, mask: str) -> dict[str, Tensor]:
        """Return masks by their content hash.

        Raises :class:`MaskMissingError`, and :class:`~pruner.masks.MaskDamagedError` where what is
        kept does not match its name.
        """

    def names(self) -> tuple[str, ...]:
        """Return the content hashes of all masks kept, ascending."""

    def retain(self, masks: Collection[str]) -> None:
        """Forget all masks but these, the head's and those of the last versions."""

    def publish(self, swap: Swap, earlier: Sequence[Swap] = ()) -> None:
        """Make this version the head if it is greater than the head's.

        Raises :class:`MaskMissingError` where its mask is not there.

        Parameters
        ----------
        swap
            The version in force.
        earlier
            Versions before it, oldest first; those that the history lacks are filled in, unless
            the head is past ``swap``.
        """

    def head(self) -> Swap | None:
        """Return the version in force."""

    def history(self) -> tuple[Swap, ...]:
        """Return the last heads, oldest first, the one in force included."""


@dataclass(slots=True)
class MemoryMaskStore:
    """Keeps masks as long as the process lives.

    Examples
    --------
    >>> import torch
    >>> store = MemoryMaskStore()
    >>> name = store.put({"top": torch.tensor([[True, False]])})
    >>> store.get(name)
    {'top': tensor([[ True, False]])}
    >>> store.publish(Swap(2, "candidate-5/150000-af", 150_000, name))
    >>> store.publish(Swap(1, "candidate-4/100000-9c", 100_000, name))
    >>> store.head().version
    2
    """

    versions: int = KEPT
    """Last versions whose masks are never forgotten."""
    _blobs: dict[str, bytes] = field(default_factory=dict)
    _history: tuple[Swap, ...] = ()
    _alone: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self) -> None:
        """Nothing can be wrong with it."""

    def close(self) -> None:
        """Nothing is held."""

    def put(self, masks: Mapping[str, Tensor]) -> str:
        """Keep masks and return their content hash."""
        packed = pack(masks)
        name = content_hash(packed)
        self._blobs[name] = packed
        return name

    def get(self, mask: str) -> dict[str, Tensor]:
        """Return masks by their content hash."""
        if mask not in self._blobs:
            raise MaskMissingError(missing(mask, self.names()))
        if content_hash(self._blobs[mask]) != mask:
            raise MaskDamagedError(f"mask {mask} does not hold what it is named after")
        return unpack(self._blobs[mask])

    def names(self) -> tuple[str, ...]:
        """Return the content hashes of all masks kept."""
        return tuple(sorted(self._blobs))

    def retain(self, masks: Collection[str]) -> None:
        """Forget all masks but these, the head's and those of the last versions."""
        with self._alone:
            for name in _to_forget(self, masks, self.versions):
                del self._blobs[name]

    def publish(self, swap: Swap, earlier: Sequence[Swap] = ()) -> None:
        """Make this version the head if it is greater than the head's."""
        with self._alone:
            if not past(self._history, swap):
                _need(swap.mask, self.names())
                self._history = moved(self._history, swap, earlier)

    def head(self) -> Swap | None:
        """Return the version in force."""
        return self._history[-1] if self._history else None

    def history(self) -> tuple[Swap, ...]:
        """Return the last heads, oldest first."""
        return self._history


@dataclass(frozen=True, slots=True)
class DiskMaskStore:
    """Keeps masks in a folder: ``<hash>.mask`` each, and ``head.json``.

    Parameters
    ----------
    folder
        Made if need be.
    versions
        Last versions whose masks are never forgotten.

    Examples
    --------
    >>> import tempfile, torch
    >>> store = DiskMaskStore(Path(tempfile.mkdtemp()))
    >>> name = store.put({"top": torch.tensor([[True, False]])})
    >>> store.names() == (name,), store.head() is None
    (True, True)
    """

    folder: Path
    versions: int = KEPT

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Do nothing: whoever has the state folder may write into it."""

    def close(self) -> None:
        """Nothing is held."""

    def put(self, masks: Mapping[str, Tensor]) -> str:
        """Keep masks and return their content hash."""
        packed = pack(masks)
        name = content_hash(packed)
        with self._alone():
            write_atomic(self._path(name), packed)
        return name

    def get(self, mask: str) -> dict[str, Tensor]:
        """Return masks by their content hash."""
        try:
            packed = self._path(mask).read_bytes()
        except FileNotFoundError:
            raise MaskMissingError(missing(mask, self.names())) from None
        if content_hash(packed) != mask:
            raise MaskDamagedError(
                f"{self._path(mask)} holds {content_hash(packed)}, not what it is named after; "
                "delete it: the pruner writes it again from the snapshot"
            )
        return unpack(packed)

    def names(self) -> tuple[str, ...]:
        """Return the content hashes of all masks kept."""
        return tuple(sorted(path.stem for path in self.folder.glob("[!.]*.mask")))

    def retain(self, masks: Collection[str]) -> None:
        """Forget all masks but these, the head's and those of the last versions."""
        with self._alone():
            for name in _to_forget(self, masks, self.versions):
                self._path(name).unlink(missing_ok=True)

    def publish(self, swap: Swap, earlier: Sequence[Swap] = ()) -> None:
        """Make this version the head if it is greater than the head's."""
        with self._alone():
            before = self.history()
            if past(before, swap):
                return
            _need(swap.mask, self.names())
            after = moved(before, swap, earlier)
            if after != before:
                content = json.dumps([asdict(one) for one in after], indent=1)
                write_atomic(self.folder / "head.json", content.encode())

    def head(self) -> Swap | None:
        """Return the version in force."""
        history = self.history()
        return history[-1] if history else None

    def history(self) -> tuple[Swap, ...]:
        """Return the last heads, oldest first."""
        try:
            content = (self.folder / "head.json").read_bytes()
        except FileNotFoundError:
            return ()
        return tuple(Swap(**one) for one in json.loads(content))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.mask"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other thread or process write or forget anything meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def moved(history: tuple[Swap, ...], swap: Swap, earlier: Sequence[Swap] = ()) -> tuple[Swap, ...]:
    """Add a head, if its version is greater than the last one's, and what lacks before it.

    >>> one, two = Swap(1, "one", 500), Swap(2, "two", 900)
    >>> moved((two,), one)
    (Swap(version=2, snapshot='two', count=900, mask=None),)
    >>> moved((two,), two, earlier=[one]) == (one, two)
    True
    """
    if past(history, swap):
        return history
    before = [one for one in earlier if one.version < swap.version]
    known = {one.version: one for one in (*before, swap, *history)}
    return tuple(known[version] for version in sorted(known))[-HISTORY:]


def past(history: Sequence[Swap], swap: Swap) -> bool:
    """Say whether the head is past a version.

    >>> past([Swap(2, "two", 900)], Swap(1, "one", 500))
    True
    """
    return bool(history) and swap.version < history[-1].version


def _need(mask: str | None, known: Collection[str]) -> None:
    """See that a head's mask is there; a head may name none."""
    if mask is not None and mask not in known:
        raise MaskMissingError(missing(mask, known))


def _to_forget(store: MaskStore, kept: Collection[str], versions: int) -> list[str]:
    used = {*kept, *(swap.mask for swap in store.history()[-versions:])}
    return [name for name in store.names() if name not in used]


def missing(mask: str, known: Collection[str]) -> str:
    """Say that a store lacks a mask.

    >>> missing("af", [])
    "no mask 'af' in the store; it holds none"
    """
    return f"no mask {mask!r} in the store; it holds {', '.join(known) or 'none'}"
