"""Judging: what the ledger says is to be judged, and a candidate against the incumbent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from evaluator.join import Join, JoinCursor, JoinedBatch
from evaluator.metrics.cross_entropy import weighted_losses
from evaluator.metrics.metric import added
from evaluator.metrics.relative_ce import RatioSums
from stream import (
    LogFollower,
    LogPosition,
    MessageLog,
    RunSpec,
    Waiting,
    check_decided,
    resume,
)
from stream.log import LogReader, StoredRecord
from stream.messages import Decision, Judgement, RebuildPlan, Verdict
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
        self._tail: LogFollower[Decision | Verdict]
        self._tail = MessageLog(log, LEDGER).follow(Decision, Verdict, on_other=_refuse)
        self._spec = spec
        self._copied = resume(log, LEDGER, copied)

    @property
    def position(self) -> LogPosition:
        """The position after all that :meth:`poll` has returned, since this start or before."""
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
        new = [one for found in iter(self._tail.poll_logged, []) for one in found]
        for one in new:
            self._take(one.message)
        return [one.message for one in new if one.offset >= self._copied]

    def required(self, models: Sequence[str], count: int) -> tuple[str, ...]:
        """Return those of ``models`` that predict the batch after ``count`` events."""
        started = self.start is not None and count >= self.start
        return tuple(models) if started else (self._spec.root,)

    def limit(self) -> tuple[int, Waiting] | None:
        """Return up to which count the root certainly runs alone, and what is needed to continue.

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

    def sync(self) -> None:
        """Return once all that has been read survives a crash of the machine."""
        self._log.sync()

    def close(self) -> None:
        """Release the log."""
        self._log.close()

    def _take(self, message: Decision | Verdict) -> None:
        if isinstance(message, Verdict):
            self.verdicts[message.rebuild.number] = message
            if message.rebuild.reason == FIRST and message.verdict == "promoted":
                self.start = message.count
            return
        check_decided(message.count, self.decided, self._spec.window_events)
        self.decided = message.count
        if message.rollback is not None:
            self.superseded |= self.plans.keys() - self.verdicts.keys()
        plan = message.rebuild
        if plan is None:
            return
        if plan.end - plan.decided != self._spec.rebuild_events:
            raise ValueError(
                f"rebuild {plan.number} takes {plan.end - plan.decided:,} events, agreed are "
                f"{self._spec.rebuild_events:,}; give all workers one configuration"
            )
        self.plans[plan.number] = plan


def _refuse(stored: StoredRecord, what: str) -> None:
    raise ValueError(
        f"record {stored.offset} of the ledger is {what}; only decisions and verdicts belong there"
    )


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
        sums = float(candidate.sum()), float(root.sum())
        lost = candidate - incumbent
        return cls(*sums, RatioSums.of(lost, batch.weight), RatioSums.of(lost, incumbent))

    def __add__(self, other: JudgeSums) -> JudgeSums:
        return added(self, other)


@dataclass(frozen=True, slots=True)
class JudgingState:
    """All that is known about judgements, for a checkpoint."""

    starts: dict[int, JoinCursor] = field(default_factory=dict)
    """Places at which a judgement may have to begin, by count."""
    plan: RebuildPlan | None = None
    """The rebuild whose judgement is under way; None: there is none."""
    cursor: JoinCursor | None = None
    """How far that judgement is."""
    sums: JudgeSums | None = None
    """None before its first batch."""
    judged: int = 0
    """Rebuilds up to this number need no judgement any more."""
    candidates: LogPosition | None = None
    """Where the predictions of the next candidate are looked for."""


