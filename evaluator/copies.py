"""Copies of what the workers tell of their progress by the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from evaluator.position import LogPosition, resume
from stream.keyed import Tail
from stream.log import LogHome
from stream.messages import Progress, parse
from stream.topics import progress

LOOK_SECONDS: Final = 1.0
"""Pause between two looks."""


class ProgressCopies:
    """Reads what is new in the ``progress`` logs, every now and then; nothing depends on it.

    Parameters
    ----------
    home
        Where the logs live.
    workers
        Whose logs are read.
    positions
        By log, how far it had been copied at the checkpoint; without one from its beginning.
    copied
        By worker, how many records behind that have a copy too, from the life before.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        home: LogHome,
        workers: Sequence[str],
        positions: Mapping[str, LogPosition],
        copied: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._due = clock, clock()
        self._tails: dict[str, Tail] = {}
        for worker in workers:
            name = progress(worker)
            log = home.reader(name)
            self._tails[name] = tail = Tail(log, resume(log, name, positions.get(name)))
            _skip(tail, copied.get(worker, 0))

    @property
    def positions(self) -> dict[str, LogPosition]:
        """By log, behind all that :meth:`poll` has returned."""
        return {
            n: LogPosition(tail.reader.identity, tail.offset) for n, tail in self._tails.items()
        }

    def poll(self, *, at_once: bool = False) -> list[Progress]:
        """Return what has come; nothing where the last look was a moment ago.

        Parameters
        ----------
        at_once
            Look, however short a time ago the last look was.
        """
        now = self._clock()
        if now < self._due and not at_once:
            return []
        self._due = now + LOOK_SECONDS
        found = []
        for tail in self._tails.values():
            while records := tail.poll():
                messages = (parse(stored.record.value) for stored in records)
                found += [message for message in messages if isinstance(message, Progress)]
        return found

    def close(self) -> None:
        """Release the logs."""
        for tail in self._tails.values():
            tail.reader.close()


def _skip(tail: Tail, records: int) -> None:
    """Pass over some records, as many as there are."""
    while records > 0 and (found := tail.poll(records)):
        records -= len(found)
