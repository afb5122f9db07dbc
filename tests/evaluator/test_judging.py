from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluator.join import Join, JoinCursor
from evaluator.judging import Judging, JudgingState, LedgerState
from stream.messages import Decision, RebuildPlan
from stream.topics import LEDGER
from tests.evaluator.stage import SPEC, Stage, chance, drawn, plan, rollback, verdict

N = 400
FIRST, SECOND, THIRD = plan(1, 80), plan(2, 160), plan(3, 280)


class Bench:
    """A run whose every prediction is there, seen by the judging alone."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder)
        self.stage.clicks(*drawn(N))
        for model in ("dense", "sparse"):
            self.stage.predict(model, chance(model, N))
        self.join = Join(self.stage.home, SPEC)
        self.ledger = LedgerState(self.stage.home.reader(LEDGER), SPEC)
        self.judging = self.opened(JudgingState())

    def opened(self, state: JudgingState) -> Judging:
        def open_join(cursor: JoinCursor) -> Join:
            return Join(self.stage.home, SPEC, cursor)

        return Judging(open_join, SPEC, state)

    def walk(self, count: int) -> None:
        """Score up to a count, marking on the way."""
        while self.join.count < count:
            self.join.next(("dense", "sparse"))
            if self.judging.may_begin(self.join.count):
                self.judging.remember(self.join.cursor)

    def candidate(self, one: RebuildPlan, end: int | None = None) -> None:
        self.stage.predict(one.candidate, chance(one.candidate, N), one.end - 20, end or one.end)

    def judged(self) -> list[int]:
        """Step until nothing can move any more; return the rebuilds judged."""
        self.ledger.poll()
        steps = [self.judging.step(self.ledger) for _ in range(10)]
        return [judgement.rebuild for _, judgement in steps if judgement]

    @property
    def starts(self) -> list[int]:
        return list(self.judging.state.starts)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_judgement_may_begin_where_a_rebuild_decided_on_some_window_is_judged(
    bench: Bench,
) -> None:
    found = [count for count in range(0, 300, 10) if bench.judging.may_begin(count)]
    assert found == [100, 140, 180, 220, 260]


def test_a_place_is_kept_until_its_window_is_decided(bench: Bench) -> None:
    bench.walk(250)
    assert bench.starts == [100, 140, 180, 220]
    bench.stage.decisions(120, FIRST)
    assert bench.judged() == []
    assert bench.starts == [220]


def test_the_first_mask_is_not_judged(bench: Bench) -> None:
    bench.stage.decisions(120, FIRST)
    bench.candidate(FIRST)
    bench.walk(250)
    assert bench.judged() == []
    assert bench.judging.is_idle(bench.ledger, 250)


@pytest.mark.parametrize("walked", [210, 220, 390], ids=["before", "there", "long after"])
def test_a_rebuild_is_judged_wherever_scoring_stands_when_it_is_decided(
    bench: Bench, walked: int
) -> None:
    bench.walk(walked)
    bench.stage.decisions(160, FIRST, SECOND)
    bench.candidate(SECOND)
    found = bench.judged()
    bench.walk(390)
    assert found + bench.judged() == [2]
    assert bench.judging.is_idle(bench.ledger, 390)
    assert bench.judging.state.plan is None


def test_it_is_idle_only_as_long_as_no_judgement_could_begin(bench: Bench) -> None:
    bench.stage.decisions(160, FIRST, SECOND)
    bench.walk(390)
    bench.judged()
    assert bench.judging.is_idle(bench.ledger, 210)
    assert not bench.judging.is_idle(bench.ledger, 220)


def test_one_rebuild_is_judged_after_the_other(bench: Bench) -> None:
    bench.walk(390)
    bench.stage.decisions(280, FIRST, SECOND, THIRD)
    bench.stage.decide(verdict(SECOND, "rejected"))
    bench.candidate(SECOND)
    bench.candidate(THIRD)
    assert bench.judged() == [2, 3]
    assert bench.judging.state.judged == 3


def test_a_candidate_that_failed_half_way_is_given_up_and_the_next_one_judged(
    bench: Bench,
) -> None:
    bench.walk(390)
    bench.candidate(SECOND, SECOND.end - 10)
    bench.candidate(THIRD)
    bench.stage.decisions(280, FIRST, SECOND, THIRD)
    bench.stage.decide(verdict(SECOND, "failed"))
    assert bench.judged() == [3]


def test_a_candidate_that_failed_before_its_first_prediction_is_given_up(bench: Bench) -> None:
    bench.walk(390)
    bench.stage.decisions(160, FIRST, SECOND)
    bench.stage.decide(verdict(SECOND, "failed"))
    assert bench.judged() == []
    assert bench.judging.is_idle(bench.ledger, 390)


def test_it_goes_on_from_its_state_in_the_middle_of_a_judgement(bench: Bench) -> None:
    bench.walk(390)
    bench.stage.decisions(160, FIRST, SECOND)
    bench.candidate(SECOND, SECOND.end - 10)
    bench.judged()
    state = bench.judging.state
    assert state.plan is not None
    assert state.sums is not None
    bench.judging.close()
    bench.judging = bench.opened(state)
    bench.candidate(SECOND.model_copy(update={"end": SECOND.end + 10}), SECOND.end)
    assert bench.judged() == [2]


def test_repeats_of_a_candidate_that_differ_are_counted(bench: Bench) -> None:
    bench.walk(390)
    bench.stage.decisions(160, FIRST, SECOND)
    bench.candidate(SECOND, SECOND.end - 10)
    wrong = chance("other", N)
    bench.stage.predict(SECOND.candidate, wrong, SECOND.end - 20, SECOND.end - 10)
    bench.judged()
    assert bench.judging.conflicts == 1


def test_starts_survive_in_the_state(bench: Bench) -> None:
    bench.walk(150)
    state = bench.judging.state
    assert bench.opened(state).state == state
    assert replace(state, starts={}) == JudgingState()


@pytest.mark.parametrize("predicted", [0, 10, 20], ids=["nothing", "some", "everything"])
def test_a_rebuild_that_was_superseded_is_not_judged_however_far_it_had_come(
    bench: Bench, predicted: int
) -> None:
    bench.walk(390)
    bench.stage.decisions(160, FIRST, SECOND)
    if predicted:
        bench.candidate(SECOND, SECOND.end - 20 + predicted)
    bench.stage.decide(rollback(200), verdict(SECOND, "rejected"))
    assert bench.judged() == []
    assert bench.judging.is_idle(bench.ledger, 390)


def test_a_judgement_under_way_ends_where_its_rebuild_is_superseded(bench: Bench) -> None:
    bench.walk(390)
    bench.stage.decisions(160, FIRST, SECOND)
    bench.candidate(SECOND, SECOND.end - 10)
    assert bench.judged() == []
    assert bench.judging.state.plan is not None
    bench.stage.decide(rollback(200))
    assert bench.judged() == []
    after = bench.judging.state
    assert after.plan is None
    assert after.judged == 2
    assert bench.judging.is_idle(bench.ledger, 390)


def test_the_rebuild_after_an_superseded_one_is_judged_though_the_other_had_not_ended(
    bench: Bench,
) -> None:
    """Rebuild 2 would have ended at 240; rebuild 3, decided at 240, ends at 320."""
    third = plan(3, 240)
    bench.walk(230)
    bench.stage.decisions(120, FIRST)
    bench.stage.decide(Decision(count=160, rebuild=SECOND))
    bench.candidate(SECOND, SECOND.end - 10)
    bench.judged()
    bench.stage.decide(rollback(200), verdict(SECOND, "rejected"))
    bench.stage.decide(Decision(count=240, rebuild=third))
    assert bench.judged() == []
    bench.candidate(third)
    bench.walk(390)
    assert bench.judged() == [3]


def test_what_was_superseded_while_nobody_looked_is_not_taken_up_again(bench: Bench) -> None:
    bench.walk(390)
    bench.stage.decisions(160, FIRST, SECOND)
    bench.candidate(SECOND, SECOND.end - 10)
    bench.judged()
    state = bench.judging.state
    bench.judging.close()
    bench.judging = bench.opened(state)
    bench.stage.decide(rollback(200))
    bench.candidate(SECOND)
    assert bench.judged() == []
    assert bench.judging.state.plan is None
