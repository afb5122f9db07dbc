from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pruner import verdicts
from pruner.ledger import FIRST, History, LedgerTail, decide, missing, settled
from pruner.trigger import Divergence, Periodic, Score
from stream import topics
from stream.log import Record
from stream.messages import Decision, RebuildPlan, Verdict, dump
from tests.pruner.worlds import RULES, World, window


def promoted(plan: RebuildPlan, version: int) -> Verdict:
    return verdicts.failed(plan, plan.end, ValueError()).model_copy(
        update={"verdict": "promoted", "version": version, "snapshot": "x", "mask": f"m{version}"}
    )


def plan(number: int, decided: int, reason: str = "divergence") -> RebuildPlan:
    return RebuildPlan(
        number=number,
        reason=reason,
        cause="",
        snapshot=decided,
        decided=decided,
        end=decided + 200,
    )


def told(*messages: Decision | Verdict) -> History:
    history = History()
    for message in messages:
        history = history.after(message)
    return history


FIRST_PLAN = plan(1, 400, FIRST)
SERVING = told(Decision(count=400, rebuild=FIRST_PLAN), promoted(FIRST_PLAN, 1))
SECOND = plan(2, 900)


def scores(*percents: float, begin: int = 600) -> list[Score]:
    return [
        Score(begin + 100 * i, begin + 100 * (i + 1), percent / 100)
        for i, percent in enumerate(percents)
    ]


@pytest.mark.parametrize("count", [100, 200, 300])
def test_before_the_first_mask_the_dense_model_matures(count: int) -> None:
    decision = decide(History(decided=count - 100), [], count, RULES)
    assert decision == Decision(count=count, why_not="maturing: the first mask is cut at 400")


def test_the_first_mask_is_cut_at_its_count() -> None:
    decision = decide(History(decided=300), [], 400, RULES)
    assert decision.rebuild == RebuildPlan(
        number=1,
        reason="first",
        cause="the dense model has matured over 400 events",
        snapshot=400,
        decided=400,
        end=600,
    )


def test_the_snapshot_is_the_last_one_on_the_grid() -> None:
    decision = decide(History(decided=300), [], 400, replace(RULES, snapshot_events=300))
    assert decision.rebuild is not None
    assert decision.rebuild.snapshot == 300


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("count", [500, 600])
def test_while_a_rebuild_is_open_nothing_is_decided_known_or_not_how_it_ended(
    known: bool, count: int
) -> None:
    """The decision on E itself must not depend on whether the verdict is there yet."""
    open_ = told(Decision(count=400, rebuild=FIRST_PLAN))
    history = open_.after(promoted(FIRST_PLAN, 1)) if known else open_
    assert decide(history, [], count, RULES) == Decision(
        count=count, why_not="rebuild 1 is open until 600"
    )


def test_after_its_end_the_verdict_must_be_there() -> None:
    history = told(Decision(count=400, rebuild=FIRST_PLAN))
    assert missing(history, 600) is None
    assert missing(history, 700) == "the verdict on rebuild 1"
    with pytest.raises(ValueError, match="the window ending at 700 cannot be decided without the"):
        decide(history, [], 700, RULES)


@pytest.mark.parametrize("verdict", ["failed", "unfinished"])
def test_a_first_mask_that_failed_is_tried_again_at_the_next_window(verdict: str) -> None:
    ended = verdicts.failed(FIRST_PLAN, 500, ValueError("nan"))
    history = told(
        Decision(count=400, rebuild=FIRST_PLAN), ended.model_copy(update={"verdict": verdict})
    )
    again = decide(history, [], 700, RULES).rebuild
    assert again is not None
    assert (again.number, again.reason, again.snapshot, again.end) == (2, "first", 700, 900)
    assert again.cause == f"the dense model has matured over 700 events; rebuild 1 {verdict}"


def test_a_window_that_began_before_the_swap_decides_nothing() -> None:
    decision = decide(SERVING, scores(9.0, begin=550), 650, RULES)
    assert decision.why_not == "the window began before the swap at 600"
    assert decide(SERVING, [], 700, RULES).why_not == "the window began before the swap at 600"


