from __future__ import annotations

from pathlib import Path

import pytest

from evaluator.judging import LedgerState
from stream.follow import LogPosition
from stream.log import LogIdentityError, LogLostError, Record
from stream.messages import Decision, Progress, RebuildPlan, dump
from stream.spec import Waiting
from stream.topics import LEDGER
from tests.evaluator.stage import SPEC, Stage, plan, rollback, verdict

FIRST, SECOND = plan(1, 80), plan(2, 200)
BOTH = ("dense", "sparse")


def ledger(stage: Stage, copied: LogPosition | None = None) -> LedgerState:
    return LedgerState(stage.home.reader(LEDGER), SPEC, copied)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_before_any_decision_dense_runs_alone_up_to_the_earliest_end_of_a_rebuild(
    stage: Stage,
) -> None:
    tail = ledger(stage)
    assert tail.limit() == (120, Waiting(LEDGER, "the decision on the window ending at 40"))
    stage.decisions(40)
    tail.poll()
    assert tail.limit() == (160, Waiting(LEDGER, "the decision on the window ending at 80"))
    assert tail.required(BOTH, 1000) == ("dense",)


def test_an_open_first_rebuild_is_not_passed_without_its_verdict(stage: Stage) -> None:
    tail = ledger(stage)
    stage.decisions(120, FIRST)
    tail.poll()
    assert tail.limit() == (160, Waiting(LEDGER, "the verdict on rebuild 1"))


def test_all_models_are_required_behind_the_end_of_the_first_mask(stage: Stage) -> None:
    tail = ledger(stage)
    stage.decisions(120, FIRST)
    stage.decide(verdict(FIRST, "promoted", 1))
    tail.poll()
    assert tail.limit() is None
    assert tail.required(BOTH, 150) == ("dense",)
    assert tail.required(BOTH, 160) == BOTH


def test_a_first_rebuild_that_failed_starts_nothing(stage: Stage) -> None:
    tail = ledger(stage)
    stage.decisions(160, FIRST)
    stage.decide(verdict(FIRST, "failed"))
    tail.poll()
    assert tail.limit() == (280, Waiting(LEDGER, "the decision on the window ending at 200"))
    assert tail.required(BOTH, 1000) == ("dense",)


def test_later_rebuilds_do_not_move_the_start(stage: Stage) -> None:
    tail = ledger(stage)
    stage.decisions(280, FIRST, SECOND)
    stage.decide(verdict(FIRST, "promoted", 1), verdict(SECOND, "promoted", 2))
    tail.poll()
    assert tail.start == 160


def test_it_is_complete_when_every_window_is_decided_and_every_rebuild_has_ended(
    stage: Stage,
) -> None:
    tail = ledger(stage)
    stage.decisions(80, FIRST)
    tail.poll()
    assert not tail.complete(85)
    stage.decide(verdict(FIRST, "unfinished"))
    tail.poll()
    assert tail.complete(85)
    assert not tail.complete(120)


def test_repeats_count_once_and_one_that_differs_is_an_alarm(stage: Stage) -> None:
    tail = ledger(stage)
    stage.decide(Decision(count=40, why_not="maturing"), Decision(count=40, why_not="maturing"))
    assert [message.key for message in tail.poll()] == ["decision/40"]
    stage.decide(Decision(count=40, why_not="cooldown"))
    assert tail.poll() == []
    assert tail.conflicts == 1


def test_what_was_copied_is_known_but_not_returned_again(stage: Stage) -> None:
    before = ledger(stage)
    stage.decisions(80, FIRST)
    before.poll()
    stage.decisions(40)
    after = ledger(stage, before.position)
    assert after.poll() == []
    assert after.plans == {1: FIRST}
    stage.decide(Decision(count=120, why_not="rebuild 1 is open"))
    assert [message.count for message in after.poll()] == [120]
    assert after.position.offset == 4


def test_a_long_ledger_is_read_at_once(stage: Stage) -> None:
    stage.decisions(40 * 300)
    assert len(ledger(stage).poll()) == 300


def test_a_rebuild_of_another_length_is_refused(stage: Stage) -> None:
    odd = RebuildPlan(**{**FIRST.model_dump(), "end": 170})
    stage.decide(Decision(count=40, why_not="maturing"), Decision(count=80, rebuild=odd))
    with pytest.raises(ValueError, match="rebuild 1 takes 90 events, agreed are 80; give all"):
        ledger(stage).poll()


def test_a_ledger_that_lacks_a_decision_is_refused(stage: Stage) -> None:
    stage.decide(Decision(count=80, why_not="maturing"))
    lost = r"window ending at 80, that on the one ending at 40 is missing: records are gone; rest"
    with pytest.raises(LogLostError, match=lost):
        ledger(stage).poll()


def test_what_does_not_belong_in_the_ledger_is_refused(stage: Stage) -> None:
    strange = Progress(worker="w", count=0, events=0, wall_seconds=0, waiting_for=None, time_ms=0)
    stage.append(LEDGER, Record(dump(strange)))
    with pytest.raises(ValueError, match="record 0 of the ledger is a progress; only decisions"):
        ledger(stage).poll()


def test_a_ledger_that_was_made_again_is_refused(stage: Stage) -> None:
    with pytest.raises(LogIdentityError, match="ledger before"):
        ledger(stage, LogPosition("before", 0))


def test_a_rollback_supersedes_the_rebuild_that_is_open(stage: Stage) -> None:
    tail = ledger(stage)
    stage.decisions(200, FIRST, SECOND)
    stage.decide(verdict(FIRST, "promoted", 1), rollback(240))
    assert tail.poll()[-1] == rollback(240)
    assert tail.superseded == {2}
    assert not tail.complete(240)
    stage.decide(verdict(SECOND, "rejected"))
    tail.poll()
    assert tail.complete(240)


def test_a_rollback_with_no_rebuild_open_supersedes_none(stage: Stage) -> None:
    tail = ledger(stage)
    stage.decisions(160, FIRST)
    stage.decide(verdict(FIRST, "promoted", 1), rollback(200))
    tail.poll()
    assert tail.superseded == set()
    assert tail.complete(200)
