"""Reading a log from where one left off, and taking only the first of what is published twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from stream.log import LogReader, StoredRecord

log = logging.getLogger(__name__)


class Deduplicator:
    """Tells the first message of a key from its repeats, and raises an alarm if a repeat differs.

    After a crash a worker publishes again what it had published since its last checkpoint: the
    same keys, and the same bytes. Only an 8-byte digest of each message is kept.

    Parameters
    ----------
    max_entries
        Keys remembered; the oldest are forgotten first. None: all.

    Attributes
    ----------
    conflicts
        Repeats so far whose bytes differed from the first.

    Examples
    --------
    >>> first = Deduplicator()
    >>> first.accept("window/500/0", b"0.7"), first.accept("window/500/0", b"0.7")
    (True, False)
    >>> first.conflicts
    0
    """

    def __init__(self, max_entries: int | None = None) -> None:
        if max_entries is not None and max_entries < 1:
            raise ValueError(f"max_entries is {max_entries}; use at least 1, or None for no bound")
        self.max_entries = max_entries
        self.conflicts = 0
        self._digests: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def accept(self, key: str, payload: bytes) -> bool:
        """Return True for the first message of a key, False for every later one."""
        digest = blake2b(payload, digest_size=8).hexdigest()
        known = self._digests.get(key)
        if known is None:
            self._digests[key] = digest
            self._forget_oldest()
            return True
        if known != digest:
            self.conflicts += 1
            log.error("%s was published again with other bytes; the first is kept", key)
        return False

    def forget(self, keys: Iterable[str]) -> None:
        """Drop keys that cannot be published again; those unknown are passed over."""
        for key in keys:
            self._digests.pop(key, None)

    def _forget_oldest(self) -> None:
        if self.max_entries is not None and len(self._digests) > self.max_entries:
            del self._digests[next(iter(self._digests))]

    def dump(self) -> bytes:
        """Write what it knows, for a checkpoint; equal histories give equal bytes."""
        return json.dumps({"conflicts": self.conflicts, "digests": self._digests}).encode()

    @classmethod
    def load(cls, content: bytes, max_entries: int | None = None) -> Deduplicator:
        """Read back what :meth:`dump` wrote.

        >>> first = Deduplicator()
        >>> _ = first.accept("decision/500", b"none")
        >>> Deduplicator.load(first.dump()).accept("decision/500", b"none")
        False
        """
        loaded = cls(max_entries)
        known = json.loads(content)
        loaded.conflicts = known["conflicts"]
        loaded._digests = known["digests"]
        return loaded


class LogFollower:
    """Follows partition 0 of one log and knows where it stands.

    Parameters
    ----------
    reader
        The log.
    offset
        The next record to read; None: the oldest that is kept.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stream.log.local import LocalLogStore
    >>> from stream.log import Record
    >>> home = LocalLogStore(Path(tempfile.mkdtemp()))
    >>> tail = LogFollower(home.reader("ledger"))
    >>> writer = home.writer("ledger")
    >>> writer.append([Record(b"decision")])
    >>> tail.at_end, [stored.record.value for stored in tail.poll()], tail.at_end
    (False, [b'decision'], True)
    """

    def __init__(self, reader: LogReader, offset: int | None = None) -> None:
        self.reader = reader
        self._offset = reader.begin(0) if offset is None else offset

    @property
    def offset(self) -> int:
        """The next record to read; goes into a checkpoint."""
        return self._offset

    @property
    def at_end(self) -> bool:
        """Everything that the log holds now has been read."""
        return self._offset >= self.reader.end(0)

    def poll(self, max_records: int = 64) -> list[StoredRecord]:
        """Read what has come, at once; nothing where nothing has."""
        found = list(self.reader.read(0, self._offset, max_records))
        if found:
            self._offset = found[-1].next_offset
        return found


def read_all(reader: LogReader, partition: int = 0) -> Iterator[StoredRecord]:
    """Go through all records that a partition holds, oldest first, up to its end."""
    offset = reader.begin(partition)
    while found := reader.read(partition, offset, 256):
        yield from found
        offset = found[-1].next_offset
