from __future__ import annotations

import pytest

from evaluator.run.history import RunHistory
from evaluator.run.tables import TimelineEntry, timeline
from stream.messages import AnyMessage, RebuildPlan, Request, Verdict
from tests.evaluator.messages import alarm, decided, letters, progress
from tests.evaluator.runs import rollback, verdict, window


def told(*messages: AnyMessage) -> list[TimelineEntry]:
    return timeline(RunHistory.of(messages))


def of(plan: RebuildPlan | None, name: str, reason: str) -> Verdict:
    assert plan is not None
    made = {"rebuild": plan, "count": plan.end, "verdict": name, "reason": reason}
    return verdict(plan.number, plan.end).model_copy(update=made)


def test_a_rebuild_is_told_with_cause_and_effect() -> None:
    (entry,) = told(
        window(100, 7, {"dense": 0.4, "sparse": 0.42}),
        window(100, 8, {"dense": 0.4, "sparse": 0.43}),
        window(100, 9, {"dense": 0.4, "sparse": 0.404}),
        decided(2, 800),
        of(decided(2, 800).rebuild, "promoted", "it is better."),
    )
    assert (entry.kind, entry.outcome, entry.begin, entry.count) == (
        "rebuild",
        "promoted",
        800,
        900,
    )
    assert entry.title == "rebuild 2 (divergence) promoted"
    assert entry.text == (
        "it has drifted; it is better; took 100 events; "
        "meanwhile sparse lost 7.50 % to dense, 6 nats in all; version 2 from 901 on; "
        "CE against dense +5.00 % before, +1.00 % after; 100 events of pruning"
    )


def test_an_effect_that_is_not_known_yet_is_not_told() -> None:
    (entry,) = told(decided(2, 800), of(decided(2, 800).rebuild, "promoted", ""))
    assert entry.text == (
        "it has drifted; took 100 events; version 2 from 901 on; 100 events of pruning"
    )
    (entry,) = told(window(1_000, 0, {"dense": 0.4}), verdict(1, 900))
    assert entry.text == "took 100 events; version 1 from 901 on; 100 events of pruning"
    after = window(100, 9, {"dense": 0.4, "sparse": 0.404})
    (entry,) = told(after, verdict(1, 900))
    assert "CE against dense +1.00 % after" in entry.text
    (entry,) = told(window(100, 8, {"dense": 0.4, "sparse": 0.5}), verdict(1, 900))
    assert "CE against dense" not in entry.text


def test_a_rebuild_without_a_verdict_is_under_way() -> None:
    (entry,) = told(decided(2, 800))
    assert (entry.outcome, entry.count) == ("open", 800)
    assert entry.title == "rebuild 2 (divergence) under way until 900"


def test_the_first_mask_is_called_so() -> None:
    assert [entry.title for entry in told(verdict(1, 300))] == ["first mask promoted"]


@pytest.mark.parametrize(
    ("name", "took"),
    [("rejected", "; took 100 events"), ("failed", "; took 100 events"), ("unfinished", "")],
)
def test_a_rebuild_that_did_not_take_over_says_why(name: str, took: str) -> None:
    (entry,) = told(decided(2, 800), of(decided(2, 800).rebuild, name, "no better"))
    assert (entry.outcome, entry.text) == (name, f"it has drifted; no better{took}")


@pytest.mark.parametrize(
    ("seconds", "took"),
    [
        ((8, 10, 96, 98), "took 100 events, about 1 min 28 s; "),
        ((8, 10, 10.3, 10.6), "took 100 events; "),
        # Nobody told the time soon before, or soon after.
        ((8, 30, 96, 98), "took 100 events; "),
        ((8, 10, 96, 300), "took 100 events; "),
    ],
)
def test_how_long_a_rebuild_took_is_told_where_the_time_was_known(
    seconds: tuple[float, float, float, float], took: str
) -> None:
    before, begun, goes_on, after = (progress("dense", one, 500) for one in seconds)
    plan = decided(2, 800)
    (entry,) = told(before, plan, begun, goes_on, of(plan.rebuild, "promoted", "better"), after)
    assert f"better; {took}version 2" in entry.text


def test_a_rollback_says_who_asked_and_supersedes_the_open_rebuild() -> None:
    asked = Request(id="a", action="rollback", version=1, reason="it is worse", time_ms=0)
    back = rollback(850, 950).model_copy(update={"request": asked})
    rebuild, rolled = told(decided(2, 800), of(decided(2, 800).rebuild, "rejected", ""), back)
    assert (rebuild.outcome, rebuild.title) == ("superseded", "rebuild 2 (divergence) superseded")
    assert (rolled.kind, rolled.begin, rolled.count) == ("rollback", 850, 950)
    assert (rolled.title, rolled.text) == (
        "rolled back to version 1",
        "now version 4; it is worse",
    )


def test_a_request_that_was_declined_says_why() -> None:
    asked = Request(id="a", action="rollback", version=7, reason="so", time_ms=0)
    no = decided(2, 800).model_copy(
        update={"rebuild": None, "request": asked, "declined": "version 7 is not kept"}
    )
    (entry,) = told(no)
    assert (entry.kind, entry.text) == ("declined", "version 7 is not kept; so")


def test_alarms_of_one_detector_on_one_window_are_one() -> None:
    (both, rate) = told(
        alarm(400, "input", "price"), alarm(400, "input", "site"), alarm(500, "click_rate")
    )
    assert (both.kind, both.outcome, both.count, both.begin) == ("alarm", "input", 400, 200)
    assert both.title == "the input has changed: price, site"
    assert both.text == "price moved; site moved"
    assert (rate.title, rate.text) == ("the click rate has changed", "it moved")


def test_dead_letters_are_counted_by_reason() -> None:
    (many, one, behind) = told(
        letters(0, 100, label=2, time=1_500),
        letters(100, 200, label=1),
        letters(400, 500, time=1),
        letters(600, 600, time=1),
    )
    assert many.title == "1,503 dead letters"
    assert many.text == "time 1,500, label 3; in the events 1 to 200"
    assert (many.begin, many.count) == (0, 200)
    assert (one.title, one.count) == ("1 dead letter", 500)
    assert behind.text == "time 1; after event 600"


def test_what_happened_is_in_the_order_of_the_counts() -> None:
    found = told(letters(0, 500, label=1), alarm(300), verdict(1, 200), decided(2, 400))
    assert [entry.count for entry in found] == [200, 300, 400, 500]
