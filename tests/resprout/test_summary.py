from __future__ import annotations

from dataclasses import replace

import pytest

from evaluator.run import RunHistory
from resprout.run import ModelSummary, Outcome, Summary, summarise
from resprout.settings import Settings
from stream.messages import (
    AnyMessage,
    DeadLetter,
    Decision,
    Interval,
    Judgement,
    ModelScore,
    RebuildPlan,
    Request,
    Rollback,
    Verdict,
    Window,
)

OUTCOME = Outcome(events=800, seconds=2.0)


def score(ce: float, **more: float | None) -> ModelScore:
    return ModelScore(versions=(1,), metrics={"ce": ce, "ne": None, **more})


def window(number: int, size: int = 100, bayes: float | None = None, **ces: float) -> Window:
    """A window of 100 events that weigh 1 each, every second of them a click."""
    return Window(
        size=size,
        number=number,
        begin=number * size,
        end=(number + 1) * size,
        partial=False,
        weight=size,
        clicks=size / 2,
        click_rate=0.5,
        models={name: score(ce) for name, ce in ces.items()},
        bayes_ce=bayes,
        drift=(),
    )


def verdict(number: int, end: int, name: str = "promoted") -> Verdict:
    interval = Interval(mean=-0.01, low=-0.02, high=0.0)
    judged = Judgement(
        rebuild=number,
        begin=end - 100,
        end=end,
        candidate_ce=0.5,
        incumbent_ce=0.51,
        dense_ce=0.49,
        difference=interval,
        relative=interval,
    )
    reason = "first" if number == 1 else "divergence"
    plan = RebuildPlan(
        number=number, reason=reason, cause="", begin=end - 200, decided=end - 200, end=end
    )
    return Verdict.model_validate(
        {
            "count": end,
            "rebuild": plan,
            "verdict": name,
            "reason": "lower",
            "version": number if name == "promoted" else None,
            "snapshot": None,
            "mask": None,
            "sparsity": 0.8 if name == "promoted" else None,
            "layers": {},
            "judgement": None if number == 1 else judged,
            "cost_events": 200,
        }
    )


def back(count: int, to: int, version: int, effective: int) -> Decision:
    request = Request(id="7f", action="rollback", version=to, reason="clicks fell", time_ms=0)
    rollback = Rollback(to_version=to, version=version, snapshot="x", mask=None, count=effective)
    return Decision(count=count, request=request, rollback=rollback)


def summary_of(*windows: Window, verdicts: tuple[Decision | Verdict, ...] = ()) -> Summary:
    return summarise(history_of(*verdicts, *windows), Settings(seed=3), OUTCOME)


def history_of(*messages: AnyMessage) -> RunHistory:
    return RunHistory.of(messages, keeps_messages=True)


def of(summary: Summary, model: str) -> ModelSummary:
    """Return how a model did, which it must have."""
    found = summary.models[model]
    assert found is not None
    return found


def half(summary: Summary, model: str) -> ModelSummary:
    found = summary.last_half[model]
    assert found is not None
    return found


def test_models_are_scored_on_the_events_after_the_first_mask() -> None:
    found = summary_of(
        window(0, dense=0.9),
        window(1, dense=0.4, sparse=0.5),
        window(2, dense=0.2, sparse=0.3),
        verdicts=(verdict(1, 100),),
    )
    assert of(found, "dense").ce == pytest.approx(0.3)
    assert of(found, "dense").relative_ce is None
    assert of(found, "sparse").ce == pytest.approx(0.4)
    assert of(found, "sparse").relative_ce == pytest.approx(1 / 3)
    assert of(found, "sparse").sparsity == 0.8
    assert found.models["never_rebuilt"] is None


def test_the_last_half_is_that_of_the_events_after_the_first_mask() -> None:
    rows = [window(0, dense=9.0)]
    rows += [window(n, dense=n, sparse=2 * n) for n in (1, 2, 3, 4)]
    found = summary_of(*rows, verdicts=(verdict(1, 100),))
    assert half(found, "dense").ce == pytest.approx(3.5)
    assert half(found, "sparse").ce == pytest.approx(7.0)


def test_without_a_mask_dense_is_scored_on_all_events() -> None:
    found = summary_of(window(0, dense=0.2), window(1, dense=0.4))
    assert of(found, "dense").ce == pytest.approx(0.3)
    assert found.models["sparse"] is None
    assert half(found, "dense").ce == pytest.approx(0.4)


def test_predicting_the_click_rate_scores_an_ne_of_one() -> None:
    coin = 0.6931471805599453
    found = summary_of(window(0, dense=coin), window(1, dense=coin))
    assert of(found, "dense").ne == pytest.approx(1.0)


def clicked(given: Window, clicks: float, weight: float = 100.0) -> Window:
    update = {"clicks": clicks, "weight": weight, "click_rate": clicks / weight}
    return given.model_copy(update=update)


@pytest.mark.parametrize(
    ("clicks", "known"), [(9, False), (10, True), (90, True), (91, False), (0, False)]
)
def test_the_ne_needs_ten_clicks_and_ten_events_without_one(clicks: int, known: bool) -> None:
    found = summary_of(clicked(window(0, dense=0.3, sparse=0.4), clicks))
    assert (of(found, "dense").ne is not None) == known
    assert (of(found, "sparse").ne is not None) == known


def test_how_few_clicks_are_too_few_is_the_evaluators_setting() -> None:
    rows = [clicked(window(0, dense=0.3), 2)]
    few = Settings.model_validate({"evaluator": {"min_clicks": 2}})
    assert of(summarise(history_of(*rows), few, OUTCOME), "dense").ne is not None


