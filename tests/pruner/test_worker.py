from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner import Continue, SwitchTo
from learner.snapshots import FILE
from pruner import Evidence, PruneStep, criteria
from pruner.criteria.aux import Aux
from pruner.criterion import State
from pruner.decisions import LedgerMaskSource, decide, version_of
from pruner.masks import DiskMaskStore, content_hash, pack
from stream import topics
from stream.log import Record
from stream.messages import Decision, Interval, Layer
from stream.spec import Waiting
from tests.pruner import worlds
from tests.pruner.test_rebuild import blown_up
from tests.pruner.worlds import CONFIG, WINDOW, World, first_mask, judgement, run, stream, window

WEIGHTS = 12 * 8 + 8 * 8 + 8


def why(world: World) -> dict[int, str | None]:
    """Return what was decided on each window: the reason for none, or None for a rebuild."""
    return {one.count: one.why_not for one in world.ledger() if isinstance(one, Decision)}


def test_the_first_mask_is_promoted_without_judgement(tmp_path: Path) -> None:
    world = first_mask(tmp_path)
    assert why(world) == {
        100: "maturing: the first mask is cut at 400",
        200: "maturing: the first mask is cut at 400",
        300: "maturing: the first mask is cut at 400",
        400: None,
        500: "rebuild 1 is open until 600",
        600: "rebuild 1 is open until 600",
    }
    (verdict,) = world.verdicts()
    assert (verdict.verdict, verdict.version, verdict.count) == ("promoted", 1, 600)
    assert (verdict.cost_events, verdict.judgement) == (200, None)
    assert verdict.reason == "the first mask, with no incumbent to be judged against"
    assert sum(layer.kept for layer in verdict.layers.values()) == WEIGHTS - round(0.8 * WEIGHTS)
    assert all(layer.overlap is None and layer.kept for layer in verdict.layers.values())


def test_the_snapshot_of_a_promoted_candidate_holds_the_mask_that_the_store_has(
    tmp_path: Path,
) -> None:
    world = first_mask(tmp_path)
    (verdict,) = world.verdicts()
    assert verdict.snapshot is not None
    assert verdict.mask is not None
    found = world.snapshots.read(verdict.snapshot)
    masks = {n.removeprefix("mask."): t > 0 for n, t in found.tensors.items() if "mask." in n}
    assert content_hash(pack(masks)) == verdict.mask
    assert pack(world.masks.get(verdict.mask)) == pack(masks)


def diverged(folder: Path, **more: Any) -> World:
    """Make a world in which a second rebuild was decided on at 900 and has come to its E, 1100."""
    world = first_mask(folder, **more)
    world.find(window(700, 0.1), window(800, 0.2), window(900, 0.5))
    world.find(window(1000, 0.6), window(1100, 0.6))
    world.work()
    return world


def test_a_divergence_starts_a_rebuild_that_waits_for_its_judgement(tmp_path: Path) -> None:
    world = diverged(tmp_path)
    step = world.work()
    assert (str(step.waiting_for), step.count) == ("the judgement of rebuild 2", 1100)
    assert why(world)[800] is not None
    assert why(world)[900] is None
    assert why(world)[1100] == "rebuild 2 is open until 1100"


@pytest.mark.parametrize(
    ("percent", "verdict", "version"),
    [
        (-0.1, "promoted", 2),
        (-0.01, "promoted", 2),
        (0.0, "rejected", None),
        (0.1, "rejected", None),
    ],
)
def test_the_judgement_decides(
    tmp_path: Path, percent: float, verdict: str, version: int | None
) -> None:
    world = diverged(tmp_path)
    before = world.masks.names()
    world.find(judgement(2, 1100, percent))
    world.work()
    found = world.verdicts()[-1]
    assert (found.verdict, found.version, found.count) == (verdict, version, 1100)
    assert found.judgement == judgement(2, 1100, percent)
    words = {
        "promoted": "not shown better, promoted for its lower mean",
        "rejected": "not shown better, so the incumbent stays",
    }
    assert found.reason == (
        f"{words[verdict]}: CE {percent:+.3f} % against the incumbent's "
        f"(95 %: {percent - 1:+.3f} to {percent + 1:+.3f} %) over events 1,041 to 1,100"
    )
    assert (found.cost_events, found.mask is None) == (200, False)
    assert found.sparsity == round(0.8 * WEIGHTS) / WEIGHTS
    promoted = verdict == "promoted"
    assert bool(found.snapshot) == promoted
    assert bool(world.snapshots.names("candidate-2")) == promoted
    assert (set(world.masks.names()) > set(before)) == promoted


