"""Following the predictions of one model."""

from __future__ import annotations

from collections import deque

from evaluator.position import LogPosition, resume
from stream.columnar import predictions_from_bytes
from stream.keyed import FirstWins
from stream.log import LogReader, StoredRecord
from stream.messages import PredictionBatch
from stream.topics import predictions

_CANDIDATE = "candidate-"
_READ_BACK = 256
"""Records looked through at first for the original of a repeat."""


class PredictionTail:
    """Follows one model's predictions, batch by batch.

    A learner that was restarted publishes again what it had published since its checkpoint. The
    first of each batch counts; a repeat is compared with it, which raises an alarm if it differs.

    Parameters
    ----------
    model
        Whose predictions to follow. A candidate shares its log: those of earlier candidates are
        passed over, and one of a later candidate says that there are no more of this one.
    log
        Its log, read by nobody else through this reader.
    position
        Where to go on; None begins with the oldest record.

    Attributes
    ----------
    conflicts
        Repeats so far that differed from the first.
    """

    def __init__(self, model: str, log: LogReader, position: LogPosition | None = None) -> None:
        self.model = model
        self.conflicts = 0
        self._log = log
        self._offset = self._next = resume(log, predictions(model), position)
        self._unread: deque[StoredRecord] = deque()
        self._found: PredictionBatch | None = None
        self._earlier: FirstWins | None = None

    @property
    def position(self) -> LogPosition:
        """The place behind the last batch taken."""
        return LogPosition(self._log.identity, self._offset)

    def find(self, begin: int) -> PredictionBatch | None:
        """Return the prediction of the batch after ``begin`` events; None if not there yet.

        It is the same one until :meth:`take` passes it.
        """
        while self._found is None:
            stored = self._peek()
            if stored is None:
                return None
            batch = predictions_from_bytes(stored.record.value)
            if self._is_later(batch.model):
                return None
            if batch.model == self.model:
                self._sort(batch, stored, begin)
            if self._found is None:
                self.take()
        return self._found

    def take(self) -> None:
        """Pass the record that was looked at last."""
        self._offset = self._unread.popleft().next_offset
        self._found = None

    def close(self) -> None:
        """Release the log."""
        self._log.close()

    def _peek(self) -> StoredRecord | None:
        if not self._unread:
            self._unread.extend(self._log.read(0, self._next))
            if not self._unread:
                return None
            self._next = self._unread[-1].next_offset
        return self._unread[0]

    def _is_later(self, model: str) -> bool:
        """Tell whether a record is of a later candidate; it must be of this model or candidates."""
        if model == self.model:
            return False
        if not (model.startswith(_CANDIDATE) and self.model.startswith(_CANDIDATE)):
            raise ValueError(
                f"the log {predictions(self.model)} holds a prediction of {model!r}; "
                "let each model write its own log"
            )
        return int(model.removeprefix(_CANDIDATE)) > int(self.model.removeprefix(_CANDIDATE))

    def _sort(self, batch: PredictionBatch, stored: StoredRecord, begin: int) -> None:
        """Keep what is looked for, compare what repeats, refuse what has left something out."""
        if batch.begin > begin:
            raise ValueError(
                f"the predictions of {self.model!r} go on at {batch.begin:,}, those from "
                f"{begin:,} on are missing; begin with new logs"
            )
        if batch.begin == begin:
            self._found, self._earlier = batch, None
            return
        if self._earlier is None:
            self._earlier = self._read_back(batch.begin, stored.offset)
        before = self._earlier.conflicts
        self._earlier.accept(self._key(batch), stored.record.value)
        self.conflicts += self._earlier.conflicts - before

    def _key(self, batch: PredictionBatch) -> str:
        return f"{predictions(self.model)}/{batch.model}/{batch.begin}"

    def _read_back(self, begin: int, offset: int) -> FirstWins:
        """Gather the records before ``offset``, back to one of the batch after ``begin`` events."""
        records = _READ_BACK
        while True:
            earlier, oldest, at = FirstWins(), self._log.begin(0), offset
            at = start = max(oldest, offset - records)
            begins = set()
            while at < offset:
                for stored in self._log.read(0, at, min(_READ_BACK, offset - at)):
                    batch = predictions_from_bytes(stored.record.value)
                    earlier.accept(self._key(batch), stored.record.value)
                    begins.add((batch.model, batch.begin))
                    at = stored.next_offset
            if start == oldest or (self.model, begin) in begins:
                return earlier
            records *= 4
