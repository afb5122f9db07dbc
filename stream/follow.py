"""Reading the messages of a log: all of them, or those that come, each message once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from stream.log.api import (
    LogIdentityError,
    LogLostError,
    LogReader,
    LogStore,
    LogTrimmedError,
    StoredRecord,
)
from stream.messages import Message, Progress, parse

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
OnOther = Callable[[StoredRecord, str], None]
_REMEMBERED: Final = 100_000
"""Keys that a follower remembers: a worker repeats far fewer messages after a crash."""
_READ_RECORDS: Final = 256


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A place in one very log; goes into a checkpoint."""

    identity: str
    """Of the log."""
    offset: int
    """The next record to read."""


def resume(log: LogReader, name: str, position: LogPosition | None) -> int:
    """Return the offset to read on from; without a position that of the oldest record.

    Raises
    ------
    LogIdentityError
        If the position was taken in another log of that name.
    LogLostError
        If the log ends before it.
    """
    if position is None:
        return log.begin(0)
    check_position(name, position, log.identity, log.end(0))
    return position.offset


def check_position(name: str, position: LogPosition, identity: str, end: int) -> None:
    """Refuse a position that a log of this identity and this end does not have; see :func:`resume`.

    >>> check_position("windows", LogPosition("7f", 12), "7f", end=9)
    Traceback (most recent call last):
    ...
    stream.log.api.LogLostError: the log windows ends at 9, before offset 12, up to which it was
        written or read at the last checkpoint: records are gone; restore the log from a copy, or
        begin with a new state folder
    """
    if position.identity != identity:
        raise LogIdentityError(
            f"the position is in the log {name} {position.identity}, this one is {identity}: "
            "it was deleted and made again; begin with a new state folder"
        )
    if position.offset > end:
        raise LogLostError(
            f"the log {name} ends at {end}, before offset {position.offset}, up to which it was "
            "written or read at the last checkpoint: records are gone; restore the log from a "
            "copy, or begin with a new state folder"
        )


def check_decided(count: int, decided: int, window_events: int) -> None:
    """Refuse a ledger in which a decision is missing: there is one for every window, in order.

    Parameters
    ----------
    count
        The end of the window that the next decision is on.
    decided
        The end of the window that the one before was on; 0 where there is none.
    window_events
        Events a window.

    Examples
    --------
    >>> check_decided(500, decided=0, window_events=100)
    Traceback (most recent call last):
    ...
    stream.log.api.LogLostError: the ledger continues with the decision on the window ending at 500,
        that on the one ending at 100 is missing: records are gone; restore the ledger from a copy,
        or begin with a new state folder
    """
    if count != decided + window_events:
        raise LogLostError(
            f"the ledger continues with the decision on the window ending at {count:,}, that on "
            f"the one ending at {decided + window_events:,} is missing: records are gone; restore "
            "the ledger from a copy, or begin with a new state folder"
        )


class Deduplicator:
    """Accepts the first message of each key, and reports a repeat that differs from it.

    After a crash a worker publishes again what it had published since its last checkpoint: the
    same keys, and the same bytes. Only an 8-byte digest of each message is kept.

    Parameters
    ----------
    max_entries
        Keys remembered; the oldest are forgotten first. None: all.

    Attributes
    ----------
    conflicts
        Repeats so far whose bytes differed from the first; each is logged as an error.

    Examples
    --------
    >>> seen = Deduplicator()
    >>> seen.accept("window/500/0", b"0.7"), seen.accept("window/500/0", b"0.7")
    (True, False)
    >>> seen.conflicts
    0
    """

    def __init__(self, max_entries: int | None = None) -> None:
        if max_entries is not None and max_entries < 1:
            raise ValueError(f"max_entries is {max_entries}; use at least 1, or None for no bound")
        self.max_entries = max_entries
        self.conflicts = 0
        self._digests: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def accept(self, key: str, payload: bytes) -> bool:
        """Return True for the first message of a key, False for every later one."""
        digest = blake2b(payload, digest_size=8).digest()
        known = self._digests.setdefault(key, digest)
        if known is digest:
            if self.max_entries is not None and len(self._digests) > self.max_entries:
                del self._digests[next(iter(self._digests))]
            return True
        if known != digest:
            self.conflicts += 1
            log.error("%s was published again with other bytes; the first is kept", key)
        return False

    def forget(self, keys: Iterable[str]) -> None:
        """Drop keys that cannot be published again; those unknown are passed over."""
        for key in keys:
            self._digests.pop(key, None)


class LoggedMessage(NamedTuple, Generic[M]):
    """A message and where it stands in its log."""

    offset: int
    message: M
    value: bytes
    """The message as it was written."""