@pytest.mark.parametrize(
    ("relative", "verdict", "words"),
    [
        ((-0.2, -0.3, -0.1), "promoted", "shown better: CE -0.200 %"),
        ((-0.2, -0.4, 0.0), "rejected", "not shown better, so the incumbent stays: CE -0.200 %"),
        ((-0.2, -0.5, 0.1), "rejected", "not shown better, so the incumbent stays: CE -0.200 %"),
        ((0.1, -0.1, 0.3), "rejected", "not shown better, so the incumbent stays: CE +0.100 %"),
        ((0.2, 0.1, 0.3), "rejected", "shown worse: CE +0.200 %"),
    ],
)
def test_by_default_a_candidate_takes_over_only_where_it_is_shown_better(
    tmp_path: Path, relative: tuple[float, float, float], verdict: str, words: str
) -> None:
    world = diverged(tmp_path, config=CONFIG.model_copy(update={"inconclusive": "keep_incumbent"}))
    mean, low, high = (percent / 100 for percent in relative)
    interval = Interval(mean=mean, low=low, high=high)
    world.find(judgement(2, 1100, relative[0]).model_copy(update={"relative": interval}))
    world.work()
    first, found = world.verdicts()
    assert first.verdict == "promoted"
    assert first.reason == "the first mask, with no incumbent to be judged against"
    assert found.verdict == verdict
    assert found.reason.startswith(words)
    served = world.home.reader(topics.LEDGER)
    with closing(served):
        assert LedgerMaskSource(served, worlds.RUN, lambda: None).at(1100) == (
            Continue() if verdict == "rejected" else SwitchTo(version_of(found))
        )


def test_a_judgement_of_one_event_has_no_interval_and_shows_nothing(tmp_path: Path) -> None:
    world = diverged(tmp_path, config=CONFIG.model_copy(update={"inconclusive": "keep_incumbent"}))
    alone = Interval(mean=-0.5, low=None, high=None)
    world.find(judgement(2, 1100, -50.0).model_copy(update={"relative": alone}))
    world.work()
    assert world.verdicts()[-1].reason == (
        "not shown better, so the incumbent stays: CE -50.000 % against the incumbent's over "
        "events 1,041 to 1,100"
    )


def test_a_verdict_says_exactly_what_the_masks_keep_and_what_the_rebuild_cost(
    tmp_path: Path,
) -> None:
    verdicts = []
    for percent in (-0.1, 0.1):
        world = diverged(tmp_path / str(percent), rules=worlds.rules_with(snapshot_events=200))
        world.find(judgement(2, 1100, percent))
        world.work()
        verdicts.append(world.verdicts())
    (first, promoted), (_, rejected) = verdicts
    assert (promoted.rebuild.begin, promoted.rebuild.decided, promoted.count) == (800, 900, 1100)
    assert promoted.cost_events == rejected.cost_events == 300
    masks = DiskMaskStore(tmp_path / "-0.1" / "masks")
    old, new = masks.get(first.mask or ""), masks.get(promoted.mask or "")
    kept = {name: int(mask.sum()) for name, mask in new.items()}
    both = {name: int((mask & old[name]).sum()) for name, mask in new.items()}
    assert promoted.layers == {
        name: Layer(
            weights=mask.numel(),
            kept=kept[name],
            sparsity=1 - kept[name] / mask.numel(),
            overlap=both[name] / kept[name],
        )
        for name, mask in new.items()
    }
    assert 0 < sum(both.values()) < sum(kept.values())
    assert sum(kept.values()) == WEIGHTS - round(0.8 * WEIGHTS)
    assert promoted.sparsity == 1 - sum(kept.values()) / WEIGHTS
    same = (promoted.mask, promoted.sparsity, promoted.layers)
    assert (rejected.mask, rejected.sparsity, rejected.layers) == same


