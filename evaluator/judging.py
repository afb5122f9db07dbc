"""What the evaluator knows from the ledger: who starts when, and what is to be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from evaluator.config import DENSE, INCUMBENT
from evaluator.join import Join, JoinCursor, JoinedBatch
from evaluator.metrics.interval import RatioSums
from evaluator.sums import weighted_losses
from stream.follow import LogFollower, LogPosition, MessageLog, resume
from stream.log import LogReader, StoredRecord
from stream.messages import Decision, Judgement, RebuildPlan, Verdict
from stream.spec import RunSpec, Waiting
from stream.topics import CLICKS, LEDGER, predictions

FIRST = "first"
"""The reason of the rebuild that makes the first mask."""


class LedgerState:
    """Follows the ledger; being short, it is read from its beginning in every life.

    Parameters
    ----------
    log
        The ledger.
    spec
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

    def __init__(self, log: LogReader, spec: RunSpec, copied: LogPosition | None = None) -> None:
        self.plans: dict[int, RebuildPlan] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.overruled: set[int] = set()
        self.decided = 0
        self.start: int | None = None
        self._log = log
        self._tail: LogFollower[Decision | Verdict]
        self._tail = MessageLog(log, LEDGER).follow(Decision, Verdict, on_other=_refuse)
        self._spec = spec
        self._copied = resume(log, LEDGER, copied)

    @property
    def position(self) -> LogPosition:
        """Behind all that :meth:`poll` has returned, in this life or before."""
        return LogPosition(self._log.identity, max(self._copied, self._tail.position.offset))

    @property
    def conflicts(self) -> int:
        """Repeats that differed from the first."""
        return self._tail.conflicts

    @property
    def opened(self) -> RebuildPlan | None:
        """The rebuild that has no verdict yet."""
        return next((p for n, p in self.plans.items() if n not in self.verdicts), None)

    def poll(self) -> list[Decision | Verdict]:
        """Take in all that has come, and return what needs a copy; repeats are left out."""
        found = []
        while messages := self._tail.poll_logged():
            for one in messages:
                self._take(one.message)
                found += [one.message] if one.offset >= self._copied else []
        return found

    def required(self, models: Sequence[str], count: int) -> tuple[str, ...]:
        """Return those of ``models`` that predict the batch after ``count`` events."""
        started = self.start is not None and count >= self.start
        return tuple(models) if started else (DENSE,)

    def limit(self) -> tuple[int, Waiting] | None:
        """Return how far it is certain that dense runs alone, and what would tell more.

        None once all models have started.
        """
        if self.start is not None:
            return None
        if self.opened:
            return self.opened.end, Waiting(LEDGER, f"the verdict on rebuild {self.opened.number}")
        undecided = self.decided + self._spec.window_events
        needed = f"the decision on the window ending at {undecided}"
        return undecided + self._spec.rebuild_events, Waiting(LEDGER, needed)

    def complete(self, count: int) -> bool:
        """Tell whether all has been decided on an input of ``count`` events."""
        full = count - count % self._spec.window_events
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
        if plan is not None and plan.end - plan.decided != self._spec.rebuild_events:
            raise ValueError(
                f"rebuild {plan.number} takes {plan.end - plan.decided:,} events, agreed are "
                f"{self._spec.rebuild_events:,}; give all workers one configuration"
            )
        if plan is not None:
            self.plans[plan.number] = plan


def _refuse(stored: StoredRecord, what: str) -> None:
    raise ValueError(
        f"record {stored.offset} of the ledger is {what}; only decisions and verdicts belong there"
    )


@dataclass(frozen=True, slots=True)
class JudgeSums:
    """Sums over the events on which a candidate is judged; those of separate stretches add up."""

    weight: float
    candidate: float
    """Weighted loss, nats; so are the next two."""
    incumbent: float
    dense: float
    difference: RatioSums
    """a = the candidate's weighted loss less the incumbent's, b = the weight."""
    relative: RatioSums
    """The same a, b = the incumbent's weighted loss."""

    @classmethod
    def of(cls, batch: JoinedBatch, candidate: str) -> JudgeSums:
        """Sum up one batch."""
        loss = weighted_losses(batch)
        difference = loss[candidate] - loss[INCUMBENT]
        return cls(
            weight=float(batch.weight.sum()),
            candidate=float(loss[candidate].sum()),
            incumbent=float(loss[INCUMBENT].sum()),
            dense=float(loss[DENSE].sum()),
            difference=RatioSums.of(difference, batch.weight),
            relative=RatioSums.of(difference, loss[INCUMBENT]),
        )

    def __add__(self, other: JudgeSums) -> JudgeSums:
        return JudgeSums(
            self.weight + other.weight,
            self.candidate + other.candidate,
            self.incumbent + other.incumbent,
            self.dense + other.dense,
            self.difference + other.difference,
            self.relative + other.relative,
        )


