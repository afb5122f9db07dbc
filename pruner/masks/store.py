"""Where masks are kept for servers of the model; ledger and snapshots can fill each store again.

Masks are blobs named by their content. The head says which publication is in force; only the
served model's trainer moves it, only forward, and only to a mask that is there: a reader of the
head can read its mask. Nothing here decides anything.

::

    StoreError
        StoreAwayError      cannot be reached, or takes nothing for now: go on, and try again
        StoreRefusedError   refuses for good: the settings must change
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from learner import Publication
from stream.messages import Layer
from stream.state import write_atomic

KEPT = 3
"""The masks of so many last heads are never deleted, unless the store is made with another number.
"""
_FORMAT = 2
"""Of ``head.json``."""
_LENGTH_BYTES = 4


class StoreError(Exception):
    """A mask store did not do what it was asked for."""


class StoreAwayError(StoreError):
    """A mask store cannot be reached, or takes nothing for now; it may be back later."""


class StoreRefusedError(StoreError):
    """A mask store refuses who asks or what it holds is another's: the settings must change."""


class MaskMissingError(LookupError):
    """A store holds no mask of that name."""


class MaskDamagedError(ValueError):
    """Bytes are not those of the masks they are said to be."""


def pack(masks: Mapping[str, Tensor]) -> bytes:
    r"""Write masks, 8 weights a byte; equal masks give equal bytes, in whatever order they come.

    The length of a JSON header (4 bytes, big-endian), the header with names and shapes, the bits.

    Parameters
    ----------
    masks
        By layer, bool, shape (out, in).

    Examples
    --------
    >>> packed = pack({"top": torch.tensor([[True, False, True]])})
    >>> packed
    b'\x00\x00\x00\x0f[["top",[1,3]]]\xa0'
    """
    names = sorted(masks)
    shapes = [[name, list(masks[name].shape)] for name in names]
    header = json.dumps(shapes, separators=(",", ":")).encode()
    flats = [masks[name].detach().cpu().numpy().reshape(-1) for name in names]
    bits = np.packbits(np.concatenate(flats) if flats else np.empty(0, np.bool_))
    return len(header).to_bytes(_LENGTH_BYTES, "big") + header + bits.tobytes()


