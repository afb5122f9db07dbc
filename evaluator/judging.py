"""Which candidate is to be judged now, and from where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from evaluator.config import Agreement
from evaluator.join import Join, JoinCursor
from evaluator.judge import Judge, JudgeState
from evaluator.ledger import FIRST, LedgerTail
from evaluator.position import LogPosition
from stream.messages import Judgement, RebuildPlan


@dataclass(frozen=True, slots=True)
class JudgingState:
    """All that is known about judgements, for a checkpoint."""

    marks: dict[int, JoinCursor] = field(default_factory=dict)
    """Places from which a judgement may have to begin, by count."""
    judge: JudgeState | None = None
    """The judgement under way."""
    judged: int = 0
    """Rebuilds up to this number need no judgement any more."""
    candidates: LogPosition | None = None
    """Where the predictions of the next candidate are looked for."""


class Judging:
    """Judges one rebuild after the other; the first mask needs no judgement.

    Nor does a rebuild that a rollback has overruled: whether it was judged before is a matter of
    time, and nobody reads it.

    A judgement goes over events that may have been scored before its rebuild was even decided. So
    the places where one might begin are marked in passing, and kept until it is known.

    Parameters
    ----------
    open_join
        Opens a join of its own at a place.
    agreement
        When rebuilds end, and how many events they are judged on.
    state
        Where to go on.
    """

    def __init__(
        self, open_join: Callable[[JoinCursor], Join], agreement: Agreement, state: JudgingState
    ) -> None:
        self._open_join = open_join
        self._agreement = agreement
        self._state = state
        self._judge = Judge(open_join(state.judge.cursor), state.judge) if state.judge else None

    @property
    def state(self) -> JudgingState:
        """All that it knows, for a checkpoint."""
        return replace(self._state, judge=self._judge.state if self._judge else None)

    @property
    def conflicts(self) -> int:
        """Repeated predictions, in the judgement under way, that differed from the first."""
        return self._judge.conflicts if self._judge else 0

    def may_begin(self, count: int) -> bool:
        """Tell whether a judgement may have to begin behind ``count`` events."""
        decided = count + self._agreement.judge_events - self._agreement.rebuild_events
        return decided > 0 and decided % self._agreement.trigger_events == 0

    def mark(self, cursor: JoinCursor) -> None:
        """Remember a place from which a judgement may have to begin."""
        marks = {**self._state.marks, cursor.clicks.count: cursor}
        self._state = replace(self._state, marks=marks)

    def step(self, ledger: LedgerTail) -> tuple[int, Judgement | None]:
        """Take in at most one batch; return its events, and the judgement if it ends one."""
        if self._judge is not None and self._judge.state.plan.number in ledger.overruled:
            self._end(self._judge)
        plan = self._next(ledger)
        if self._judge is None and plan is not None:
            self._begin(plan)
        if self._judge is None or plan is None:
            self._forget(ledger)
            return 0, None
        events, judgement = self._judge.step(settled=plan.number in ledger.verdicts)
        if self._judge.over:
            self._end(self._judge)
        return events, judgement

    def is_idle(self, ledger: LedgerTail, count: int) -> bool:
        """Tell whether no judgement is under way or could begin by ``count``."""
        plan = self._next(ledger)
        return plan is None or self._begin_of(plan) > count

    def close(self) -> None:
        """Release the logs."""
        if self._judge:
            self._judge.close()

    def _next(self, ledger: LedgerTail) -> RebuildPlan | None:
        """Return the oldest rebuild that needs a judgement and has none."""
        plans = [p for p in ledger.plans.values() if p.number not in ledger.overruled]
        wanted = (p for p in plans if p.number > self._state.judged and p.reason != FIRST)
        return next(wanted, None)

    def _begin_of(self, plan: RebuildPlan) -> int:
        return plan.end - self._agreement.judge_events

    def _begin(self, plan: RebuildPlan) -> None:
        """Open the judgement, if its first event has been reached."""
        begin = self._begin_of(plan)
        cursor = self._state.marks.get(begin)
        if cursor is None:
            return
        if self._state.candidates:
            known = {**cursor.predictions, plan.candidate: self._state.candidates}
            cursor = replace(cursor, predictions=known)
        self._judge = Judge(self._open_join(cursor), JudgeState(plan, begin, cursor))

    def _end(self, judge: Judge) -> None:
        """Close the judgement; the next one looks for its candidate from here on."""
        plan = judge.state.plan
        place = judge.state.cursor.predictions.get(plan.candidate, self._state.candidates)
        self._state = replace(self._state, judged=plan.number, candidates=place)
        judge.close()
        self._judge = None

    def _forget(self, ledger: LedgerTail) -> None:
        """Drop the places from which no judgement will begin."""
        lead = self._agreement.rebuild_events - self._agreement.judge_events
        plan = self._next(ledger)
        wanted = self._begin_of(plan) if plan else None
        marks = {
            count: cursor
            for count, cursor in self._state.marks.items()
            if count - lead > ledger.decided or count == wanted
        }
        if len(marks) < len(self._state.marks):
            self._state = replace(self._state, marks=marks)
