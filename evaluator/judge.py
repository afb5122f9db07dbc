"""Judging a candidate against the incumbent, on the last events of its rebuild."""

from __future__ import annotations

from dataclasses import dataclass

from evaluator.config import DENSE, INCUMBENT
from evaluator.interval import RatioSums
from evaluator.join import Join, JoinCursor
from evaluator.joined import JoinedBatch
from evaluator.measures import weighted_losses
from stream.messages import Judgement, RebuildPlan
from stream.topics import CLICKS, predictions


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
            self.over = settled and self._join.missing in (candidate, CLICKS)
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
