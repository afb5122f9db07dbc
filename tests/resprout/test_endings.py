"""However its input ends, and whoever stops it, a run comes to its end with what it has learned."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import resprout
from evaluator.run import RunHistory
from resprout.folder import RunFolder
from resprout.run import Outcome, Result, execute
from resprout.runner import Step
from resprout.settings import DENSE, EVALUATOR, MODELS, NEVER_REBUILT, SPARSE, Settings
from resprout.spec import RunDefinition
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.messages import Decision, Verdict
from stream.schema import NumericFeature
from tests.resprout import fragile
from tests.resprout.eventful import BATCH, PLAN, eventful
from tests.resprout.left import PARTS, Left, records

HOPE = "division by hope"
UNTIL = 14_050
"""Events of the runs whose criterion raises."""

Ended = tuple[Result, Left]

INSIDE_A_BATCH = [3_050, 5_050, 7_030, 11_370, 12_650]
ON_A_BOUNDARY = [3_000, 4_000, 7_000, 9_000, 10_000, 13_000]
"""Where a window ends; where the first mask is decided, and its E; the same of a later rebuild."""


@pytest.fixture(scope="module", params=sorted(INSIDE_A_BATCH + ON_A_BOUNDARY))
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The beginning of the eventful run."""
    plan = RunDefinition.generated(eventful(stream__generator__events=request.param))
    folder = RunFolder(tmp_path_factory.mktemp("ended"))
    return execute(plan, folder.path), Left.by(folder)


@pytest.fixture(scope="module")
def longer(whole: RunFolder) -> Result:
    history = RunHistory.read(whole.home, keeps_messages=True)
    return Result(Settings(), history, Outcome())


def test_every_event_is_learned_from_and_scored(ended: Ended) -> None:
    result, left = ended
    total = result.settings.stream.generator.events or 0
    assert result.finished
    assert result.summary.events == total
    started = MODELS if total >= 7_000 else (DENSE,)
    assert set(result.models) == set(started)
    assert {m: s["cursor"].count for m, s in left.states.items() if s} == dict.fromkeys(
        started, total
    )


