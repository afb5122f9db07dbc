"""Where masks are kept for servers of the model; ledger and snapshots can fill each store again.

First masks as bytes, named by what they hold; then what a store of masks offers, and its homes in
memory and on disk; last the registry, which keeps a store complete, and the follower of one.

Masks are blobs named by their content. The head says which publication is in force; only the
served model's trainer moves it, only forward, and only to a mask that is there: a reader of the
head can read its mask. Nothing here decides anything.

::

    StoreError
        StoreAwayError      cannot be reached, or takes nothing for now: continue, and try again
        StoreRefusedError   refuses for good: the settings must change
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from learner import ModelVersion, Publication, SnapshotError, SnapshotStore, masks_of
from stream.messages import Layer
from stream.state import dump_checked, read_checked, write_atomic

log = logging.getLogger(__name__)

KEPT = 3
"""The masks of so many last heads are never deleted, unless the store is made with another number.
"""
LONGEST_PAUSE = 30.0
"""Seconds between two tries to reach a store that has been away for long."""
_FORMAT = 3
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


def describe(
    masks: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None
) -> dict[str, Layer]:
    """Sum up masks layer by layer, for the ledger.

    Parameters
    ----------
    masks
        By layer; each keeps at least one weight.
    before
        The masks of the version before; None for the first. The overlap is the share of the weights
        kept now that it kept too.

    Examples
    --------
    >>> mask = {"top": torch.tensor([[True, False]])}
    >>> describe(mask), describe(mask, mask)["top"].overlap
    ({'top': Layer(weights=2, kept=1, sparsity=0.5, overlap=None)}, 1.0)
    """
    layers = {}
    for name, mask in masks.items():
        kept = int(mask.sum())
        overlap = None if before is None else int((mask & before[name]).sum()) / kept
        share = sparsity({name: mask})
        layers[name] = Layer(weights=mask.numel(), kept=kept, sparsity=share, overlap=overlap)
    return layers


def missing(mask: str, known: Collection[str]) -> str:
    """Return the message that a store lacks a mask.

    >>> missing("af", [])
    "no mask 'af' in the store; it holds none"
    """
    return f"no mask {mask!r} in the store; it holds {', '.join(known) or 'none'}"


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
        # Another thread may delete it meanwhile.
        packed = self._blobs.get(mask)
        if packed is None:
            raise MaskMissingError(missing(mask, self.names()))
        if content_hash(packed) != mask:
            raise MaskDamagedError(f"mask {mask} does not hold what it is named after")
        return unpack(packed)

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
    >>> import tempfile
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
                write_atomic(self.folder / "head.json", dump_checked(_FORMAT, asdict(after)))

    def head(self) -> Publication | None:
        """Return the publication in force."""
        return self._read().publication

    def _read(self) -> Head:
        way_out = "delete it, and it is written again from the ledger"
        try:
            found = read_checked(self.folder / "head.json", _FORMAT, way_out)
        except FileNotFoundError:
            return Head()
        except ValueError as error:
            raise StoreRefusedError(str(error)) from error
        return Head(Publication(**found["publication"]), tuple(found["recent"]))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.mask"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other thread or process write or delete anything meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


_FAULTS = (StoreError, MaskMissingError, SnapshotError)


@dataclass(eq=False)
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
    >>> import tempfile
    >>> store = MemoryMaskStore()
    >>> registry = ReconcilingRegistry(store, SnapshotStore(Path(tempfile.mkdtemp())))
    >>> mask = store.put({"top": torch.tensor([[True, False]])})
    >>> registry.publish(Publication(1, 0, "candidate-1/150000-af", 150_000, mask))
    >>> store.head().version, registry.away
    (1, None)
    """

    store: MaskStore
    snapshots: SnapshotStore
    versions: Callable[[], Iterable[ModelVersion]] = tuple
    check_seconds: float = field(default=5.0, kw_only=True)
    clock: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    _last: Publication | None = field(default=None, init=False)
    _kept: tuple[ModelVersion, ...] | None = field(default=None, init=False)
    _retained: tuple[object, ...] = field(default=(), init=False)
    _version: int = field(default=0, init=False)
    _reason: str = field(default="", init=False)
    _since: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._due = self.clock()
        self._pause = self.check_seconds
        try:
            self.store.check()
        except StoreAwayError as error:
            self._failed(error)

    @property
    def away(self) -> str | None:
        """Why the store lacks something and since when, in words; None while it lacks nothing."""
        if self._since is None:
            return None
        return f"{self._reason} (for {self.clock() - self._since:.0f} s)"

    def put(self, masks: Mapping[str, Tensor]) -> None:
        """Put masks into the store before anything names them; where it is away, later."""
        if self._since is None:
            try:
                self.store.put(masks)
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
        if self.clock() >= self._due:
            self._restore_all()

    def close(self) -> None:
        """Check a last time that everything is there, and close the store."""
        self._restore_all()
        self.store.close()

    def _restore_all(self) -> None:
        current = self._current()
        try:
            head = self.store.head()
            if current is not None:
                self._last = self._restore(current)
                self.store.publish(self._last)
            for kept in reversed(self._kept or ()):
                self._restore(Publication.first(kept))
            # Masks of versions that are not kept are deleted once the head is past them too.
            if self._kept is not None and self._retained != (self._kept, head):
                self.store.retain({one.mask for one in self._kept if one.mask})
                self._retained = (self._kept, head)
        except _FAULTS as error:
            self._failed(error)
            return
        now = self.clock()
        if self._since is not None:
            log.warning("the mask store is back after %.0f s", now - self._since)
        self._since, self._pause = None, self.check_seconds
        complete = current is not None or not self._version
        self._due = now + self.check_seconds if complete else now

    def _current(self) -> Publication | None:
        """Return the publication in force; None while only its version is known."""
        if self._last is not None and self._last.version == self._version:
            return self._last
        named = (one for one in self.versions() if one.version == self._version)
        return next((Publication.first(one) for one in named), None)

    def _restore(self, publication: Publication) -> Publication:
        """Put its mask into a store that lacks it, and return the publication with its mask."""
        if publication.mask is None:
            masks = masks_of(self.snapshots.read(publication.snapshot))
            # One that changed since its version began is new to the store.
            return replace(publication, mask=self.store.put(masks))
        try:
            self.store.get(publication.mask or "")
        except (MaskMissingError, MaskDamagedError) as error:
            self.store.put(masks_of(self.snapshots.read(publication.snapshot)))
            log.info("mask of version %d restored: %s", publication.version, error)
        return publication

    def _check_soon(self) -> None:
        """Check at the next occasion; a store that is away is not asked more often for that."""
        if self._since is None:
            self._due = self.clock()

    def _failed(self, error: Exception) -> None:
        """Note that the store lacks something; log it once."""
        now = self.clock()
        self._reason = str(error)
        if self._since is None:
            self._since = now
            log.warning("the mask store is away, learning continues without it: %s", error)
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
            head = self._store.head()
            rank = self.served.publication.rank if self.served else (0, 0)
            if head is not None and head.mask is not None and head.rank > rank:
                self.served = ServedModel(head, self._store.get(head.mask))
            self.fault = None
        except (StoreError, MaskMissingError, MaskDamagedError) as error:
            if self.fault is None:
                log.warning("the last mask stays in service: %s", error)
            self.fault = str(error)
        return self.served
