"""The log: records in order, read from any position, written by one writer; and its settings.

A log has partitions; a partition is a sequence of records, each with an offset. Offsets grow but
may have holes, so a reader never counts: the log says where the next record begins
(:attr:`StoredRecord.next_offset`). The protocol has two implementations: a folder of SQLite
databases (:mod:`stream.log.local`) and the topics of a Kafka broker (:mod:`stream.log.kafka`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Headers = tuple[tuple[str, bytes], ...]
"""Header names and values, in order; a name may stand more than once."""


class LogError(Exception):
    """A log could not be used as asked.

    ::

        LogError
        ├── LogAccessError       the broker does not let us in, or not to this log
        ├── LogCorruptError      a record in the middle of a log does not match its checksum
        ├── LogDeletedError      the log was deleted while it was in use
        ├── LogFormatError       the log was written by a release with another format
        ├── LogIdentityError     the log was deleted and made again since a position was taken
        ├── LogLockedError       another writer holds the log
        ├── LogLostError         the log ends before a position that was taken in it
        ├── LogRefusedError      a record cannot be taken: its size, its time
        ├── LogSettingsError     the settings of the log would lose or change records
        ├── LogTrimmedError      the position asked for has been trimmed away
        └── LogUnreachableError  the broker has been away for longer than allowed
    """


class LogAccessError(LogError):
    """The broker does not let us in: password, certificate, protocol or permission."""


class LogCorruptError(LogError):
    """A record in the middle of a log does not match its checksum."""


class LogDeletedError(LogError):
    """The log was deleted while it was in use."""


class LogFormatError(LogError):
    """The log was written by a release of another format."""


class LogIdentityError(LogError):
    """The log was deleted and made again since a position in it was taken."""


class LogLockedError(LogError):
    """Another writer holds the log."""


class LogLostError(LogError):
    """The log ends before a position that was taken in it: records are gone."""


class LogRefusedError(LogError):
    """A record cannot be taken: it is too large, or its time is refused."""


class LogSettingsError(LogError):
    """The settings of the log would lose records, or change them."""


class LogTrimmedError(LogError):
    """The position asked for has been trimmed away."""


class LogUnreachableError(LogError):
    """The broker has been away for longer than allowed."""


class Record(NamedTuple):
    """What a producer hands to a log."""

    value: bytes
    headers: Headers = ()
    time_ms: int = 0
    """Event time, milliseconds since 1970-01-01 UTC."""


class StoredRecord(NamedTuple):
    """A record and where it stands."""

    partition: int
    offset: int
    next_offset: int
    """Where the next read of this partition begins; not always ``offset + 1``."""
    record: Record

    def header(self, name: str) -> bytes | None:
        """Return the last value of a header, None where there is none."""
        values = [value for key, value in self.record.headers if key == name]
        return values[-1] if values else None


class LogReader(Protocol):
    """One of many readers of a log; it owns no position, the caller does."""

    @property
    def identity(self) -> str:
        """Name this very log: a log deleted and made again under its old name has another."""

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions, ascending."""

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on, at once; none at the end.

        Everything that was flushed before the call is seen. Raises :class:`LogTrimmedError` for an
        offset before :meth:`begin`, :class:`LogLostError` for one after :meth:`end` and
        :class:`LogCorruptError` for a record that does not match its checksum.
        """

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept."""

    def end(self, partition: int) -> int:
        """Return the offset that the next record will get."""

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none."""

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end."""

    def sync(self) -> None:
        """Return once all that can be read now survives a crash of the machine.

        Whoever writes down what it concluded from records calls this before. Any thread may.
        """

    def close(self) -> None:
        """Release what the reader holds."""


class LogWriter(Protocol):
    """The one writer of a log."""

    @property
    def identity(self) -> str:
        """The same as the readers see."""

    @property
    def max_value_bytes(self) -> int:
        """The largest value of a record without headers."""

    def end(self, partition: int = 0) -> int:
        """Return the offset after all that was flushed."""

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        """Append records in order; readers may see them before :meth:`flush`, or only after it."""

    def flush(self) -> None:
        """Return once all that was appended survives a crash."""

    def close(self) -> None:
        """Flush, and let the next writer in."""


