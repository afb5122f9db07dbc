"""Where masks are kept for those who serve: a projection of the ledger.

Masks are blobs named by their content. The head says which version is in force; only the sparse
learner moves it, and only forward. Nothing here decides anything: a store that was wiped is filled
again from the ledger and the snapshots.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from learner.regime import Swap
from pruner.masks import MaskDamagedError, content_hash, pack, unpack
from stream.state import write_atomic

HISTORY = 1000
"""Heads that a store remembers."""


class MaskMissingError(LookupError):
    """A store holds no mask of that name."""


class MaskStore(Protocol):
    """Keeps masks and the head. It is also the :class:`learner.regime.Head`."""

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
        """Forget all masks but these and the head's."""

    def publish(self, swap: Swap) -> None:
        """Make this version the head if it is greater than the head's; else do nothing."""

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

    _blobs: dict[str, bytes] = field(default_factory=dict)
    _history: tuple[Swap, ...] = ()

    def put(self, masks: Mapping[str, Tensor]) -> str:
        """Keep masks and return their content hash."""
        packed = pack(masks)
        name = content_hash(packed)
        self._blobs[name] = packed
        return name

    def get(self, mask: str) -> dict[str, Tensor]:
        """Return masks by their content hash."""
        if mask not in self._blobs:
            raise MaskMissingError(_missing(mask, self.names()))
        return unpack(self._blobs[mask])

    def names(self) -> tuple[str, ...]:
        """Return the content hashes of all masks kept."""
        return tuple(sorted(self._blobs))

    def retain(self, masks: Collection[str]) -> None:
        """Forget all masks but these and the head's."""
        for name in _to_forget(self, masks):
            del self._blobs[name]

    def publish(self, swap: Swap) -> None:
        """Make this version the head if it is greater than the head's."""
        self._history = moved(self._history, swap)

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

    Examples
    --------
    >>> import tempfile, torch
    >>> store = DiskMaskStore(Path(tempfile.mkdtemp()))
    >>> name = store.put({"top": torch.tensor([[True, False]])})
    >>> store.names() == (name,), store.head() is None
    (True, True)
    """

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(self, masks: Mapping[str, Tensor]) -> str:
        """Keep masks and return their content hash."""
        packed = pack(masks)
        name = content_hash(packed)
        write_atomic(self._path(name), packed)
        return name

    def get(self, mask: str) -> dict[str, Tensor]:
        """Return masks by their content hash."""
        try:
            packed = self._path(mask).read_bytes()
        except FileNotFoundError:
            raise MaskMissingError(_missing(mask, self.names())) from None
        if content_hash(packed) != mask:
            raise MaskDamagedError(
                f"{self._path(mask)} holds {content_hash(packed)}, not what it is named after; "
                "delete it: the pruner writes it again from the snapshot"
            )
        return unpack(packed)

    def names(self) -> tuple[str, ...]:
        """Return the content hashes of all masks kept."""
        return tuple(sorted(path.stem for path in self.folder.glob("*.mask")))

    def retain(self, masks: Collection[str]) -> None:
        """Forget all masks but these and the head's."""
        for name in _to_forget(self, masks):
            self._path(name).unlink(missing_ok=True)

    def publish(self, swap: Swap) -> None:
        """Make this version the head if it is greater than the head's."""
        before = self.history()
        after = moved(before, swap)
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


def moved(history: tuple[Swap, ...], swap: Swap) -> tuple[Swap, ...]:
    """Add a head, if its version is greater than the last one's.

    >>> moved((Swap(2, "two", 900),), Swap(1, "one", 500))
    (Swap(version=2, snapshot='two', count=900, mask=None),)
    """
    if history and swap.version <= history[-1].version:
        return history
    return (*history, swap)[-HISTORY:]


def _to_forget(store: MaskStore, kept: Collection[str]) -> list[str]:
    head = store.head()
    used = {*kept, head.mask if head else None}
    return [name for name in store.names() if name not in used]


def _missing(mask: str, known: Collection[str]) -> str:
    return f"no mask {mask!r} in the store; it holds {', '.join(known) or 'none'}"
