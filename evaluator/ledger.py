"""What the evaluator knows from the ledger: who starts when, and what is to be judged."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.config import DENSE, Agreement
from evaluator.position import LogPosition, resume
from stream.keyed import FirstWins, Tail
from stream.log import LogReader, StoredRecord
from stream.messages import Decision, RebuildPlan, Verdict, parse
from stream.topics import LEDGER

FIRST = "first"
"""The reason of the rebuild that makes the first mask."""


class LedgerTail:
    """Follows the ledger; being short, it is read from its beginning in every life.

    Parameters
    ----------
    log
        The ledger.
    agreement
        When decisions are made and how long a rebuild takes.
    copied
        What stands before needs no copy any more; None: everything does.

    Attributes
    ----------
    plans
        All rebuilds decided, by number.
    verdicts
        How they ended, by number.
    overruled
        The numbers of those that a rollback ended before they could be judged.
    decided
        The end of the last window that was decided.
    start
        The count behind which the first mask serves, once that is known.
    """

    def __init__(
        self, log: LogReader, agreement: Agreement, copied: LogPosition | None = None
    ) -> None:
        self.plans: dict[int, RebuildPlan] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.overruled: set[int] = set()
        self.decided = 0
        self.start: int | None = None
        self._log = log
        self._tail = Tail(log)
        self._first = FirstWins()
        self._agreement = agreement
        self._copied = resume(log, LEDGER, copied)

    @property
    def position(self) -> LogPosition:
        """Behind all that :meth:`poll` has returned, in this life or before."""
        return LogPosition(self._log.identity, max(self._copied, self._tail.offset))

    @property
    def conflicts(self) -> int:
        """Repeats that differed from the first."""
        return self._first.conflicts

    @property
    def opened(self) -> RebuildPlan | None:
        """The rebuild that has no verdict yet."""
        return next((p for n, p in self.plans.items() if n not in self.verdicts), None)

    def poll(self) -> list[Decision | Verdict]:
        """Take in all that has come, and return what needs a copy; repeats are left out."""
        found = []
        while records := self._tail.poll():
            for stored in records:
                message = _parse(stored)
                if self._first.accept(message.key, stored.record.value):
                    self._take(message)
                    found += [message] if stored.offset >= self._copied else []
        return found

    def required(self, models: Sequence[str], count: int) -> tuple[str, ...]:
        """Return those of ``models`` that predict the batch after ``count`` events."""
        started = self.start is not None and count >= self.start
        return tuple(models) if started else (DENSE,)

    def limit(self) -> tuple[int, str] | None:
        """Return how far it is certain that dense runs alone, and what would tell more.

        None once all models have started.
        """
        if self.start is not None:
            return None
        if self.opened:
            return self.opened.end, f"verdict of rebuild {self.opened.number}"
        undecided = self.decided + self._agreement.trigger_events
        return undecided + self._agreement.rebuild_events, f"decision on {undecided:,}"

    def complete(self, count: int) -> bool:
        """Tell whether all has been decided on an input of ``count`` events."""
        full = count - count % self._agreement.trigger_events
        return self.decided >= full and self.opened is None

    def close(self) -> None:
        """Release the log."""
        self._log.close()

    def _take(self, message: Decision | Verdict) -> None:
        if isinstance(message, Verdict):
            self.verdicts[message.rebuild.number] = message
            if message.rebuild.reason == FIRST and message.verdict == "promoted":
                self.start = message.count
            return
        self.decided = message.count
        if message.rollback is not None:
            self.overruled |= self.plans.keys() - self.verdicts.keys()
        plan = message.rebuild
        if plan is not None and plan.end - plan.decided != self._agreement.rebuild_events:
            raise ValueError(
                f"rebuild {plan.number} takes {plan.end - plan.decided:,} events, agreed are "
                f"{self._agreement.rebuild_events:,}; give all workers one configuration"
            )
        if plan is not None:
            self.plans[plan.number] = plan


def _parse(stored: StoredRecord) -> Decision | Verdict:
    message = parse(stored.record.value)
    if not isinstance(message, Decision | Verdict):
        raise ValueError(
            f"record {stored.offset} of the ledger is a {message.kind}; only decisions and "
            "verdicts belong there"
        )
    return message