def unpack(packed: bytes) -> dict[str, Tensor]:
    """Read back what :func:`pack` wrote.

    Raises :class:`MaskDamagedError` for bytes that it cannot have written.

    >>> unpack(pack({"top": torch.tensor([[True, False, True]])}))
    {'top': tensor([[ True, False,  True]])}
    """
    begin = _LENGTH_BYTES + int.from_bytes(packed[:_LENGTH_BYTES], "big")
    try:
        shapes = {name: tuple(shape) for name, shape in json.loads(packed[_LENGTH_BYTES:begin])}
    except ValueError as error:
        raise MaskDamagedError(f"masks of {len(packed)} bytes have no header: {error}") from None
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    bits = np.frombuffer(packed, np.uint8, offset=min(begin, len(packed)))
    if len(bits) != -(-sum(sizes) // 8):
        raise MaskDamagedError(f"masks of {sum(sizes)} weights have {len(bits)} bytes of bits")
    flat = torch.from_numpy(np.unpackbits(bits, count=sum(sizes)).astype(np.bool_))
    parts = torch.split(flat, sizes)
    return {n: part.reshape(shapes[n]).clone() for n, part in zip(shapes, parts, strict=True)}


def content_hash(packed: bytes) -> str:
    """Name packed masks by their content: 32 hexadecimal digits of their SHA-256.

    >>> content_hash(pack({"top": torch.tensor([[True]])}))
    'd32172defc9c76d1f4189bdae0ebb4be'
    """
    return hashlib.sha256(packed).hexdigest()[:32]


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Return the share of weights that masks remove, over all layers.

    >>> sparsity({"top": torch.tensor([[True, False, False, False]])})
    0.75
    """
    weights = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / weights


def overlap(mask: Tensor, before: Tensor) -> float:
    """Return the share of the weights kept now that were kept before too.

    >>> overlap(torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]]))
    0.5
    """
    return int((mask & before).sum()) / int(mask.sum())


def describe(
    masks: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None
) -> dict[str, Layer]:
    """Sum up masks layer by layer, for the ledger.

    Parameters
    ----------
    masks
        By layer; each keeps at least one weight.
    before
        The masks of the version before; None for the first.

    Examples
    --------
    >>> describe({"top": torch.tensor([[True, False]])})
    {'top': Layer(weights=2, kept=1, sparsity=0.5, overlap=None)}
    """
    return {
        name: Layer(
            weights=mask.numel(),
            kept=int(mask.sum()),
            sparsity=sparsity({name: mask}),
            overlap=None if before is None else overlap(mask, before[name]),
        )
        for name, mask in masks.items()
    }


class MaskStore(Protocol):
    """Keeps masks and the head, for several processes at once.

    Any of its methods may raise :class:`StoreError`.
    """

    def check(self) -> None:
        """Raise where the store cannot be used.

        :class:`StoreRefusedError` where only other settings would help, and
        :class:`StoreAwayError` where that cannot be found out now.
        """

    def close(self) -> None:
        """Close connections."""

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
        """Delete all masks but these and those of the last heads."""

    def publish(self, publication: Publication) -> None:
        """Make this the head if its version and sequence are greater than the head's.

        Raises :class:`MaskMissingError` where it would be the head and its mask is not there.
        """

    def head(self) -> Publication | None:
        """Return the publication in force."""


@dataclass(frozen=True, slots=True)
class Head:
    """The publication in force, and the masks of the last ones, the newest first."""

    publication: Publication | None = None
    recent: tuple[str, ...] = ()

    def moved(self, to: Publication, masks: Collection[str], kept: int) -> Head:
        """Return the head after a publication; unchanged where that is not newer.

        Raises :class:`MaskMissingError` where its mask is not among ``masks``.

        >>> one = Head().moved(Publication(1, 0, "one", 500, "af"), ["af"], kept=2)
        >>> one.moved(Publication(1, 0, "other", 500, "9c"), ["af"], kept=2) is one
        True
        >>> one.moved(Publication(1, 1, "two", 900, "9c"), ["9c", "af"], kept=2).recent
        ('9c', 'af')
        """
        if self.publication is not None and to.rank <= self.publication.rank:
            return self
        if to.mask is None:
            return Head(to, self.recent)
        if to.mask not in masks:
            raise MaskMissingError(missing(to.mask, masks))
        return Head(to, tuple(dict.fromkeys((to.mask, *self.recent)))[:kept])


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
    >>> store.publish(Publication(2, 0, "candidate-5/150000-af", 150_000, name))
    >>> store.publish(Publication(1, 7, "published-sparse/100000-9c", 100_000, name))
    >>> store.head().version
    2
    """

    versions: int = KEPT
    """The masks of so many last heads are never deleted."""
    _blobs: dict[str, bytes] = field(default_factory=dict)
    _head: Head = Head()
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
        """Delete all masks but these and those of the last heads."""
        with self._alone:
            for name in {*self.names()} - {*masks, *self._head.recent}:
                del self._blobs[name]

    def publish(self, publication: Publication) -> None:
        """Make this the head if it is newer."""
        with self._alone:
            self._head = self._head.moved(publication, self.names(), self.versions)

    def head(self) -> Publication | None:
        """Return the publication in force."""
        return self._head.publication


@dataclass(frozen=True, slots=True)
class DiskMaskStore:
    """Keeps masks in a folder: ``<hash>.mask`` each, and ``head.json``.

    Parameters
    ----------
    folder
        Made if need be.
    versions
        The masks of so many last heads are never deleted.

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
        """Raise where the head that is there is of another format."""
        self.head()

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
        """Delete all masks but these and those of the last heads."""
        with self._alone():
            for name in {*self.names()} - {*masks, *self._read().recent}:
                self._path(name).unlink(missing_ok=True)

    def publish(self, publication: Publication) -> None:
        """Make this the head if it is newer."""
        with self._alone():
            before = self._read()
            after = before.moved(publication, self.names(), self.versions)
            if after is not before:
                content = json.dumps({"format": _FORMAT, **asdict(after)}, indent=1)
                write_atomic(self._head, content.encode())

    def head(self) -> Publication | None:
        """Return the publication in force."""
        return self._read().publication

    @property
    def _head(self) -> Path:
        return self.folder / "head.json"

    def _read(self) -> Head:
        try:
            found = json.loads(self._head.read_bytes())
        except FileNotFoundError:
            return Head()
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise StoreRefusedError(
                f"{self._head} is not of format {_FORMAT}; delete it, and it is written again from "
                "the ledger"
            )
        return Head(Publication(**found["publication"]), tuple(found["recent"]))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.mask"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other thread or process write or delete anything meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def missing(mask: str, known: Collection[str]) -> str:
    """Return the message that a store lacks a mask.

    >>> missing("af", [])
    "no mask 'af' in the store; it holds none"
    """
    return f"no mask {mask!r} in the store; it holds {', '.join(known) or 'none'}"