def test_until_its_end_it_is_the_beginning_of_a_longer_run(ended: Ended, whole: RunFolder) -> None:
    """Of the predictions, all but those of a short last batch."""
    result, left = ended
    total = result.settings.stream.generator.events or 0
    expected = {
        key: value
        for key, value in Left.by(whole).predictions.items()
        if int(key.rpartition("/")[2]) + BATCH <= total
    }
    short = {key: value for key, value in left.predictions.items() if key not in expected}
    assert {key: left.predictions.get(key) for key in expected} == expected
    assert {int(key.rpartition("/")[2]) for key in short} <= {total // BATCH * BATCH}
    assert bool(short) == (total % BATCH > 0)


def test_what_is_decided_until_its_end_is_decided_as_in_a_longer_run(
    ended: Ended, longer: Result
) -> None:
    """A rebuild that the input leaves open is unfinished, and that is the last word."""
    result, _ = ended
    total = result.settings.stream.generator.events or 0
    decided = [one for one in longer.ledger if one.count <= total]
    assert list(result.ledger[: len(decided)]) == decided
    plans = [d.rebuild for d in decided if isinstance(d, Decision) and d.rebuild]
    open_still = [plan for plan in plans if plan.end > total]
    assert [
        (one.rebuild, one.verdict, one.reason, one.cost_events)
        for one in result.ledger[len(decided) :]
        if isinstance(one, Verdict)
    ] == [
        (plan, "unfinished", f"the input ended after {total:,} events", total - plan.begin)
        for plan in open_still
    ]
    assert len(result.ledger) == len(decided) + len(open_still)


def test_the_last_window_is_partial_if_it_is_short_and_decides_nothing(
    ended: Ended, longer: Result
) -> None:
    result, _ = ended
    total = result.settings.stream.generator.events or 0
    full = [window for window in longer.windows if window.end <= total and not window.partial]
    assert [window for window in result.windows if not window.partial] == full
    partial = {window.size: window for window in result.windows if window.partial}
    assert set(partial) == {size for size in (500, 1_000) if total % size}
    assert all((w.begin, w.end) == (total - total % s, total) for s, w in partial.items())
    decisions = [one.count for one in result.ledger if isinstance(one, Decision)]
    assert decisions == list(range(1_000, total + 1, 1_000))


@pytest.mark.parametrize("rows", [[], ["2026-01-01,2,0.5", "noon,1,0.5"]])
def test_an_input_without_a_single_event_is_run_to_its_end(rows: list[str], tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("\n".join(["event_time,label,x", *rows, ""]))
    schema = resprout.FeatureSchema(numeric=(NumericFeature(name="x"),))
    result = resprout.run(eventful(), resprout.FileSource(clicks, schema))
    assert result.finished
    assert (result.windows, result.ledger, result.summary.events) == ((), (), 0)
    assert [letter.line for letter in result.dead_letters] == list(range(2, 2 + len(rows)))


def spoiled(rebuild: int, state: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run with a criterion that raises in the middle of a rebuild."""
    packages = state / "packages"
    packages.mkdir()
    fragile.install(packages)
    monkeypatch.syspath_prepend(packages)
    fragile.FRAGILE.rebuild = rebuild
    plan = RunDefinition.generated(
        eventful(pruner__criterion="fragile", stream__generator__events=UNTIL)
    )
    return execute(plan, state / "run", fragile.FRAGILE.watch)


def test_a_criterion_that_raises_spoils_the_first_mask_which_is_tried_again_at_the_next_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = spoiled(1, tmp_path, monkeypatch)
    assert result.finished
    failed, promoted, *others = result.verdicts
    assert (failed.rebuild.reason, failed.verdict, failed.count) == ("first", "failed", 7_000)
    assert failed.reason == "criterion 'fragile' failed at batch 10: ArithmeticError: " + HOPE
    assert failed.cost_events == 10 * BATCH
    again = promoted.rebuild
    assert (again.reason, again.decided, again.begin) == ("first", 8_000, 8_000)
    assert (promoted.verdict, promoted.count, promoted.version) == ("promoted", 11_000, 1)
    assert again.cause.endswith("rebuild 1 failed")
    assert {verdict.rebuild.reason for verdict in others} <= {"periodic"}
    scored = [w.begin for w in result.windows if w.size == 500 and w.models[SPARSE]]
    assert scored[0] == 11_000
    assert set(result.models) == set(MODELS)


def test_a_criterion_that_raises_leaves_the_incumbent_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues as the model that was never rebuilt does, until a later candidate takes over."""
    result = spoiled(2, tmp_path, monkeypatch)
    assert result.finished
    first, failed, *others = result.verdicts
    assert (first.verdict, failed.verdict, failed.count) == ("promoted", "failed", 13_000)
    assert (failed.version, failed.snapshot, failed.mask) == (None, None, None)
    assert failed.reason.endswith(HOPE)
    swap = next((one.count for one in others if one.verdict == "promoted"), UNTIL)
    sparse, twin = (probabilities(RunFolder(tmp_path / "run"), m) for m in (SPARSE, NEVER_REBUILT))
    alike = [begin for begin in sparse if sparse[begin] == twin[begin]]
    assert alike == list(range(7_000, swap, BATCH))


def probabilities(folder: RunFolder, model: str) -> dict[int, bytes]:
    stored = records(folder, topics.predictions(model))
    found = [predictions_from_bytes(one.record.value) for one in stored]
    return {batch.begin: batch.probability.tobytes() for batch in found}


def test_a_run_that_is_stopped_again_and_again_leaves_what_an_undisturbed_one_does(
    whole: RunFolder, tmp_path: Path
) -> None:
    for count in (2_500, 5_200, 6_900, 12_300, 13_000, 19_000):
        stop = threading.Event()

        def at(name: str, step: Step, count: int = count, stop: threading.Event = stop) -> None:
            if name == EVALUATOR and step.count >= count:
                stop.set()

        assert not execute(PLAN, tmp_path, at, stop).finished
    assert execute(PLAN, tmp_path).finished
    one, two = Left.by(whole), Left.by(RunFolder(tmp_path))
    for part in PARTS:
        assert getattr(one, part) == getattr(two, part), part