def test_after_a_rejection_the_level_stays_and_after_a_promotion_it_begins_anew(
    tmp_path: Path,
) -> None:
    for percent, starts in ((0.1, True), (-0.1, False)):
        world = diverged(tmp_path / str(percent))
        world.find(judgement(2, 1100, percent), window(1200, 0.6))
        world.work()
        assert (why(world)[1200] is None) == starts


def test_a_decision_after_e_waits_for_the_verdict(tmp_path: Path) -> None:
    world = diverged(tmp_path)
    world.find(window(1200, 0.6))
    assert str(world.work().waiting_for) == "the judgement of rebuild 2"
    assert 1200 not in why(world)
    world.find(judgement(2, 1100, -0.1))
    world.work()
    assert 1200 in why(world)


def test_one_step_is_one_decision_or_one_batch_and_decisions_come_first(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(700))
    world.dense(700)
    world.find(*(window(count) for count in range(WINDOW, 600, WINDOW)))
    with world.worker() as worker:
        steps = [worker.step() for _ in range(7)]
    assert [step.decided.count for step in steps[:5] if step.decided] == [100, 200, 300, 400, 500]
    assert [step.events for step in steps] == [0, 0, 0, 0, 0, 20, 20]
    assert steps[-1].count == 440


def test_it_waits_for_window_snapshot_and_clicks_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(440))
    assert str(world.work().waiting_for) == "the window ending at 100"
    world.find(*(window(count) for count in range(WINDOW, 500, WINDOW)))
    assert world.work() == PruneStep(
        400, waiting_for=Waiting("snapshots", "the dense snapshot at 400")
    )
    world.dense(440)
    assert world.work() == PruneStep(440, waiting_for=Waiting("clicks"))


def test_windows_of_other_sizes_and_a_partial_one_decide_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.find(window(20, size=20), window(100).model_copy(update={"partial": True}))
    world.work()
    assert world.ledger() == []


def everything(world: World) -> dict[str, object]:
    """Return all that must be the same however often the worker was killed."""
    store = world.snapshots
    return {
        "ledger": world.values(topics.LEDGER),
        "predictions": {k: b.probability.tolist() for k, b in world.predicted().items()},
        "masks": [pack(world.masks.get(name)) for name in world.masks.names()],
        "snapshots": [
            (store.folder / name / FILE).read_bytes()
            for number in (1, 2, 3)
            for name in store.names(f"candidate-{number}")
        ],
    }


def prepared(folder: Path) -> World:
    """Make a world in which everything is there from the start for a run to its end."""
    world = World(folder)
    world.click(stream(1560), end=True)
    world.dense(10_000)
    world.find(*(window(count) for count in range(WINDOW, 700, WINDOW)))
    relative = [0.1, 0.2, 0.5, 0.5, 0.5, 0.05, 0.4, 0.4, 0.4]
    world.find(*(window(700 + WINDOW * i, r) for i, r in enumerate(relative)))
    world.find(judgement(2, 1100, -0.1), judgement(3, 1500, 0.2))
    return world


def twin_of(world: World, folder: Path) -> World:
    """Copy everything, so that even the identities of the logs are the same."""
    shutil.copytree(world.folder, folder)
    return World(folder)