@runtime_checkable
class LogStore(Protocol):
    """Where logs are kept: a folder, or a broker."""

    @property
    def writable(self) -> bool:
        """Whether a log that is not there is made, empty, when it is opened."""

    def exists(self, name: str) -> bool:
        """Tell whether a log is there."""

    def create(self, logs: Mapping[str, int]) -> tuple[str, ...]:
        """Make the logs that are not there, each with so many partitions.

        Returns
        -------
        What the store calls them, all of them: folders, or topics.
        """

    def reader(self, name: str) -> LogReader:
        """Open a log for reading.

        One that is not there is made, with one partition, where the store is :attr:`writable`; else
        this raises :class:`LogError`.
        """

    def writer(self, name: str) -> LogWriter:
        """Open a log for writing, as :meth:`reader` does for reading.

        Raises :class:`LogLockedError` if somebody else writes it.
        """

    def trim(self, name: str, partition: int, offset: int) -> None:
        """Allow everything before ``offset`` to be deleted."""

    def describe(self) -> str:
        """Say in words where the logs are."""

    def close(self) -> None:
        """Release what the store holds."""


_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def check_name(name: str) -> str:
    """Return the name of a log; refuse one that no folder and no topic could have.

    >>> check_name("predictions.dense")
    'predictions.dense'
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"log name {name!r}; use letters, digits, '_', '-' and '.' inside")
    return name


class LogStoreView:
    """A store in which one log is read in another way; all else is as in that store.

    Parameters
    ----------
    store
        The store.
    name
        Of the log.
    open_view
        Opens a reader of it.
    """

    def __init__(self, store: LogStore, name: str, open_view: Callable[[], LogReader]) -> None:
        self._store, self._name, self._open_view = store, name, open_view
        self.writable, self.exists, self.create = store.writable, store.exists, store.create
        self.writer, self.trim = store.writer, store.trim
        self.describe, self.close = store.describe, store.close

    def reader(self, name: str) -> LogReader:
        """Open a log for reading."""
        return self._open_view() if name == self._name else self._store.reader(name)


class KafkaConfig(BaseModel):
    """How to reach a Kafka broker, and what its topics are made of.

    It stands here, since :mod:`stream.log.kafka` needs kafka-python.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = "localhost:9092"
    """``host:port`` of one broker or, with commas, of several."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Whether connections are encrypted (SSL) and ask for a user (SASL)."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """Needed where the protocol begins with SASL."""
    username: str | None = None
    """The user, where the protocol begins with SASL."""
    password: SecretStr | None = None
    """The user's password; never shown."""
    cafile: Path | None = None
    """Certificates (PEM) of the authorities to trust; None = those of the machine."""
    certfile: Path | None = None
    """Our own certificate (PEM), where the broker asks for one."""
    keyfile: Path | None = None
    """The key of ``certfile``, without a password, where that does not hold it."""
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=100)
    """Put before the name of a log to give its topic."""
    gone_seconds: float = Field(default=120, ge=1)
    """How long the broker may be away before that is an error."""
    session_seconds: float = Field(default=10, ge=1)
    """How long a writer that crashed keeps the next one out; brokers ask for 6 at least."""
    max_record_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """``max.message.bytes`` of the topics made here."""
    retention_bytes: int = Field(default=8 * 1024**3, ge=-1)
    """``retention.bytes`` of the topics made here, a partition; -1 = they may fill the disk."""
    replication_factor: int = Field(default=-1, ge=-1)
    """Copies of the topics made here; -1 = what the broker has as its default."""
    allow_retention: bool = False
    """Accept topics that delete by event time: right where event time is the wall clock."""
    allow_trim: bool = False
    """Delete from the topics what ``stream.retention`` says is no longer needed; else only their
    own settings, such as ``retention_bytes``, delete. Others who read them lose it, too."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"
    """How records are compressed on their way and on the broker."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        protocol = self.security_protocol
        credentials = (self.sasl_mechanism, self.username, self.password)
        if protocol.startswith("SASL") and None in credentials:
            raise ValueError(
                f"security_protocol {protocol} needs sasl_mechanism, username and password"
            )
        if not protocol.startswith("SASL") and any(credentials):
            raise ValueError(
                "sasl_mechanism, username and password are not used with security_protocol "
                f"{protocol}; use SASL_SSL or SASL_PLAINTEXT"
            )
        if protocol.endswith("PLAINTEXT") and (self.cafile or self.certfile):
            raise ValueError(
                f"cafile and certfile are not used with security_protocol {protocol}; use SSL or "
                "SASL_SSL"
            )
        if self.keyfile and not self.certfile:
            raise ValueError("keyfile is the key of certfile; name that, too")
        return self