class LogFollower(Generic[M]):
    """Follows the messages of a log; use :meth:`MessageLog.follow`.

    The first message of each key counts. Repeats are left out, and one that differs is counted and
    logged. The progress of workers belongs to the wall clock: it is never a repeat.

    Attributes
    ----------
    reader
        Of the log.
    seen
        Knows the keys of the messages read so far.
    repeats
        The offsets of the repeats.
    skips_trimmed
        Whether what has been trimmed away before it was read is passed over, or an error.
    """

    def __init__(
        self,
        reader: LogReader,
        name: str,
        kinds: tuple[type[M], ...],
        position: LogPosition | None,
        on_other: OnOther | None,
    ) -> None:
        self.seen = Deduplicator(_REMEMBERED)
        self.repeats: set[int] = set()
        self.reader, self.close = reader, reader.close
        self._kinds: tuple[type[Any], ...] = kinds or (Message,)
        self._on_other = on_other
        self.skips_trimmed = False
        self._offset = resume(reader, name, position)

    @property
    def position(self) -> LogPosition:
        """The place after all that was read."""
        return LogPosition(self.reader.identity, self._offset)

    @property
    def conflicts(self) -> int:
        """Repeats that differed from the first."""
        return self.seen.conflicts

    @property
    def at_end(self) -> bool:
        """Everything that the log holds now has been read."""
        return self._offset >= self.reader.end(0)

    def poll(self, max_records: int = 64) -> list[M]:
        """Return messages that have come; none only where everything has been read.

        Parameters
        ----------
        max_records
            Records read at a time.
        """
        return [one.message for one in self.poll_logged(max_records)]

    def poll_logged(self, max_records: int = 64) -> list[LoggedMessage[M]]:
        """Do the same, and say of each message where it stands."""
        found: list[LoggedMessage[M]] = []
        while not found and (records := self._read(max_records)):
            for stored in records:
                message = self._parse(stored)
                if message is None:
                    continue
                offset, value = stored.offset, stored.record.value
                if isinstance(message, Progress) or self.seen.accept(message.key, value):
                    found.append(LoggedMessage(offset, message, value))
                else:
                    self.repeats.add(offset)
            self._offset = records[-1].next_offset
        return found

    def _read(self, max_records: int) -> Sequence[StoredRecord]:
        while True:
            try:
                return self.reader.read(0, self._offset, max_records)
            except LogTrimmedError:
                if not self.skips_trimmed:
                    raise
                self._offset = max(self._offset, self.reader.begin(0))

    def _parse(self, stored: StoredRecord) -> Any:
        """Return the message of a record, None where it is not of the kinds."""
        try:
            message = parse(stored.record.value)
            what = f"a {message.kind}"
        except ValidationError as error:
            if self._on_other is None:
                raise
            message, what = None, f"no message ({error.errors(include_url=False)[0]['msg']})"
        if isinstance(message, self._kinds):
            return message
        if self._on_other is not None:
            self._on_other(stored, what)
        return None


class MessageLog:
    """A log of messages, in its one partition.

    Parameters
    ----------
    log
        The store that holds it, or a reader of the log itself.
    name
        Of the log.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stream.log import Record
    >>> from stream.log.local import LocalLogStore
    >>> from stream.messages import Decision, Verdict, dump
    >>> store = LocalLogStore(Path(tempfile.mkdtemp()))
    >>> follower = MessageLog(store, "ledger").follow(Decision, Verdict)
    >>> ledger = store.writer("ledger")
    >>> ledger.append([Record(dump(Decision(count=500, why_not="maturing")))] * 2)
    >>> follower.at_end, [decision.count for decision in follower.poll()], follower.at_end
    (False, [500], True)
    >>> [decision.key for decision in MessageLog(store, "ledger").read(Decision)]
    ['decision/500']
    """

    def __init__(self, log: LogStore | LogReader, name: str) -> None:
        self._reader = log.reader(name) if isinstance(log, LogStore) else log
        self._name = name

    def follow(
        self,
        *kinds: type[M],
        position: LogPosition | None = None,
        on_other: OnOther | None = None,
        skips_trimmed: bool = False,
    ) -> LogFollower[M]:
        """Follow the messages of some kinds; without a kind, all messages.

        Parameters
        ----------
        kinds
            Messages of other kinds are passed over.
        position
            Where to continue; None: with the oldest record.
        on_other
            Is called with each record that holds no message of these kinds, and with what it is
            instead, such as ``a window``. Without it, a record that is no message is an error.
        skips_trimmed
            Whether to continue with the oldest record that is kept where the next one has been
            trimmed away; else that is an error.
        """
        follower = LogFollower(self._reader, self._name, kinds, position, on_other)
        follower.skips_trimmed = skips_trimmed
        return follower

    def read(self, *kinds: type[M]) -> Iterator[M]:
        """Go through the messages of some kinds that the log holds, oldest first, then close it."""
        follower = self.follow(*kinds)
        try:
            while found := follower.poll(_READ_RECORDS):
                yield from found
        finally:
            follower.close()


def read_all(reader: LogReader, partition: int = 0) -> Iterator[StoredRecord]:
    """Go through all records that a partition holds, oldest first, up to its end."""
    offset = reader.begin(partition)
    while found := reader.read(partition, offset, _READ_RECORDS):
        yield from found
        offset = found[-1].next_offset
