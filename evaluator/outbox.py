"""Publishing messages so that restarts leave each in the log once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from evaluator.position import LogPosition, resume
from stream.keyed import FirstWins, Tail
from stream.log import LogHome, Record
from stream.messages import AnyMessage, Progress, dump, parse

M = TypeVar("M", bound=AnyMessage)


class Outbox:
    """Writes the messages that a log does not hold yet.

    What was published after the checkpoint, in the life before, is read back at the start; as it
    comes again, it is compared and left out.

    Parameters
    ----------
    home
        Where the log lives.
    name
        Of the log; this becomes its one writer.
    position
        The end of the log at the checkpoint; None in the first life.

    Attributes
    ----------
    copied
        Copies of progress that were published after the checkpoint, in the life before, by worker.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stream.embedded import EmbeddedHome
    >>> from stream.messages import Decision
    >>> home = EmbeddedHome(Path(tempfile.mkdtemp()))
    >>> first = Outbox(home, "windows")
    >>> first.append([Decision(count=500, why_not="maturing")])
    [Decision(kind='decision', count=500, ... why_not='maturing', ...)]
    >>> first.close()
    >>> Outbox(home, "windows").append([Decision(count=500, why_not="maturing")])
    []
    """

    def __init__(self, home: LogHome, name: str, position: LogPosition | None = None) -> None:
        self._writer = home.writer(name)
        self._log = home.reader(name)
        self._published = FirstWins()
        self.copied: Counter[str] = Counter()
        tail = Tail(self._log, resume(self._log, name, position))
        while records := tail.poll():
            for stored in records:
                message = parse(stored.record.value)
                if isinstance(message, Progress):
                    self.copied[message.worker] += 1
                else:
                    self._published.accept(message.key, stored.record.value)

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
        # Each comes once a life, so what has come need not be remembered.
        self._published.forget([message.key for message in messages])
        if records:
            self._writer.append(records)
        return fresh

    def copy(self, progress: Sequence[Progress]) -> None:
        """Write what belongs to the wall clock, which is never the same twice."""
        if progress:
            self._writer.append([Record(dump(message)) for message in progress])

    def flush(self) -> None:
        """Return once all that was written survives a crash."""
        self._writer.flush()

    def close(self) -> None:
        """Flush, and let the next writer in."""
        self._writer.close()
        self._log.close()
