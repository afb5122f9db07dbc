from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from learner import ModelVersion
from pruner.decisions import (
    FIRST,
    History,
    LedgerFollower,
    PendingRequest,
    Rules,
    decide,
    ended_early,
    is_complete,
    missing,
)
from pruner.triggers import Divergence, Periodic, Score
from stream import topics
from stream.log import Record
from stream.messages import Decision, RebuildPlan, Request, Rollback, Verdict, dump
from tests.pruner.worlds import RULES, World, rules_with, window


def promoted(plan: RebuildPlan, version: int) -> Verdict:
    return ended_early(plan, "failed", "", plan.end).model_copy(
        update={"verdict": "promoted", "version": version, "snapshot": "x", "mask": f"m{version}"}
    )


def plan(number: int, decided: int, reason: str = "divergence") -> RebuildPlan:
    return RebuildPlan(
        number=number,
        reason=reason,
        cause="",
        begin=decided,
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
        begin=400,
        decided=400,
        end=600,
    )


def test_the_snapshot_is_the_last_one_on_the_grid() -> None:
    decision = decide(History(decided=300), [], 400, rules_with(snapshot_events=300))
    assert decision.rebuild is not None
    assert decision.rebuild.begin == 300


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
    ended = ended_early(FIRST_PLAN, "failed", "nan", 500)
    history = told(
        Decision(count=400, rebuild=FIRST_PLAN), ended.model_copy(update={"verdict": verdict})
    )
    again = decide(history, [], 700, RULES).rebuild
    assert again is not None
    assert (again.number, again.reason, again.begin, again.end) == (2, "first", 700, 900)
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
    assert (decision.rebuild.begin, decision.rebuild.end) == (900, 1100)


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
    history = history.after(ended_early(SECOND, "failed", "", 950))
    assert SERVING.rebuilds == 0
    assert history.rebuilds == 1
    assert decide(SERVING, scores(0.1, 0.5), 800, rules).rebuild is not None
    decision = decide(history, scores(0.1, 0.5, 0.5, 0.5, 0.5, 0.5), 1200, rules)
    assert decision.why_not == "the budget of 1 rebuilds is spent"


def test_a_rejected_rebuild_leaves_version_swap_and_level_as_they_were() -> None:
    history = SERVING.after(Decision(count=900, rebuild=SECOND))
    history = history.after(ended_early(SECOND, "failed", "", 950))
    assert (history.version, history.swap_count, history.first_end, history.open) == (
        1,
        600,
        600,
        None,
    )


def test_a_promotion_moves_version_and_swap() -> None:
    history = SERVING.after(Decision(count=900, rebuild=SECOND)).after(promoted(SECOND, 2))
    assert (history.version, history.swap_count, history.first_end) == (2, 1100, 600)


def test_only_the_last_versions_are_remembered() -> None:
    history = SERVING
    for number in range(2, 7):
        one = plan(number, 1000 * number)
        history = history.after(Decision(count=one.decided, rebuild=one))
        history = history.after(promoted(one, number))
    assert [swap.version for swap in history.promoted] == [4, 5, 6]


def test_other_messages_do_not_change_the_history() -> None:
    assert SERVING.after(window(700)) == SERVING


def test_the_clock_starts_at_the_end_of_the_first_rebuild() -> None:
    rules = replace(RULES, trigger=Periodic(every_events=200))
    assert decide(SERVING, scores(0.0), 700, rules).why_not == "next due at 800"
    assert decide(SERVING, scores(0.0, 0.0), 800, rules).rebuild is not None


@pytest.mark.parametrize(
    ("total", "over"), [(0, False), (399, False), (400, False), (600, False), (1000, False)]
)
def test_with_an_open_rebuild_nothing_is_is_complete(total: int, over: bool) -> None:
    history = told(Decision(count=400, rebuild=FIRST_PLAN))
    assert is_complete(history, total, 100) is over


@pytest.mark.parametrize(("total", "over"), [(399, True), (499, True), (500, False)])
def test_all_full_windows_must_be_decided(total: int, over: bool) -> None:
    assert is_complete(History(decided=400), total, 100) is over


