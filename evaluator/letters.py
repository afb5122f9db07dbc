"""Dead letters, written as soon as an event is met that is not valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evaluator.outbox import Outbox
from stream.codec import Invalid
from stream.deadletters import dead_letter
from stream.messages import DeadLetter, Place

_BEFORE: Final = Place(-1, 0)
_MOST: Final = 10_000


class Letters:
    """Writes one letter for each invalid event, however often it is met in one life or another.

    A letter is not held back until the batch is there that skips its event: a producer whose events
    are all wrong would never see why. So the letters may be ahead of the checkpoint of the clicks,
    and how far they are stands there beside it.

    Parameters
    ----------
    outbox
        Of the log ``deadletters``.
    through
        By partition, the last place of which a letter was written before the checkpoint. After
        that, the outbox knows them.

    Attributes
    ----------
    through
        The same as of now; for the next checkpoint, once the outbox is flushed.
    """

    def __init__(self, outbox: Outbox, through: Mapping[int, Place]) -> None:
        self.through = dict(through)
        self._outbox = outbox
        self._written: list[DeadLetter] = []
        self._unkept = 0

    @property
    def many(self) -> bool:
        """So many were written since the last checkpoint that one is due."""
        return self._unkept >= _MOST

    def write(self, invalid: Sequence[Invalid]) -> None:
        """Write a letter for each event that has none; they are of one partition, in order."""
        at = invalid[0].partition
        through = self.through.get(at, _BEFORE)
        fresh = [dead_letter(one) for one in invalid if one.place > through]
        self.through[at] = max(through, invalid[-1].place)
        self._written += self._outbox.append(fresh)
        self._unkept += len(fresh)

    def take(self) -> tuple[DeadLetter, ...]:
        """Return what was written since the last call."""
        written, self._written = tuple(self._written), []
        return written

    def keep(self) -> dict[int, Place]:
        """Flush, and return how far they go, for a checkpoint."""
        self._outbox.flush()
        self._unkept = 0
        return dict(self.through)
