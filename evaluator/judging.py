"""Judging: what the ledger says is to be judged, and a candidate against the incumbent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from evaluator.join import Join, JoinCursor, JoinedBatch, LogPosition, resume
from evaluator.metrics.cross_entropy import weighted_losses
from evaluator.metrics.metric import added
from evaluator.metrics.relative_ce import RatioSums
from stream.follow import Deduplicator, LogFollower
from stream.log import LogReader
from stream.messages import Decision, Judgement, RebuildPlan, Verdict, parse
from stream.spec import RunSpec, Waiting
from stream.topics import CLICKS, LEDGER, predictions

FIRST = "first"
"""The reason of the rebuild that makes the first mask."""


class LedgerState:
    """Follows the ledger; since it is short, every start reads it from its beginning.

    Parameters
    ----------
    log
        The ledger.
    spec
        When decisions are made and how long a rebuild takes.
    copied
        What is before this position needs no copy any more; None: everything does.

    Attributes
    ----------
    plans
        All rebuilds decided, by number.
    verdicts
        How they ended, by number.
    superseded
        The numbers of those that a rollback ended before they could be judged.
    decided
        The end of the last window that was decided.
    start
        The count after which the first mask serves, once that is known.
    """

    def __init__(self, log: LogReader, spec: RunSpec, copied: LogPosition | None = None) -> None:
        self.plans: dict[int, RebuildPlan] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.superseded: set[int] = set()
        self.decided = 0
        self.start: int | None = None
        self._log = log
        self._tail = LogFollower(log)
        self._first = Deduplicator()
        self._spec = spec
        self._copied = resume(log, LEDGER, copied)

    @property
    def position(self) -> LogPosition:
        """The position after all that :meth:`poll` has returned, since this start or before."""
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
                message = parse(stored.record.value)
                if not isinstance(message, Decision | Verdict):
                    raise ValueError(
                        f"record {stored.offset} of the ledger is a {message.kind}; only decisions "
                        "and verdicts belong there"
                    )
                if self._first.accept(message.key, stored.record.value):
                    self._take(message)
                    found += [message] if stored.offset >= self._copied else []
        return found

    def required(self, models: Sequence[str], count: int) -> tuple[str, ...]:
        """Return those of ``models`` that predict the batch after ``count`` events."""
        started = self.start is not None and count >= self.start
        return tuple(models) if started else (self._spec.root,)

    def limit(self) -> tuple[int, Waiting] | None:
        """Return up to which count the root certainly runs alone, and what is needed to go on.

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

    def to_judge(self, judged: int) -> RebuildPlan | None:
        """Return the oldest rebuild after number ``judged`` that needs a judgement."""
        plans = (p for p in self.plans.values() if p.number not in self.superseded)
        return next((p for p in plans if p.number > judged and p.reason != FIRST), None)

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
            self.superseded |= self.plans.keys() - self.verdicts.keys()
        plan = message.rebuild
        if plan is not None and plan.end - plan.decided != self._spec.rebuild_events:
            raise ValueError(
                f"rebuild {plan.number} takes {plan.end - plan.decided:,} events, agreed are "
                f"{self._spec.rebuild_events:,}; give all workers one configuration"
            )
        if plan is not None:
            self.plans[plan.number] = plan


@dataclass(frozen=True, slots=True)
class JudgeSums:
    """Sums over the events on which a candidate is judged; those of separate ranges add up."""

    candidate: float
    """Weighted loss, nats; so is the next one."""
    root: float
    difference: RatioSums
    """a = the candidate's weighted loss less the incumbent's, b = the weight."""
    relative: RatioSums
    """The same a, b = the incumbent's weighted loss."""

    @classmethod
    def of(cls, batch: JoinedBatch) -> JudgeSums:
        """Sum up one batch of the root, the incumbent and the candidate, in this order."""
        probabilities = {name: one.probability for name, one in batch.models.items()}
        losses = weighted_losses(batch.label, batch.weight, probabilities, batch.begin)
        root, incumbent, candidate = losses.values()
        difference = candidate - incumbent
        return cls(
            candidate=float(candidate.sum()),
            root=float(root.sum()),
            difference=RatioSums.of(difference, batch.weight),
            relative=RatioSums.of(difference, incumbent),
        )

    def __add__(self, other: JudgeSums) -> JudgeSums:
        return added(self, other)


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
    """Scores one candidate beside the incumbent and the root, on the same events.

    Parameters
    ----------
    join
        At the place of ``state.cursor``; the judge closes it.
    spec
        The roles of the models.
    state
        The judgement to go on with.

    Attributes
    ----------
    done
        There is nothing left to do: it is judged, or no judgement will come.
    """

    def __init__(self, join: Join, spec: RunSpec, state: JudgeState) -> None:
        self.done = False
        self._join = join
        self._state = state
        self._models = (spec.root, spec.served, state.plan.candidate)

    @property
    def state(self) -> JudgeState:
        """All that it knows, for a checkpoint."""
        return replace(self._state, cursor=self._join.cursor)

    @property
    def conflicts(self) -> int:
        """Repeated predictions that differed from the first."""
        return self._join.conflicts

    def step(self, *, has_verdict: bool) -> tuple[int, Judgement | None]:
        """Take in at most one batch; return its events, and at the end the judgement.

        Parameters
        ----------
        has_verdict
            The rebuild has a verdict. Its candidate had published all it ever would before, so
            where a prediction of it is missing, none will come and the judge gives up.
        """
        batch = self._join.next(self._models)
        if batch is None:
            candidate, missing = predictions(self._models[-1]), self._join.missing
            gone = missing is not None and missing.log in (candidate, CLICKS)
            self.done = has_verdict and gone
            return 0, None
        sums, plan = JudgeSums.of(batch), self._state.plan
        sums = sums if self._state.sums is None else self._state.sums + sums
        self._state = replace(self._state, sums=sums)
        self.done = batch.end >= plan.end
        if not self.done:
            return len(batch.label), None
        weight = sums.difference.b
        return len(batch.label), Judgement(
            rebuild=plan.number,
            begin=self._state.begin,
            end=plan.end,
            candidate_ce=sums.candidate / weight,
            incumbent_ce=sums.relative.b / weight,
            dense_ce=sums.root / weight,
            difference=sums.difference.interval(),
            relative=sums.relative.interval(),
        )

    def close(self) -> None:
        """Release the logs."""
        self._join.close()


