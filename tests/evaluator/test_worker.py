from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import log_loss

from evaluator.config import EvaluatorConfig
from evaluator.worker import EvaluatorStep
from stream.columnar import predictions_to_bytes
from stream.log import LogIdentityError, Record
from stream.messages import (
    Alarm,
    Decision,
    DriftSpan,
    Judgement,
    Lifetime,
    MaskChange,
    PredictionBatch,
    Stability,
    Verdict,
    Window,
    dump,
    parse,
)
from stream.spec import Waiting
from stream.state import Checkpoints
from stream.topics import CLICKS, DEAD_LETTERS, LEDGER, MASK_CHANGES, WINDOWS
from tests.evaluator.messages import grafted
from tests.evaluator.stage import (
    EVENTS,
    FIRST,
    SECOND,
    SPEC,
    Stage,
    chance,
    drawn,
    full_run,
    plan,
    run,
    verdict,
    with_models,
)

LABEL, WEIGHT = drawn(EVENTS)
KINDS = ("window", "lifetime", "stability", "alarm", "judgement", "decision", "verdict")


def written(stage: Stage) -> dict[str, list[bytes]]:
    """Everything that the evaluator wrote, by kind; between kinds the order is a matter of time."""
    found = {kind: stage.values(WINDOWS, kind) for kind in KINDS}
    return {**found, "dead_letter": stage.values(DEAD_LETTERS, "dead_letter")}


def windows(stage: Stage) -> list[Window]:
    return [one for one in stage.messages(WINDOWS) if isinstance(one, Window)]


