"""Following the truth of a synthetic stream; only the evaluator opens it."""

from __future__ import annotations

from collections import deque

import numpy as np

from evaluator.joined import Truth
from evaluator.position import LogPosition, resume
from stream.columnar import TruthBatch, truth_from_bytes
from stream.log import LogReader
from stream.messages import DriftSpan
from stream.topics import TRUTH


class TruthTail:
    """Follows the true probabilities, whatever the sizes of the records.

    Parameters
    ----------
    log
        The log ``truth``, read by nobody else through this reader.
    position
        Where to go on; None begins with the oldest record.
    """

    def __init__(self, log: LogReader, position: LogPosition | None = None) -> None:
        self._log = log
        self._next = resume(log, TRUTH, position)
        self._held: deque[tuple[int, TruthBatch]] = deque()

    @property
    def position(self) -> LogPosition:
        """The place of the first record that has not been used up."""
        return LogPosition(self._log.identity, self._held[0][0] if self._held else self._next)

    def find(self, begin: int, end: int) -> Truth | None:
        """Return the truth about the events number ``begin + 1`` to ``end``; None if not there yet.

        Stretches must be asked for in order.
        """
        while not self._held or self._held[-1][1].end < end:
            records = self._log.read(0, self._next, 4)
            if not records:
                return None
            self._held.extend((r.offset, truth_from_bytes(r.record.value)) for r in records)
            self._next = records[-1].next_offset
        while self._held[0][1].end <= begin:
            self._held.popleft()
        parts = [batch for _, batch in self._held if batch.begin < end]
        every = [part.probability for part in parts]
        probability = every[0] if len(every) == 1 else np.concatenate(every)
        first = begin - parts[0].begin
        if first < 0 or parts[-1].end - parts[0].begin != len(probability):
            raise ValueError(
                f"the truth about the events {begin + 1:,} to {end:,} has a hole; make the stream "
                "anew"
            )
        spans = (span for part in parts for span in part.drift)
        drift = sorted({span.drift for span in spans if _touches(span, begin, end)})
        return Truth(probability[first : first + end - begin], tuple(drift))

    def close(self) -> None:
        """Release the log."""
        self._log.close()


def _touches(span: DriftSpan, begin: int, end: int) -> bool:
    """Tell whether a drift runs in ``begin`` <= count < ``end``; an abrupt one takes a moment."""
    return span.begin < end and (begin < span.end or begin <= span.begin)
