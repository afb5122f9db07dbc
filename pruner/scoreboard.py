"""What the evaluator has found, as far as decisions need it."""

from __future__ import annotations

from pruner.trigger import Score
from stream.keyed import FirstWins, Tail
from stream.log import LogReader
from stream.messages import Judgement, Window, parse

_SPARSE = "sparse"


class Scoreboard:
    """Follows the ``windows`` log.

    Parameters
    ----------
    reader
        The log.
    window_events
        The size of the windows that are decided on; others are passed over, and so is a last,
        partial one.
    """

    def __init__(self, reader: LogReader, window_events: int) -> None:
        self.closed = 0
        """The end of the last window."""
        self.scores: list[Score] = []
        """The windows on which the sparse model was scored, oldest first."""
        self._window_events = window_events
        self._judgements: dict[int, Judgement] = {}
        self._tail = Tail(reader)
        self._first = FirstWins()

    def poll(self) -> None:
        """Read some of what is new."""
        for stored in self._tail.poll():
            message = parse(stored.record.value)
            if not isinstance(message, Window | Judgement):
                continue
            if isinstance(message, Window) and not self._counts(message):
                continue
            if self._first.accept(message.key, stored.record.value):
                self._take(message)

    def judgement(self, rebuild: int) -> Judgement | None:
        """Return the judgement on a rebuild's candidate, None while there is none."""
        return self._judgements.get(rebuild)

    def forget(self, count: int) -> None:
        """Drop the windows that began before a swap."""
        self.scores = [score for score in self.scores if score.begin >= count]

    def _counts(self, window: Window) -> bool:
        return window.size == self._window_events and not window.partial

    def _take(self, message: Window | Judgement) -> None:
        if isinstance(message, Judgement):
            self._judgements[message.rebuild] = message
            return
        self.closed = message.end
        relative = message.relative_ce.get(_SPARSE)
        if relative is not None:
            self.scores.append(Score(message.begin, message.end, relative.mean))
