"""Writing messages so that each is in its log once, however often the evaluator is restarted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from stream import Invalid, LogFollower, LogPosition, MessageLog, dead_letter
from stream.log import LogStore, Record
from stream.messages import AnyMessage, DeadLetter, Message, Position, Progress, dump
from stream.topics import progress

M = TypeVar("M", bound=AnyMessage)


class IdempotentWriter:
    """Writes the messages that a log does not hold yet.

    What was written after the checkpoint, before the restart, is read back at the start; as it
    comes again, it is compared and left out.

    Parameters
    ----------
    home
        Where the log is.
    name
        Of the log; this becomes its one writer.
    position
        The end of the log at the checkpoint; None at the first start.

    Attributes
    ----------
    copied
        Copies of progress that were written after the checkpoint, before the restart, by worker.
    letters
        Of the dead letters that were written then, the place of the last event, by partition.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stream.log.local import LocalLogStore
    >>> from stream.messages import Decision
    >>> home = LocalLogStore(Path(tempfile.mkdtemp()))
    >>> first = IdempotentWriter(home, "windows")
    >>> first.append([Decision(count=500, why_not="maturing")])
    [Decision(kind='decision', count=500, ... why_not='maturing', ...)]
    >>> first.close()
    >>> IdempotentWriter(home, "windows").append([Decision(count=500, why_not="maturing")])
    []
    """

    def __init__(self, home: LogStore, name: str, position: LogPosition | None = None) -> None:
        self._writer = home.writer(name)
        self._log = home.reader(name)
        self.copied: Counter[str] = Counter()
        self.letters: dict[int, Position] = {}
        tail: LogFollower[Message] = MessageLog(self._log, name).follow(position=position)
        while found := tail.poll():
            self.copied.update(one.worker for one in found if isinstance(one, Progress))
            letters = (one for one in found if isinstance(one, DeadLetter))
            self.letters.update((one.partition, Position(one.offset, one.row)) for one in letters)
        self._published = tail.seen

    @property
    def position(self) -> LogPosition:
        """The end of the log."""
        return LogPosition(self._log.identity, self._log.end(0))

    @property
    def conflicts(self) -> int:
        """Messages that came again and differed; the first stays."""
        return self._published.conflicts

    def append(self, messages: Sequence[M]) -> list[M]:
        """Write those of the messages that the log does not hold, and return them."""
        fresh, records = [], []
        for message in messages:
            value = dump(message)
            if self._published.accept(message.key, value):
                fresh.append(message)
                records.append(Record(value))
        # Each comes once between two restarts, so what has come need not be remembered.
        self._published.forget([message.key for message in messages])
        if records:
            self._writer.append(records)
        return fresh

    def copy(self, progress: Sequence[Progress]) -> None:
        """Write progress, which depends on the wall clock and is never the same twice."""
        if progress:
            self._writer.append([Record(dump(message)) for message in progress])

    def flush(self) -> None:
        """Return once all that was written survives a crash."""
        self._writer.flush()

    def close(self) -> None:
        """Flush, and let the next writer in."""
        self._writer.close()
        self._log.close()


POLL_SECONDS: Final = 1.0
"""Pause between two readings of progress."""


class ProgressMirror:
    """Reads what is new in the ``progress`` logs, every now and then; no decision depends on it.

    Parameters
    ----------
    home
        Where the logs live.
    workers
        Whose logs are read.
    positions
        By log, how far it had been copied at the checkpoint; without one from its beginning.
    copied
        By worker, how many records after that have a copy too, from before the restart.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        home: LogStore,
        workers: Sequence[str],
        positions: Mapping[str, LogPosition],
        copied: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._due = clock, clock()
        self._tails: dict[str, LogFollower[Progress]] = {}
        for worker in workers:
            name = progress(worker)
            self._tails[name] = tail = MessageLog(home, name).follow(
                Progress, position=positions.get(name)
            )
            left = copied.get(worker, 0)
            while left > 0 and (found := tail.poll(left)):
                left -= len(found)

    @property
    def positions(self) -> dict[str, LogPosition]:
        """By log, the position after all that :meth:`poll` has returned."""
        return {name: tail.position for name, tail in self._tails.items()}

    def poll(self, *, at_once: bool = False) -> list[Progress]:
        """Return what has come; nothing where it was read a moment ago.

        Parameters
        ----------
        at_once
            Look, however short a time ago that was.
        """
        now = self._clock()
        if now < self._due and not at_once:
            return []
        self._due = now + POLL_SECONDS
        found = []
        for tail in self._tails.values():
            while messages := tail.poll():
                found += messages
        return found

    def close(self) -> None:
        """Release the logs."""
        for tail in self._tails.values():
            tail.close()


_BEFORE: Final = Position(-1, 0)
_MAX_UNKEPT: Final = 10_000


class DeadLetterWriter:
    """Writes one letter for each invalid event, however often it is read.

    A letter is written before the batch that skips its event is there: a producer whose events are
    all wrong would never see why. So the letters may be ahead of the checkpoint of the clicks, and
    the checkpoint holds how far they are beside it.

    Parameters
    ----------
    writer
        Of the log ``deadletters``.
    through
        By partition, the last place of which a letter was written before the checkpoint. After
        that, the writer knows them.

    Attributes
    ----------
    through
        The same as of now; for the next checkpoint, once the writer is flushed.
    """

    def __init__(self, writer: IdempotentWriter, through: Mapping[int, Position]) -> None:
        self.through = dict(through)
        self._writer = writer
        self._written: list[DeadLetter] = []
        self._unkept = 0

    @property
    def many(self) -> bool:
        """So many were written since the last checkpoint that one is due."""
        return self._unkept >= _MAX_UNKEPT

    def write(self, invalid: Sequence[Invalid]) -> None:
        """Write a letter for each event that has none; they are of one partition, in order."""
        partition, last = invalid[0].partition, invalid[-1].place
        through = self.through.get(partition, _BEFORE)
        fresh = [dead_letter(one) for one in invalid if one.place > through]
        self.through[partition] = max(through, last)
        self._written += self._writer.append(fresh)
        self._unkept += len(fresh)

    def take(self) -> tuple[DeadLetter, ...]:
        """Return what was written since the last call."""
        written, self._written = tuple(self._written), []
        return written

    def keep(self) -> dict[int, Position]:
        """Flush, and return how far they go, for a checkpoint.

        A letter from before a restart may stand there though its event has not been read again.
        """
        self._writer.flush()
        self._unkept = 0
        letters, through = self._writer.letters, self.through
        ahead = {at: last for at, last in letters.items() if last > through.get(at, _BEFORE)}
        return {**through, **ahead}