def test_killed_at_any_step_it_leaves_the_same_bits(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole")
    killed = twin_of(whole, tmp_path / "killed")
    assert whole.work().done
    assert [verdict.verdict for verdict in whole.verdicts()] == ["promoted", "promoted", "rejected"]
    rng = np.random.default_rng(0)
    lives = 1
    while not killed.work(int(rng.integers(1, 9))).done:
        lives += 1
    assert lives > 10
    assert everything(killed) == everything(whole)


def test_the_decisions_of_the_ledger_follow_from_the_ledger_before_them(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    world.work()
    with world.worker() as worker:
        history = type(worker.history)()
        worker.step()
        scores = worker._windows.scores
        for message in world.ledger():
            if isinstance(message, Decision) and message.count > 1100:
                assert decide(history, scores, message.count, world.rules) == message
            history = history.after(message)
        assert history == worker.history


def test_a_restart_decides_nothing_twice(tmp_path: Path) -> None:
    world = diverged(tmp_path)
    before = world.values(topics.LEDGER)
    assert world.work().decided is None
    assert world.values(topics.LEDGER) == before


class Flaky(Aux):
    """AUX that cannot bear its third batch."""

    def observe(self, state: State, layer: Evidence) -> State:
        if int(state["steps"]) == 2:
            raise FloatingPointError("no importance today")
        return super().observe(state, layer)


FLAKY = CONFIG.model_copy(update={"criterion": "flaky"})


@pytest.fixture
def _flaky() -> Iterator[None]:
    """Offer the criterion, as a package would."""
    criteria.BUILT_IN["flaky"] = Flaky
    yield
    del criteria.BUILT_IN["flaky"]


@pytest.mark.usefixtures("_flaky")
def test_a_criterion_that_raises_in_the_middle_fails_its_rebuild_and_no_other(
    tmp_path: Path,
) -> None:
    world = first_mask(tmp_path)
    version, serving = world.verdicts()[0].version, world.masks.names()
    world.config = FLAKY
    world.find(window(700, 0.1), *(window(count, 0.5) for count in (800, 900)))
    assert str(world.work().waiting_for) == "the window ending at 1000"
    world.find(window(1000, 0.5))
    world.work()
    failed = world.verdicts()[-1]
    assert (failed.verdict, failed.count, failed.cost_events) == ("failed", 1000, 60)
    assert failed.reason == (
        "criterion 'aux' failed at batch 3: FloatingPointError: no importance today"
    )
    assert (failed.version, failed.snapshot, failed.mask, failed.layers) == (None, None, None, {})
    assert world.masks.names() == serving
    world.config = CONFIG
    world.find(*(window(count, 0.5) for count in (1100, 1200, 1300)))
    world.find(judgement(3, 1300, -0.2))
    world.work()
    assert why(world)[1000] == "rebuild 2 is open until 1000"
    assert why(world)[1100] is None
    assert world.verdicts()[-1].version == (version or 0) + 1


@pytest.mark.usefixtures("_flaky")
def test_a_first_mask_that_failed_is_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, config=FLAKY)
    world.click(stream(1000))
    world.dense(1000)
    world.find(*(window(count) for count in range(WINDOW, 700, WINDOW)))
    world.work()
    world.config = CONFIG
    world.find(*(window(count) for count in (700, 800, 900)))
    world.work()
    first, second = (
        one.rebuild for one in world.ledger() if isinstance(one, Decision) and one.rebuild
    )
    assert (first.decided, second.decided, second.reason) == (400, 700, "first")
    assert [verdict.verdict for verdict in world.verdicts()] == ["failed", "promoted"]


def test_weights_that_are_not_finite_fail_the_rebuild(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(700))
    world.dense(400)
    blown_up(world)
    world.find(*(window(count) for count in range(WINDOW, 700, WINDOW)))
    world.work()
    (verdict,) = world.verdicts()
    assert verdict.verdict == "failed"
    assert "not finite" in verdict.reason


@pytest.mark.parametrize("events", [450, 460, 599])
def test_an_input_that_ends_inside_a_rebuild_leaves_it_unfinished(
    tmp_path: Path, events: int
) -> None:
    world = World(tmp_path)
    whole, rest = divmod(events, 20)
    world.click([*stream(whole * 20), *(batch[:rest] for batch in stream(20, 1) if rest)], end=True)
    world.dense(1000)
    world.find(*(window(count) for count in range(WINDOW, events, WINDOW)))
    assert world.work().done
    (verdict,) = world.verdicts()
    assert (verdict.verdict, verdict.reason) == (
        "unfinished",
        f"the input ended after {events} events",
    )
    assert (verdict.count, verdict.cost_events) == (600, events - 400)


@pytest.mark.usefixtures("_flaky")
def test_a_rebuild_that_failed_before_the_input_ended_inside_it_has_failed(tmp_path: Path) -> None:
    world = World(tmp_path, config=FLAKY)
    world.click(stream(540), end=True)
    world.dense(1000)
    world.find(*(window(count) for count in range(WINDOW, 600, WINDOW)))
    assert world.work().done
    assert [verdict.verdict for verdict in world.verdicts()] == ["failed"]


def test_the_ledger_has_one_order_however_fast_the_evaluator_is(tmp_path: Path) -> None:
    fast = prepared(tmp_path / "fast")
    slow = twin_of(fast, tmp_path / "slow")
    shutil.rmtree(slow.folder / "log" / topics.WINDOWS)
    fast.work()
    for value in fast.values(topics.WINDOWS):
        slow.work()
        slow.append(topics.WINDOWS, Record(value))
    slow.work()
    assert slow.values(topics.LEDGER) == fast.values(topics.LEDGER)


def test_an_input_that_ends_before_the_first_mask_ends_the_work(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(260), end=True)
    world.dense(1000)
    world.find(window(100))
    assert str(world.work().waiting_for) == "the window ending at 200"
    world.find(window(200))
    assert world.work().done
    with world.worker() as worker:
        assert run(worker).done
        assert worker.step() == PruneStep(200, done=True)


def test_a_clean_stop_keeps_the_open_rebuild_where_it_stands(tmp_path: Path) -> None:
    world = first_mask(tmp_path)
    world.find(window(700, 0.1), window(800, 0.5))
    with world.worker() as worker:
        worker.close()
        while worker.step().count != 860:
            pass
        worker.close()
    assert world.work(1).count == 880


def test_a_store_that_was_wiped_is_filled_again(tmp_path: Path) -> None:
    world = first_mask(tmp_path)
    (name,) = world.masks.names()
    packed = pack(world.masks.get(name))
    world.masks.retain(())
    assert world.masks.names() == ()
    world.work()
    assert pack(world.masks.get(name)) == packed


def test_dense_snapshots_go_once_no_rebuild_can_start_from_them(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(700))
    world.dense(700)
    world.find(*(window(count) for count in range(WINDOW, 600, WINDOW)))
    with world.worker() as worker:
        for _ in range(5):
            worker.step()
    counts = [int(name[6:21]) for name in world.snapshots.names("dense")]
    assert counts == [400, 500, 600, 700]


def test_checkpoints_of_rebuilds_that_ended_are_deleted(tmp_path: Path) -> None:
    world = diverged(tmp_path)
    folder = tmp_path / "state" / "pruner"
    assert [path.name for path in folder.iterdir()] == ["rebuild-000002"]
    world.find(judgement(2, 1100, 0.3))
    world.work()
    assert list(folder.iterdir()) == []


def test_candidates_are_kept_as_long_as_they_are_among_the_last_versions(tmp_path: Path) -> None:
    world = diverged(tmp_path)
    world.versions = 1
    world.find(judgement(2, 1100, -0.3))
    world.work()
    assert world.snapshots.names("candidate-1") == []
    assert len(world.snapshots.names("candidate-2")) == 1
    assert len(world.masks.names()) == 1


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_rebuild_whose_dense_snapshot_is_lost_fails_and_the_next_one_is_made(
    tmp_path: Path, damage: str
) -> None:
    world = World(tmp_path)
    world.click(stream(1600))
    world.dense(1600)
    name = str(world.snapshots.find("dense", 400))
    file = world.snapshots.folder / name / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        world.snapshots.delete(name)
    world.find(*(window(count) for count in range(WINDOW, 1000, WINDOW)))
    world.work()
    failed, promoted = world.verdicts()
    assert (failed.verdict, promoted.verdict) == ("failed", "promoted")
    assert {"cut": "is damaged", "gone": "is gone from"}[damage] in failed.reason
    assert str(tmp_path) in failed.reason