class Judging:
    """Judges one rebuild after the other: its candidate beside the incumbent and the root.

    The first mask needs no judgement, nor does a rebuild that a rollback has superseded: whether it
    was judged before depends on timing, and nobody reads it.

    A judgement goes over events that may have been scored before its rebuild was even decided. So
    the places where one might begin are kept as scoring passes them, until that is known.

    Parameters
    ----------
    open_join
        Opens a join of its own at a place.
    spec
        The roles of the models, when rebuilds end, and how many events they are judged on.
    state
        Where to continue.
    """

    def __init__(
        self, open_join: Callable[[JoinCursor], Join], spec: RunSpec, state: JudgingState
    ) -> None:
        self._open_join = open_join
        self._spec = spec
        self._state = state
        self._join = open_join(state.cursor) if state.cursor else None

    @property
    def state(self) -> JudgingState:
        """All that it knows, for a checkpoint."""
        return replace(self._state, cursor=self._join.cursor if self._join else None)

    @property
    def conflicts(self) -> int:
        """Repeated predictions, in the judgement under way, that differed from the first."""
        return self._join.conflicts if self._join else 0

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
        if self._state.plan and self._state.plan.number in ledger.superseded:
            self._end()
        plan = ledger.to_judge(self._state.judged)
        if self._join is None and plan is not None:
            self._begin(plan)
        if self._join is None or plan is None:
            self._forget(ledger, plan)
            return 0, None
        batch = self._join.next((self._spec.root, self._spec.served, plan.candidate))
        if batch is None:
            # Before its verdict a candidate had published all that it ever would.
            missing = self._join.missing
            gone = missing and missing.log in (predictions(plan.candidate), CLICKS)
            if gone and plan.number in ledger.verdicts:
                self._end()
            return 0, None
        sums = JudgeSums.of(batch)
        sums = self._state.sums + sums if self._state.sums else sums
        self._state = replace(self._state, sums=sums)
        if batch.end < plan.end:
            return len(batch.label), None
        self._end()
        return len(batch.label), Judgement(
            rebuild=plan.number,
            begin=plan.end - self._spec.judge_events,
            end=plan.end,
            candidate_ce=sums.candidate / sums.difference.b,
            incumbent_ce=sums.relative.b / sums.difference.b,
            dense_ce=sums.root / sums.difference.b,
            difference=sums.difference.interval(),
            relative=sums.relative.interval(),
        )

    def is_idle(self, ledger: LedgerState, count: int) -> bool:
        """Tell whether no judgement is under way or could begin by ``count``."""
        plan = ledger.to_judge(self._state.judged)
        return plan is None or plan.end - self._spec.judge_events > count

    def sync(self) -> None:
        """Return once all that has been read survives a crash of the machine."""
        if self._join:
            self._join.sync()

    def close(self) -> None:
        """Release the logs."""
        if self._join:
            self._join.close()

    def _begin(self, plan: RebuildPlan) -> None:
        """Open the judgement, if its first event has been reached."""
        cursor = self._state.starts.get(plan.end - self._spec.judge_events)
        if cursor is None:
            return
        if self._state.candidates:
            known = {**cursor.predictions, plan.candidate: self._state.candidates}
            cursor = replace(cursor, predictions=known)
        self._join = self._open_join(cursor)
        self._state = replace(self._state, plan=plan, sums=None)

    def _end(self) -> None:
        """Close the judgement; the next one looks for its candidate from here on."""
        plan = self._state.plan
        if plan is None or self._join is None:
            return
        place = self._join.cursor.predictions.get(plan.candidate, self._state.candidates)
        self._join.close()
        self._join = None
        self._state = JudgingState(self._state.starts, judged=plan.number, candidates=place)

    def _forget(self, ledger: LedgerState, plan: RebuildPlan | None) -> None:
        """Drop the places at which no judgement will begin; ``plan`` is the next one to judge."""
        lead = self._spec.rebuild_events - self._spec.judge_events
        wanted = plan.end - self._spec.judge_events if plan else None
        old = self._state.starts
        starts = {n: at for n, at in old.items() if n - lead > ledger.decided or n == wanted}
        if len(starts) < len(old):
            self._state = replace(self._state, starts=starts)