def test_a_rebuild_names_its_trigger_and_its_cause() -> None:
    decision = decide(SERVING, scores(0.1, 0.2, 0.5), 900, RULES)
    assert decision.rebuild is not None
    assert (decision.rebuild.number, decision.rebuild.reason) == (2, "divergence")
    assert decision.rebuild.cause.startswith("relative CE +0.500 % stands 0.400 % above")
    assert (decision.rebuild.snapshot, decision.rebuild.end) == (900, 1100)


def test_only_windows_since_the_swap_and_through_the_one_decided_count() -> None:
    """A low window before the swap and a high one after the count would both change the level."""
    around = [*scores(-5.0, begin=500), *scores(0.4, 0.5), *scores(-9.0, begin=800)]
    assert decide(SERVING, around, 800, RULES).rebuild is None


def test_a_decision_depends_on_its_arguments_alone() -> None:
    arguments = (SERVING, tuple(scores(0.1, 0.5)), 800, RULES)
    assert decide(*arguments) == decide(*arguments)


def test_rebuilds_are_counted_against_the_budget_without_the_first_mask() -> None:
    rules = replace(RULES, trigger=Divergence(threshold=0.002, budget=1))
    history = SERVING.after(Decision(count=900, rebuild=SECOND))
    history = history.after(verdicts.failed(SECOND, 950, ValueError()))
    assert SERVING.rebuilds == 0
    assert history.rebuilds == 1
    assert decide(SERVING, scores(0.1, 0.5), 800, rules).rebuild is not None
    decision = decide(history, scores(0.1, 0.5, 0.5, 0.5, 0.5, 0.5), 1200, rules)
    assert decision.why_not == "the budget of 1 rebuilds is spent"


def test_a_rejected_rebuild_leaves_version_swap_and_level_as_they_were() -> None:
    history = SERVING.after(Decision(count=900, rebuild=SECOND))
    history = history.after(verdicts.failed(SECOND, 950, ValueError()))
    assert (history.version, history.swap, history.first_end, history.open) == (1, 600, 600, None)


def test_a_promotion_moves_version_and_swap() -> None:
    history = SERVING.after(Decision(count=900, rebuild=SECOND)).after(promoted(SECOND, 2))
    assert (history.version, history.swap, history.first_end) == (2, 1100, 600)


def test_only_the_last_versions_are_remembered() -> None:
    history = SERVING
    for number in range(2, 7):
        one = plan(number, 1000 * number)
        history = history.after(Decision(count=one.decided, rebuild=one))
        history = history.after(promoted(one, number))
    assert [verdict.version for verdict in history.promoted] == [4, 5, 6]


def test_other_messages_do_not_change_the_history() -> None:
    assert SERVING.after(window(700)) == SERVING


def test_the_clock_starts_at_the_end_of_the_first_rebuild() -> None:
    rules = replace(RULES, trigger=Periodic(every_events=200))
    assert decide(SERVING, scores(0.0), 700, rules).why_not == "next due at 800"
    assert decide(SERVING, scores(0.0, 0.0), 800, rules).rebuild is not None


@pytest.mark.parametrize(
    ("total", "over"), [(0, False), (399, False), (400, False), (600, False), (1000, False)]
)
def test_with_an_open_rebuild_nothing_is_settled(total: int, over: bool) -> None:
    history = told(Decision(count=400, rebuild=FIRST_PLAN))
    assert settled(history, total, 100) is over


@pytest.mark.parametrize(("total", "over"), [(399, True), (499, True), (500, False)])
def test_all_full_windows_must_be_decided(total: int, over: bool) -> None:
    assert settled(History(decided=400), total, 100) is over


def test_the_log_is_read_into_the_history_and_repeats_are_passed_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    tail = LedgerTail(world.home.reader(topics.LEDGER))
    messages: list[Decision | Verdict] = [
        Decision(count=400, rebuild=FIRST_PLAN),
        promoted(FIRST_PLAN, 1),
    ]
    world.append(topics.LEDGER, *(Record(dump(message)) for message in messages))
    world.append(topics.LEDGER, Record(dump(window(500))), Record(dump(messages[0])))
    assert tail.poll() == messages
    assert tail.history == SERVING
    assert tail.poll() == []