def test_windows_with_too_few_clicks_may_have_enough_together() -> None:
    found = summary_of(*(clicked(window(n, dense=0.3), 5) for n in range(2)))
    assert of(found, "dense").ne is not None
    assert half(found, "dense").ne is None


def test_heavy_events_are_not_counted_for_more_than_they_are() -> None:
    """200 of 2 000 in weight, but only 10 of the 100 events; and 180 are 9."""
    enough, heavy = (
        of(summary_of(clicked(window(0, dense=0.3), clicks, 2_000)), "dense").ne
        for clicks in (200, 180)
    )
    assert enough is not None
    assert heavy is None


def test_a_window_that_has_an_ne_vouches_for_all() -> None:
    """With light clicks the weights say 1 click; the evaluator, which counted, knew enough."""
    light = clicked(window(0), 1)
    known = score(0.3, ne=0.9)
    found = summary_of(light.model_copy(update={"models": {"dense": known}}))
    assert of(found, "dense").ne is not None


def test_figures_come_from_the_smallest_windows_and_all_windows_are_counted() -> None:
    found = summary_of(window(0, dense=0.2), window(1, dense=0.4), window(0, 200, dense=9.0))
    assert of(found, "dense").ce == pytest.approx(0.3)
    assert (found.windows, found.events) == (3, 200)


def test_a_model_that_missed_a_window_has_no_figures() -> None:
    found = summary_of(window(0, dense=0.2), window(1, dense=0.2, sparse=0.3))
    assert found.models["sparse"] is None


def test_the_bayes_ce_is_there_where_all_windows_know_it() -> None:
    assert summary_of(window(0, bayes=0.1, dense=0.2)).bayes_ce == pytest.approx(0.1)
    assert summary_of(window(0, bayes=0.1, dense=0.2), window(1, dense=0.2)).bayes_ce is None


def test_every_verdict_is_a_rebuild() -> None:
    found = summary_of(verdicts=(verdict(1, 100), verdict(2, 400, "rejected")))
    assert [(r.count, r.reason, r.verdict) for r in found.rebuilds] == [
        (100, "first", "promoted"),
        (400, "divergence", "rejected"),
    ]
    assert found.rebuilds[0].difference is None
    assert found.rebuilds[1].difference == Interval(mean=-0.01, low=-0.02, high=0.0)


def test_events_seconds_and_speed_are_those_of_this_call() -> None:
    found = summary_of()
    assert (found.call_events, found.call_seconds, found.events_per_second) == (800, 2.0, 400.0)
    assert (found.seed, found.dead_letters, found.events) == (3, 0, 0)


def test_a_comparison_has_the_sparsity_of_its_own_masks() -> None:
    rows = [window(n, dense=0.4, sparse=0.4, never_rebuilt=0.4) for n in (1, 2)]
    outcome = replace(OUTCOME, sparsity={"sparse": 0.1, "never_rebuilt": 0.7})
    found = summarise(history_of(*rows, verdict(1, 100)), Settings(), outcome)
    assert of(found, "never_rebuilt").sparsity == 0.7
    assert of(found, "dense").sparsity is None
    # Of the served model it is that of the version in force.
    assert of(found, "sparse").sparsity == verdict(1, 100).sparsity


def test_dead_letters_are_counted() -> None:
    letters = [
        DeadLetter(
            reason=reason, detail="", partition=0, offset=n, row=0, file=None, line=None, raw=""
        )
        for n, reason in enumerate(("label", "time", "label"))
    ]
    assert summarise(history_of(*letters), Settings(), OUTCOME).dead_letters == 3


def test_the_keys_are_those_that_the_documentation_promises() -> None:
    assert list(summary_of().model_dump()) == [
        "events",
        "call_events",
        "call_seconds",
        "events_per_second",
        "seed",
        "windows",
        "bayes_ce",
        "last_half",
        "rebuilds",
        "rollbacks",
        "dead_letters",
        "dense",
        "sparse",
        "never_rebuilt",
    ]
    assert summary_of().model_dump()["last_half"] == dict.fromkeys(
        ("dense", "sparse", "never_rebuilt")
    )


@pytest.mark.parametrize(("effective", "sparsity"), [(300, 0.5), (301, 0.8)])
def test_a_rollback_counts_once_the_input_has_come_to_it(effective: int, sparsity: float) -> None:
    """Version 1 kept half of the weights, version 2 a fifth."""
    first = verdict(1, 100).model_copy(update={"sparsity": 0.5})
    rows = [window(0, dense=0.5), *(window(n, dense=0.4, sparse=0.4) for n in (1, 2))]
    found = summary_of(*rows, verdicts=(first, verdict(2, 200), back(250, 1, 3, effective)))
    assert of(found, "sparse").sparsity == sparsity
    (told,) = found.rollbacks
    assert (told.decided, told.count, told.version, told.to_version) == (250, effective, 3, 1)
    assert (told.reason, told.took_effect) == ("clicks fell", effective == 300)


def test_a_rollback_to_a_rollback_has_the_sparsity_of_the_first() -> None:
    first = verdict(1, 100).model_copy(update={"sparsity": 0.5})
    ledger = (first, verdict(2, 200), back(210, 1, 3, 210), verdict(4, 240), back(250, 3, 5, 250))
    rows = [window(0, dense=0.5), *(window(n, dense=0.4, sparse=0.4) for n in (1, 2))]
    assert of(summary_of(*rows, verdicts=ledger), "sparse").sparsity == 0.5