@dataclass(frozen=True, slots=True)
class JudgeState:
    """A judgement under way."""

    plan: RebuildPlan
    begin: int
    """Events before the first one judged."""
    cursor: JoinCursor
    sums: JudgeSums | None = None
    """None before the first batch."""


class Judge:
    """Scores one candidate beside the incumbent and dense, on the same events.

    Parameters
    ----------
    join
        Stands where ``state.cursor`` does; the judge closes it.
    state
        The judgement to go on with.

    Attributes
    ----------
    over
        There is nothing left to do: judged, or no judgement will come.
    """

    def __init__(self, join: Join, state: JudgeState) -> None:
        self.over = False
        self._join = join
        self._state = state
        self._models = (DENSE, INCUMBENT, state.plan.candidate)

    @property
    def state(self) -> JudgeState:
        """All that it knows, for a checkpoint."""
        state = self._state
        return JudgeState(state.plan, state.begin, self._join.cursor, state.sums)

    @property
    def conflicts(self) -> int:
        """Repeated predictions that differed from the first."""
        return self._join.conflicts

    def step(self, settled: bool) -> tuple[int, Judgement | None]:
        """Take in at most one batch; return its events, and at the end the judgement.

        Parameters
        ----------
        settled
            The rebuild has a verdict. Its candidate had published all it ever would before, so
            where a prediction of it is missing, none will come and the judge gives up.
        """
        batch = self._join.next(self._models)
        if batch is None:
            candidate = predictions(self._state.plan.candidate)
            missing = self._join.missing
            self.over = settled and missing is not None and missing.log in (candidate, CLICKS)
            return 0, None
        state, sums = self._state, JudgeSums.of(batch, self._state.plan.candidate)
        total = sums if state.sums is None else state.sums + sums
        self._state = JudgeState(state.plan, state.begin, state.cursor, total)
        self.over = batch.end >= state.plan.end
        return len(batch.label), _judgement(self._state, total) if self.over else None

    def close(self) -> None:
        """Release the logs."""
        self._join.close()


def _judgement(state: JudgeState, sums: JudgeSums) -> Judgement:
    return Judgement(
        rebuild=state.plan.number,
        begin=state.begin,
        end=state.plan.end,
        candidate_ce=sums.candidate / sums.weight,
        incumbent_ce=sums.incumbent / sums.weight,
        dense_ce=sums.dense / sums.weight,
        difference=sums.difference.interval(),
        relative=sums.relative.interval(),
    )


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
    spec
        When rebuilds end, and how many events they are judged on.
    state
        Where to go on.
    """

    def __init__(
        self, open_join: Callable[[JoinCursor], Join], spec: RunSpec, state: JudgingState
    ) -> None:
        self._open_join = open_join
        self._spec = spec
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
        decided = count + self._spec.judge_events - self._spec.rebuild_events
        return decided > 0 and decided % self._spec.window_events == 0

    def mark(self, cursor: JoinCursor) -> None:
        """Remember a place from which a judgement may have to begin."""
        marks = {**self._state.marks, cursor.clicks.count: cursor}
        self._state = replace(self._state, marks=marks)

    def step(self, ledger: LedgerState) -> tuple[int, Judgement | None]:
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

    def is_idle(self, ledger: LedgerState, count: int) -> bool:
        """Tell whether no judgement is under way or could begin by ``count``."""
        plan = self._next(ledger)
        return plan is None or self._begin_of(plan) > count

    def close(self) -> None:
        """Release the logs."""
        if self._judge:
            self._judge.close()

    def _next(self, ledger: LedgerState) -> RebuildPlan | None:
        """Return the oldest rebuild that needs a judgement and has none."""
        plans = [p for p in ledger.plans.values() if p.number not in ledger.overruled]
        wanted = (p for p in plans if p.number > self._state.judged and p.reason != FIRST)
        return next(wanted, None)

    def _begin_of(self, plan: RebuildPlan) -> int:
        return plan.end - self._spec.judge_events

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

    def _forget(self, ledger: LedgerState) -> None:
        """Drop the places from which no judgement will begin."""
        lead = self._spec.rebuild_events - self._spec.judge_events
        plan = self._next(ledger)
        wanted = self._begin_of(plan) if plan else None
        marks = {
            count: cursor
            for count, cursor in self._state.marks.items()
            if count - lead > ledger.decided or count == wanted
        }
        if len(marks) < len(self._state.marks):
            self._state = replace(self._state, marks=marks)