def judgements(stage: Stage) -> list[Judgement]:
    return [one for one in stage.messages(WINDOWS) if isinstance(one, Judgement)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return full_run(tmp_path / "run")


def test_a_finished_run_leaves_every_window_judgement_and_copy(stage: Stage) -> None:
    steps = run(stage.evaluator())
    assert steps[-1].done
    assert steps[-1].count == EVENTS
    assert sum(step.events for step in steps) == EVENTS
    assert [w for step in steps for w in step.windows] == windows(stage)
    assert [m for s in steps for m in s.messages if isinstance(m, Judgement)] == judgements(stage)
    assert [j.rebuild for j in judgements(stage)] == [2, 3]
    ledger = stage.messages(LEDGER)
    copies = [m for m in stage.messages(WINDOWS) if isinstance(m, Decision | Verdict)]
    assert copies == ledger
    ends = {size: [w.end for w in windows(stage) if w.size == size] for size in (20, 40, 100)}
    assert ends == {
        20: [*range(20, 401, 20), 407],
        40: [*range(40, 401, 40), 407],
        100: [100, 200, 300, 400, 407],
    }
    assert [w.end for w in windows(stage) if w.partial] == [407, 407, 407]


def test_steps_tell_the_sums_and_the_dead_letters_of_what_they_scored(stage: Stage) -> None:
    steps = run(stage.evaluator())
    sums = [step.sums for step in steps if step.sums]
    assert [step.events for step in steps if step.events] == [one.on.events for one in sums]
    assert sum(one.on.events for one in sums) == EVENTS
    assert sum(one.on.clicks for one in sums) == pytest.approx(np.dot(WEIGHT, LABEL))
    expected = np.dot(WEIGHT, chance("dense", EVENTS))
    assert sum(one.models["dense"].terms["predicted_clicks"] for one in sums) == pytest.approx(
        expected
    )
    assert [one for step in steps for one in step.dead_letters] == stage.messages(DEAD_LETTERS)


def test_scores_so_far_and_alarms_are_told_beside_the_windows(stage: Stage) -> None:
    steps = run(stage.evaluator())
    told = stage.messages(WINDOWS)
    for kind in (Lifetime, Stability, Alarm):
        assert [m for step in steps for m in step.messages if isinstance(m, kind)] == [
            message for message in told if isinstance(message, kind)
        ]
    assert [m for step in steps for m in step.alarms] == [m for m in told if isinstance(m, Alarm)]
    lives = [(one.begin, one.end) for one in told if isinstance(one, Lifetime)]
    ends = [*range(40, 401, 40), 407]
    assert [end for begin, end in lives if begin == 0] == ends
    assert [end for begin, end in lives if begin == FIRST.end] == [e for e in ends if e > FIRST.end]
    (alarm,) = [one for one in told if isinstance(one, Alarm)]
    assert (alarm.key, alarm.since) == ("alarm/input/140/x", 120)
    assert alarm.reason.startswith("x is not distributed as in the events 1 to 20; population ")


GRAFTS = tuple(grafted(count, top=(50, 1)) for count in range(200, 401, 40))


def grafting(stage: Stage, *changes: MaskChange) -> Stage:
    """Let the mask of the served model move between its versions."""
    stage.append(MASK_CHANGES, *(Record(dump(one)) for one in changes))
    return replace(stage, spec=replace(SPEC, grafts=True))


def copies(stage: Stage) -> list[MaskChange]:
    return [one for one in stage.messages(WINDOWS) if isinstance(one, MaskChange)]


def test_how_the_mask_moves_is_copied_beside_the_windows_which_are_as_without(
    stage: Stage, tmp_path: Path
) -> None:
    run(stage.evaluator())
    other = grafting(full_run(tmp_path / "other"), *GRAFTS[:1], *GRAFTS[:1], *GRAFTS[1:])
    steps = run(other.evaluator())
    assert copies(other) == [*GRAFTS]
    assert [one for step in steps for one in step.mask_changes] == [*GRAFTS]
    assert written(other) == written(stage)
    assert not stage.home.exists(MASK_CHANGES)


@pytest.mark.parametrize("count", [100, 240, 407])
def test_a_change_of_the_mask_is_copied_once_however_often_the_evaluator_starts(
    stage: Stage, count: int
) -> None:
    """It is killed at a count; what comes before it starts again, and after its end, counts too."""
    stage = grafting(stage, *GRAFTS[:3])
    run(stage.evaluator(), count)
    stage = grafting(stage, *GRAFTS[2:5])
    again = stage.evaluator()
    assert run(again)[-1].done
    stage = grafting(stage, *GRAFTS[5:])
    again.close()
    assert copies(stage) == [*GRAFTS]
    assert again.conflicts == 0


def test_a_segmentation_by_an_unknown_feature_is_refused_at_the_start(tmp_path: Path) -> None:
    config = EvaluatorConfig(windows=(40,), segments=("site",))
    with pytest.raises(ValueError, match="unknown categorical feature 'site'; known: "):
        replace(Stage(tmp_path), config=config).evaluator()


def brute_force(window: Window, model: str) -> tuple[float, float, float]:
    """CE, NE and calibration of one model on one window, from the raw numbers."""
    rows = slice(window.begin, window.end)
    label, weight, p = LABEL[rows], WEIGHT[rows], chance(model, EVENTS)[rows]
    rate = np.average(label, weights=weight)
    ce = log_loss(label, p, sample_weight=weight, labels=[0, 1])
    ne = ce / scipy.stats.entropy([rate, 1 - rate])
    return ce, ne, np.dot(weight, p) / np.dot(weight, label)


def test_every_window_equals_brute_force(stage: Stage) -> None:
    run(stage.evaluator())
    for window in windows(stage):
        for name in ("dense", "sparse"):
            score = window.models[name]
            if score is None:
                assert (name, window.begin < FIRST.end) == ("sparse", True)
                continue
            ce, ne, calibration = brute_force(window, name)
            assert score.metrics["ce"] == pytest.approx(ce, rel=1e-12)
            assert score.metrics["ne"] in (None, pytest.approx(ne, rel=1e-12))
            assert score.metrics["calibration"] == pytest.approx(calibration, rel=1e-12)
        relative = window.interval("sparse", "relative_ce")
        if relative is not None:
            dense, sparse = (brute_force(window, name)[0] for name in ("dense", "sparse"))
            assert relative.mean == pytest.approx(sparse / dense - 1, rel=1e-9)
            assert relative.low is not None
            assert relative.low < relative.mean


def test_a_window_is_on_dense_alone_if_it_begins_before_the_others_start(stage: Stage) -> None:
    run(stage.evaluator())
    alone = {w.key: w.models["sparse"] is None for w in windows(stage)}
    assert alone["window/100/1"]
    assert not alone["window/100/2"]
    assert alone["window/20/7"]
    assert not alone["window/20/8"]


def test_a_swap_inside_a_window_shows_in_its_versions(stage: Stage) -> None:
    run(stage.evaluator())
    found = {w.key: w.models["sparse"].versions for w in windows(stage) if w.models["sparse"]}
    assert found["window/100/2"] == (1, 2)
    assert found["window/20/13"] == (1,)
    assert found["window/20/14"] == (2,)


def test_a_judgement_equals_brute_force(stage: Stage) -> None:
    run(stage.evaluator())
    found = judgements(stage)[0]
    rows = slice(SECOND.end - 20, SECOND.end)
    ces = {
        name: log_loss(LABEL[rows], chance(name, EVENTS)[rows], sample_weight=WEIGHT[rows])
        for name in ("candidate-2", "sparse", "dense")
    }
    assert (found.begin, found.end) == (rows.start, rows.stop)
    assert found.candidate_ce == pytest.approx(ces["candidate-2"], rel=1e-12)
    assert found.incumbent_ce == pytest.approx(ces["sparse"], rel=1e-12)
    assert found.dense_ce == pytest.approx(ces["dense"], rel=1e-12)
    assert found.difference.mean == pytest.approx(ces["candidate-2"] - ces["sparse"])
    assert found.relative.mean == pytest.approx(ces["candidate-2"] / ces["sparse"] - 1)


def spoiled(folder: Path) -> Stage:
    """Lay out the full run again, with unparsable records before, between and behind its clicks."""
    stage = Stage(folder)
    stage.append(CLICKS, Record(b"{"))
    stage.clicks(LABEL[:203], WEIGHT[:203])
    stage.append(CLICKS, Record(b"label"), Record(b"\xff"))
    stage.clicks(LABEL[203:], WEIGHT[203:])
    stage.append(CLICKS, Record(b"}"))
    stage.end()
    stage.predict("dense", chance("dense", EVENTS))
    stage.predict("sparse", chance("sparse", EVENTS), FIRST.end)
    for one in (SECOND, plan(3, 320)):
        stage.predict(one.candidate, chance(one.candidate, EVENTS), one.end - 20, one.end)
    stage.decisions(400, FIRST, SECOND, plan(3, 320))
    stage.decide(verdict(FIRST, "promoted", 1), verdict(SECOND, "promoted", 2))
    stage.decide(verdict(plan(3, 320), "rejected"))
    return stage


def test_killed_at_any_batch_it_writes_the_same_bytes_and_each_message_once(
    tmp_path: Path,
) -> None:
    stage = spoiled(tmp_path / "run")
    whole = stage.moved(tmp_path / "whole")
    shutil.copytree(stage.folder, whole.folder)
    run(whole.evaluator())
    expected = written(whole)
    assert len(expected["dead_letter"]) == 4
    evaluator = stage.evaluator()
    for count in range(10, EVENTS, 10):
        run(evaluator, count)
        rarely = stage.config.model_copy(update={"checkpoint_events": 1000})
        killed = replace(stage.moved(tmp_path / f"killed-{count}"), config=rarely)
        shutil.copytree(stage.folder, killed.folder)
        steps = run(killed.evaluator())
        assert steps[-1].done
        assert written(killed) == expected


def test_closed_after_any_batch_it_writes_the_same_bytes_and_each_message_once(
    tmp_path: Path,
) -> None:
    stage = spoiled(tmp_path / "run")
    whole = stage.moved(tmp_path / "whole")
    shutil.copytree(stage.folder, whole.folder)
    run(whole.evaluator())
    for count in range(10, EVENTS, 10):
        evaluator = stage.evaluator()
        assert run(evaluator, count)[-1].count == count
        evaluator.close()
    last = stage.evaluator()
    assert run(last)[-1].done
    assert written(stage) == written(whole)
    last.close()


def test_opened_again_after_the_end_it_is_done_at_once(stage: Stage) -> None:
    first = stage.evaluator()
    run(first)
    before = written(stage)
    first.close()
    second = stage.evaluator()
    assert [step.done for step in run(second)] == [True]
    assert second.step() == EvaluatorStep(EVENTS, done=True)
    assert written(stage) == before


def test_it_waits_by_name_for_what_is_missing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    evaluator = stage.evaluator()

    def waiting() -> tuple[int, str | None]:
        last = run(evaluator)[-1]
        return last.count, str(last.waiting_for) if last.waiting_for else None

    assert waiting() == (0, "clicks")
    stage.clicks(*drawn(EVENTS))
    stage.end()
    assert waiting() == (0, "predictions.dense")
    stage.predict("dense", chance("dense", EVENTS))
    assert waiting() == (120, "the decision on the window ending at 40")
    stage.decisions(120, FIRST)
    assert waiting() == (160, "the verdict on rebuild 1")
    stage.decide(verdict(FIRST, "promoted", 1))
    assert waiting() == (160, "predictions.sparse")
    stage.predict("sparse", chance("sparse", EVENTS), 160)
    assert waiting() == (EVENTS, "ledger")
    for count in range(160, 401, 40):
        stage.decide(Decision(count=count, why_not="as laid out"))
    assert run(evaluator)[-1].done


def test_dense_is_scored_while_a_rebuild_waits_for_its_verdict(tmp_path: Path) -> None:
    """An open rebuild after the first stops nothing."""
    stage = full_run(tmp_path)
    evaluator = stage.evaluator()
    assert run(evaluator, 10)[-1].count == 10
    unsettled = Stage(tmp_path / "other")
    unsettled.clicks(*drawn(EVENTS))
    unsettled.predict("dense", chance("dense", EVENTS))
    unsettled.predict("sparse", chance("sparse", EVENTS), 160)
    unsettled.decisions(400, FIRST, SECOND)
    unsettled.decide(verdict(FIRST, "promoted", 1))
    assert run(unsettled.evaluator())[-1] == EvaluatorStep(400, waiting_for=Waiting("clicks"))


def test_judging_goes_on_while_scoring_waits(tmp_path: Path) -> None:
    """The sparse model waits for a verdict, the verdict for the judgement."""
    stage = Stage(tmp_path)
    stage.clicks(*drawn(EVENTS))
    stage.predict("dense", chance("dense", EVENTS))
    stage.predict("sparse", chance("sparse", EVENTS), 160, SECOND.end)
    stage.decisions(240, FIRST, SECOND)
    stage.decide(verdict(FIRST, "promoted", 1))
    evaluator = stage.evaluator()
    assert run(evaluator)[-1] == EvaluatorStep(280, waiting_for=Waiting("predictions.sparse"))
    stage.predict("candidate-2", chance("candidate-2", EVENTS), 260, 280)
    steps = run(evaluator)
    assert [(step.events, step.waiting_for) for step in steps] == [
        (0, None),
        (0, Waiting("predictions.sparse")),
    ]
    assert steps[0].messages == tuple(judgements(stage))


def test_dense_alone_needs_no_ledger(tmp_path: Path) -> None:
    stage = with_models(Stage(tmp_path), ["dense"])
    stage.clicks(*drawn(EVENTS))
    stage.end()
    stage.predict("dense", chance("dense", EVENTS))
    assert run(stage.evaluator())[-1].done
    assert list(windows(stage)[0].models) == ["dense"]


def test_the_twin_is_scored_from_the_same_start(tmp_path: Path) -> None:
    stage = with_models(full_run(tmp_path), ["dense", "sparse", "never_rebuilt"])
    stage.predict("never_rebuilt", chance("never_rebuilt", EVENTS), FIRST.end)
    run(stage.evaluator())
    for window in windows(stage):
        started = window.begin >= FIRST.end
        assert (window.models["never_rebuilt"] is not None) == started
        assert (window.metric("never_rebuilt", "relative_ce") is not None) == started


def test_an_input_that_ends_before_the_first_mask_is_on_dense_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.clicks(*drawn(70))
    stage.end()
    stage.predict("dense", chance("dense", 70))
    stage.decisions(40)
    assert run(stage.evaluator())[-1].done
    assert all(w.models["sparse"] is None for w in windows(stage))


@pytest.mark.parametrize("events", [250, 265, 270])
def test_an_input_that_ends_inside_a_rebuild_is_not_judged(tmp_path: Path, events: int) -> None:
    stage = Stage(tmp_path)
    stage.clicks(*drawn(events))
    stage.end()
    stage.predict("dense", chance("dense", events))
    stage.predict("sparse", chance("sparse", events), 160)
    stage.predict("candidate-2", chance("candidate-2", events), 260)
    stage.decisions(240, FIRST, SECOND)
    stage.decide(verdict(FIRST, "promoted", 1))
    evaluator = stage.evaluator()
    assert run(evaluator)[-1].waiting_for == Waiting("ledger")
    stage.decide(verdict(SECOND, "unfinished"))
    assert run(evaluator)[-1].done
    assert judgements(stage) == []


def test_an_input_that_ends_with_the_first_rebuild_is_done(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.clicks(*drawn(160))
    stage.end()
    stage.predict("dense", chance("dense", 160))
    stage.decisions(160, FIRST)
    stage.decide(verdict(FIRST, "promoted", 1))
    assert run(stage.evaluator())[-1].done
    assert not any(w.partial for w in windows(stage) if w.size in (20, 40))


def test_a_first_rebuild_that_failed_is_followed_by_another(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.clicks(*drawn(EVENTS))
    stage.end()
    again = plan(2, 200, reason="first")
    stage.predict("dense", chance("dense", EVENTS))
    stage.predict("sparse", chance("sparse", EVENTS), again.end)
    stage.decisions(400, FIRST, again)
    stage.decide(verdict(FIRST, "failed"), verdict(again, "promoted", 1))
    assert run(stage.evaluator())[-1].done
    started = [w.begin for w in windows(stage) if w.models["sparse"]]
    assert min(started) == again.end
    assert judgements(stage) == []


def test_the_truth_gives_the_bayes_entropy_and_names_the_drifts(tmp_path: Path) -> None:
    stage = with_models(Stage(tmp_path, replace(SPEC, has_truth=True)), ["dense"])
    stage.clicks(*drawn(EVENTS))
    stage.end()
    stage.predict("dense", chance("dense", EVENTS))
    truth = chance("truth", EVENTS)
    stage.truth(truth, DriftSpan(drift="abrupt", begin=117, end=117))
    run(stage.evaluator())
    for window in windows(stage):
        rows = slice(window.begin, window.end)
        expected = log_loss(LABEL[rows], truth[rows], sample_weight=WEIGHT[rows])
        assert window.bayes_ce == pytest.approx(expected)
        drifting = window.begin <= 117 < window.end
        assert window.drift == (("abrupt",) if drifting else ())


def test_without_the_truth_there_is_no_bayes_entropy(stage: Stage) -> None:
    run(stage.evaluator())
    assert {w.bayes_ce for w in windows(stage)} == {None}


def test_a_model_that_has_seen_its_clicks_stops_the_evaluator(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.clicks(*drawn(EVENTS))
    stage.predict("dense", chance("dense", EVENTS), 0, 30)
    spans = stage.batches()[3].spans
    seen = PredictionBatch("dense", 1, 30, spans, {0: spans[0].last}, np.full(10, 0.5))
    stage.append("predictions.dense", Record(predictions_to_bytes(seen)))
    evaluator = stage.evaluator()
    run(evaluator, 30)
    with pytest.raises(ValueError, match=r"prediction of 'dense' .*: it has seen the click"):
        evaluator.step()


def test_repeats_are_dropped_and_one_that_differs_raises_the_alarm(tmp_path: Path) -> None:
    stage = full_run(tmp_path)
    evaluator = stage.evaluator()
    run(evaluator)
    assert evaluator.conflicts == 0
    stage.decide(Decision(count=40, why_not="something else"))
    evaluator.close()
    again = stage.evaluator()
    run(again)
    assert again.conflicts == 1
    assert len(stage.values(WINDOWS, "decision")) == 10


def test_logs_that_were_made_again_are_refused(stage: Stage) -> None:
    evaluator = stage.evaluator()
    run(evaluator)
    evaluator.close()
    shutil.rmtree(stage.home.folder / "clicks")
    with pytest.raises(LogIdentityError, match="deleted and made again"):
        stage.evaluator()


def test_messages_of_a_key_are_in_the_log_once(stage: Stage) -> None:
    run(stage.evaluator())
    keys = [parse(value).key for kind in KINDS for value in stage.values(WINDOWS, kind)]
    assert len(keys) == len(set(keys))


def test_checkpoints_are_written_on_their_grid(stage: Stage) -> None:
    evaluator = stage.evaluator()
    for count in range(10, 200, 10):
        run(evaluator, count)
        newest = Checkpoints(stage.folder / "state").latest()
        assert (newest.count if newest else 0) == count // 30 * 30