def test_the_log_is_read_into_the_history_and_repeats_are_passed_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    tail = LedgerFollower(world.home.reader(topics.LEDGER))
    messages: list[Decision | Verdict] = [
        Decision(count=400, rebuild=FIRST_PLAN),
        promoted(FIRST_PLAN, 1),
    ]
    world.append(topics.LEDGER, *(Record(dump(message)) for message in messages))
    world.append(topics.LEDGER, Record(dump(window(500))), Record(dump(messages[0])))
    assert tail.poll() == messages
    assert tail.history == SERVING
    assert tail.poll() == []


def back_to(version: int, id_: str = "7f") -> Request:
    return Request(id=id_, action="rollback", version=version, reason="clicks fell", time_ms=7)


REBUILD = Request(id="8a", action="rebuild", reason="a new shop", time_ms=7)
TWO = SERVING.after(Decision(count=900, rebuild=SECOND)).after(promoted(SECOND, 2))


def answer(history: History, count: int, request: Request, rules: Rules = RULES) -> Decision:
    percents = [0.0] * ((count - 600) // 100)
    return decide(history, scores(*percents), count, rules, PendingRequest(request))


def test_a_rollback_is_a_new_version_with_the_old_ones_weights_and_mask() -> None:
    decision = answer(TWO, 1300, back_to(1))
    assert decision.rollback == Rollback(
        to_version=1, version=3, snapshot="x", mask="m1", count=1400
    )
    assert (decision.rebuild, decision.declined, decision.request) == (None, None, back_to(1))
    assert decision.why_not == "back to version 1 as version 3 at 1400"
    history = TWO.after(decision)
    assert (history.version, history.swap_count, history.decided) == (3, 1400, 1300)
    assert history.promoted[-1] == ModelVersion(3, "x", 1400, "m1")
    assert history.answered == {"7f"}


@pytest.mark.parametrize(("lead", "effective"), [(0, 1300), (40, 1340), (200, 1500)])
def test_a_rollback_takes_effect_one_lead_behind_its_window(lead: int, effective: int) -> None:
    rollback = answer(TWO, 1300, back_to(1), rules_with(lead_events=lead)).rollback
    assert rollback is not None
    assert rollback.count == effective


def test_windows_that_begin_before_a_rollback_takes_effect_decide_nothing() -> None:
    history = TWO.after(answer(TWO, 1300, back_to(1)))
    high = scores(0.1, 9.0, begin=1200)
    assert decide(history, high, 1400, RULES).why_not == (
        "the window began before the swap at 1400"
    )
    assert decide(history, scores(0.1, 0.5, begin=1400), 1600, RULES).rebuild is not None


def test_a_rollback_overrules_the_open_rebuild_whose_verdict_then_comes_first() -> None:
    history = TWO.after(Decision(count=1300, rebuild=plan(3, 1300)))
    decision = answer(history, 1400, back_to(1))
    assert decision.rollback is not None
    superseded = history.after(decision)
    assert missing(superseded, 1500) == "the verdict on rebuild 3"
    assert not is_complete(superseded, 1400, 100)
    with pytest.raises(ValueError, match="the window ending at 1500 cannot be decided without the"):
        decide(superseded, [], 1500, RULES)
    ended = superseded.after(ended_early(plan(3, 1300), "rejected", "", decision.count))
    assert (missing(ended, 1500), ended.open, is_complete(ended, 1400, 100)) == (None, None, True)


def test_behind_a_rollback_a_rebuild_may_begin_though_the_superseded_one_had_not_ended() -> None:
    """Rebuild 3 would have ended at 1500; the rollback ends it at 1400."""
    rules = replace(
        rules_with(lead_events=0), trigger=Divergence(threshold=0.002, cooldown_events=100)
    )
    history = TWO.after(Decision(count=1300, rebuild=plan(3, 1300)))
    decision = answer(history, 1400, back_to(1), rules)
    history = history.after(decision).after(
        ended_early(plan(3, 1300), "rejected", "", decision.count)
    )
    again = decide(history, scores(0.0, begin=1400), 1500, rules)
    assert "rebuild 3" not in (again.why_not or "")
    asked = decide(history, scores(0.0, begin=1400), 1500, rules, PendingRequest(REBUILD)).rebuild
    assert asked is not None
    assert (asked.number, asked.begin, asked.end) == (4, 1500, 1700)
    shown = history.after(Decision(count=1500, rebuild=asked))
    assert decide(shown, [], 1600, rules).why_not == "rebuild 4 is open until 1700"


def test_the_cooldown_after_an_superseded_rebuild_begins_with_the_rollback() -> None:
    rules = replace(
        rules_with(lead_events=0), trigger=Divergence(threshold=0.002, cooldown_events=300)
    )
    history = TWO.after(Decision(count=1300, rebuild=plan(3, 1300)))
    decision = answer(history, 1400, back_to(1), rules)
    history = history.after(decision).after(
        ended_early(plan(3, 1300), "rejected", "", decision.count)
    )
    low_then_high = scores(0.0, 0.5, begin=1400)
    assert str(decide(history, low_then_high, 1600, rules).why_not).startswith(
        "cooling down until 1,700"
    )


@pytest.mark.parametrize(
    ("history", "version", "why"),
    [
        (History(), 1, "there is no version yet: the first mask is cut at 1,300"),
        (TWO, 2, "version 2 is in force already"),
        (TWO, 3, "version 3 is not kept; kept are 1, 2"),
        (replace(TWO, promoted=TWO.promoted[1:]), 1, "version 1 is not kept; kept are 2"),
    ],
)
def test_a_rollback_to_what_is_not_there_is_declined(
    history: History, version: int, why: str
) -> None:
    """The decision is then the one that it would have been without."""
    decision = answer(history, 1300, back_to(version))
    assert decision.declined == why
    plain = decide(history, scores(*[0.0] * 7), 1300, RULES)
    assert decision == plain.model_copy(update={"request": back_to(version), "declined": why})
    assert history.after(decision).answered == {"7f"}


def test_a_rollback_to_a_damaged_version_is_declined_with_what_is_wrong() -> None:
    decision = decide(TWO, [], 1300, RULES, PendingRequest(back_to(1), "snapshot x is damaged"))
    assert (decision.declined, decision.rollback) == ("snapshot x is damaged", None)


def test_while_the_first_mask_is_made_a_request_is_declined() -> None:
    history = told(Decision(count=400, rebuild=FIRST_PLAN))
    for request in (back_to(1), REBUILD):
        assert answer(history, 500, request).declined == (
            "there is no version yet: the first mask is made, and takes over at 600"
        )


def test_two_rollbacks_in_a_row_are_two_versions() -> None:
    first = answer(TWO, 1300, back_to(1))
    history = TWO.after(first)
    second = answer(history, 1400, back_to(2, "9c")).rollback
    assert second == Rollback(to_version=2, version=4, snapshot="x", mask="m2", count=1500)
    again = answer(history, 1400, back_to(3, "9c"))
    assert again.declined == "version 3 is in force already"


def test_a_rollback_to_a_rollback_has_the_weights_of_the_version_behind_it() -> None:
    history = TWO.after(answer(TWO, 1300, back_to(1)))
    third = plan(3, 1500)
    history = history.after(Decision(count=1500, rebuild=third)).after(promoted(third, 4))
    back = answer(history, 1800, back_to(3, "9c")).rollback
    assert back is not None
    assert (back.to_version, back.version, back.mask) == (3, 5, "m1")


def test_a_rollback_stays_among_the_last_versions_like_any_other() -> None:
    history = replace(TWO, versions=2).after(answer(TWO, 1300, back_to(1)))
    assert [(swap.version, swap.mask) for swap in history.promoted] == [(2, "m2"), (3, "m1")]


def test_a_rebuild_asked_for_begins_whatever_the_trigger_says() -> None:
    rules = replace(RULES, trigger=Divergence(threshold=0.002, budget=0))
    plan_ = answer(TWO, 1300, REBUILD, rules).rebuild
    assert plan_ == RebuildPlan(
        number=3,
        reason="request",
        cause="asked for: a new shop",
        begin=1300,
        decided=1300,
        end=1500,
    )


def test_a_rebuild_asked_for_while_one_is_open_is_declined() -> None:
    history = TWO.after(Decision(count=1300, rebuild=plan(3, 1300)))
    decision = answer(history, 1400, REBUILD)
    assert (decision.declined, decision.rebuild) == ("rebuild 3 is open until 1500", None)


def test_a_decision_on_a_request_depends_on_its_arguments_alone() -> None:
    assert answer(TWO, 1300, back_to(1)) == answer(TWO, 1300, back_to(1))