@dataclass(frozen=True, slots=True)
class JudgingState:
    """All that is known about judgements, for a checkpoint."""

    starts: dict[int, JoinCursor] = field(default_factory=dict)
    """Places at which a judgement may have to begin, by count."""
    judge: JudgeState | None = None
    """The judgement under way."""
    judged: int = 0
    """Rebuilds up to this number need no judgement any more."""
    candidates: LogPosition | None = None
    """Where the predictions of the next candidate are looked for."""


class Judging:
    """Judges one rebuild after the other; the first mask needs no judgement.

    Nor does a rebuild that a rollback has superseded: whether it was judged before depends on
    timing, and nobody reads it.

    A judgement goes over events that may have been scored before its rebuild was even decided. So
    the places where one might begin are kept as scoring passes them, until that is known.

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
        self._judge: Judge | None = None
        if state.judge:
            self._judge = Judge(open_join(state.judge.cursor), spec, state.judge)

    @property
    def state(self) -> JudgingState:
        """All that it knows, for a checkpoint."""
        return replace(self._state, judge=self._judge.state if self._judge else None)

    @property
    def conflicts(self) -> int:
        """Repeated predictions, in the judgement under way, that differed from the first."""
        return self._judge.conflicts if self._judge else 0

    def may_begin(self, count: int) -> bool:
        """Tell whether a judgement may have to begin after ``count`` events."""
        decided = count + self._spec.judge_events - self._spec.rebuild_events
        return decided > 0 and decided % self._spec.window_events == 0

    def remember(self, cursor: JoinCursor) -> None:
        """Remember a place at which a judgement may have to begin."""
        starts = {**self._state.starts, cursor.clicks.count: cursor}
        self._state = replace(self._state, starts=starts)

    def step(self, ledger: LedgerState) -> tuple[int, Judgement | None]:
        """Take in at most one batch; return its events, and the judgement if it ends one."""
        if self._judge is not None and self._judge.state.plan.number in ledger.superseded:
            self._end(self._judge)
        plan = ledger.to_judge(self._state.judged)
        if self._judge is None and plan is not None:
            self._begin(plan)
        if self._judge is None or plan is None:
            self._forget(ledger, plan)
            return 0, None
        events, judgement = self._judge.step(has_verdict=plan.number in ledger.verdicts)
        if self._judge.done:
            self._end(self._judge)
        return events, judgement

    def is_idle(self, ledger: LedgerState, count: int) -> bool:
        """Tell whether no judgement is under way or could begin by ``count``."""
        plan = ledger.to_judge(self._state.judged)
        return plan is None or plan.end - self._spec.judge_events > count

    def close(self) -> None:
        """Release the logs."""
        if self._judge:
            self._judge.close()

    def _begin(self, plan: RebuildPlan) -> None:
        """Open the judgement, if its first event has been reached."""
        begin = plan.end - self._spec.judge_events
        cursor = self._state.starts.get(begin)
        if cursor is None:
            return
        if self._state.candidates:
            known = {**cursor.predictions, plan.candidate: self._state.candidates}
            cursor = replace(cursor, predictions=known)
        self._judge = Judge(self._open_join(cursor), self._spec, JudgeState(plan, begin, cursor))

    def _end(self, judge: Judge) -> None:
        """Close the judgement; the next one looks for its candidate from here on."""
        plan = judge.state.plan
        place = judge.state.cursor.predictions.get(plan.candidate, self._state.candidates)
        self._state = replace(self._state, judged=plan.number, candidates=place)
        judge.close()
        self._judge = None

    def _forget(self, ledger: LedgerState, plan: RebuildPlan | None) -> None:
        """Drop the places at which no judgement will begin; ``plan`` is the next one to judge."""
        lead = self._spec.rebuild_events - self._spec.judge_events
        wanted = plan.end - self._spec.judge_events if plan else None
        starts = {
            count: cursor
            for count, cursor in self._state.starts.items()
            if count - lead > ledger.decided or count == wanted
        }
        if len(starts) < len(self._state.starts):
            self._state = replace(self._state, starts=starts)
