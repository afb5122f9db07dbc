from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learner import LearnerStep, NonFiniteError, SnapshotError, StreamTrainer
from learner.snapshots import dump_tensors
from pruner import PruneWorker
from pruner.evidence import layers_of
from pruner.updaters import PrunePhase, recipe
from stream import topics
from stream.batch import ClickBatch
from stream.log import Record
from stream.messages import Decision, Position, RebuildPlan, dump
from stream.spec import Waiting
from tests.pruner.nets import Job
from tests.pruner.worlds import BATCH, CONFIG, RULES, RUN, World, build, dense, stream

PLAN = RebuildPlan(number=1, reason="x", cause="", begin=400, decided=400, end=600)


@contextmanager
def context(world: World, state: str = "pruner") -> Iterator[PruneWorker]:
    """Open a worker whose ledger says that the rebuild was decided."""
    earlier = [Decision(count=count, why_not="maturing") for count in (100, 200, 300)]
    decisions = [*earlier, Decision(count=400, rebuild=PLAN)]
    world.append(topics.LEDGER, *(Record(dump(one)) for one in decisions))
    with world.ports() as ports:
        yield PruneWorker(
            replace(ports, folder=world.folder / "state" / state), CONFIG, RULES, build
        )


def opened(made: PruneWorker) -> StreamTrainer:
    rebuild = made.open_rebuild(PLAN)
    assert rebuild is not None
    return rebuild


def finish(rebuild: StreamTrainer, end: int = PLAN.end) -> None:
    while rebuild.count < end:
        rebuild.step()


def world_of(folder: Path, clicks: list[ClickBatch] | None = None) -> World:
    world = World(folder)
    world.click(clicks or stream(700))
    world.dense(400)
    return world


def by_hand(clicks: list[ClickBatch]) -> tuple[Job, dict[int, np.ndarray]]:
    """Do what a rebuild does on a list of batches, without any log, snapshot or checkpoint."""
    online = dense()
    for batch in clicks[: 400 // BATCH]:
        online.learn(batch)
    how = recipe(CONFIG, RUN)
    rng = np.random.default_rng([RUN.seed, PLAN.number])
    job = Job(online, PrunePhase(how, layers_of(online), rng))
    predicted = {}
    for i, batch in enumerate(clicks[400 // BATCH : 600 // BATCH]):
        if (begin := 400 + i * BATCH) >= 540:
            predicted[begin] = job.model.predict(batch)
        job.learn(batch)
    return job, predicted


def test_the_candidate_has_learned_every_event_once_from_the_copied_dense_model(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.click(stream(700))
    world.dense(400)
    job, predicted = by_hand(stream(700))
    with context(world) as made:
        rebuild = opened(made)
        while rebuild.count < PLAN.end:
            assert rebuild.step().events == BATCH
        found = world.snapshots.read(rebuild.snapshot())
    assert dump_tensors(found.tensors) == dump_tensors(job.state())
    assert (found.model, found.version, found.count) == ("candidate-1", 1, 600)
    assert found.trained_through == {0: Position(29, BATCH - 1)}
    assert {b.begin: b.probability.tolist() for b in world.predicted().values()} == {
        begin: probability.tolist() for begin, probability in predicted.items()
    }


def test_its_predictions_name_candidate_version_and_what_it_had_learned(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with context(world) as made:
        rebuild = opened(made)
        finish(rebuild)
    batches = list(world.predicted().values())
    assert [batch.begin for batch in batches] == [540, 560, 580]
    for batch in batches:
        assert (batch.model, batch.version) == ("candidate-1", 1)
        assert batch.trained_through[0] < batch.spans[0].first
        assert batch.trained_through == {0: Position(batch.begin // BATCH - 1, BATCH - 1)}


def test_no_label_is_seen_before_its_prediction(tmp_path: Path) -> None:
    """Flipping every label from 560 on leaves the predictions through 580 as they were."""
    clicks = stream(700)
    flipped = [
        batch if i < 560 // BATCH else replace(batch, label=1 - batch.label)
        for i, batch in enumerate(clicks)
    ]
    found = []
    for name, parts in (("as_is", clicks), ("flipped", flipped)):
        world = World(tmp_path / name)
        world.click(parts)
        world.dense(400)
        with context(world) as made:
            rebuild = opened(made)
            finish(rebuild)
        found.append({b.begin: b.probability.tolist() for b in world.predicted().values()})
    assert found[0][540] == found[1][540]
    assert found[0][560] == found[1][560]
    assert found[0][580] != found[1][580]


@pytest.mark.parametrize("stops", [[1], [4, 5], [7], [2, 2, 9]])
def test_killed_and_resumed_it_ends_in_the_same_bits(tmp_path: Path, stops: list[int]) -> None:
    world = world_of(tmp_path)
    with context(world, "elsewhere") as made:
        whole = opened(made)
        finish(whole)
        expected = whole.snapshot()
    content = (world.snapshots.folder / expected / "model.safetensors").read_bytes()
    world.snapshots.delete(expected)
    for steps in [*stops, 100]:
        with context(world) as made:
            rebuild = opened(made)
            for _ in range(steps):
                rebuild.count == PLAN.end or rebuild.step()
            done = rebuild.snapshot() if rebuild.count == PLAN.end else None
    assert done == expected
    assert (world.snapshots.folder / expected / "model.safetensors").read_bytes() == content
    assert len(world.predicted()) == 3


def test_a_clean_stop_loses_nothing(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with context(world) as made:
        rebuild = opened(made)
        rebuild.close()
        rebuild.step()
        rebuild.close()
    with context(world) as made:
        assert opened(made).count == 420


def test_without_the_dense_snapshot_it_cannot_begin(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(700))
    world.dense(380)
    with context(world) as made:
        assert made.open_rebuild(PLAN) is None


def test_without_clicks_it_waits_and_tells_that_the_input_has_ended(tmp_path: Path) -> None:
    world = world_of(tmp_path, stream(420))
    with context(world) as made:
        rebuild = opened(made)
        assert rebuild.step() == LearnerStep(420, BATCH)
        assert rebuild.step() == LearnerStep(420, waiting_for=Waiting("clicks"))
        world.click([], end=True)
        assert rebuild.step() == LearnerStep(420, done=True)
    assert world.snapshots.names("candidate-1") == []


def blown_up(world: World) -> None:
    """Make the dense snapshot at 400 one whose predictions are not finite."""
    name = str(world.snapshots.find("dense", 400))
    dense = world.snapshots.read(name)
    dense.tensors["top.4.bias"].fill_(torch.nan)
    world.snapshots.delete(name)
    world.snapshots.write(dense)


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    fault = "candidate-1 predicts what is not finite after 540 events, or would learn it, from 20"
    with context(world) as made:
        rebuild = opened(made)
        finish(rebuild, 540)
        with torch.no_grad():
            rebuild.online.module.get_parameter("top.4.bias").fill_(torch.nan)
        with pytest.raises(NonFiniteError, match=fault):
            finish(rebuild)
        rebuild.close()
    with context(world) as made:
        assert opened(made).count == 520


def test_predictions_that_are_not_finite_are_not_published(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    blown_up(world)
    with context(world) as made:
        rebuild = made.open_rebuild(PLAN.model_copy(update={"end": 440}))
        assert rebuild is not None
        with pytest.raises(NonFiniteError, match="candidate-1 predicts what is not finite"):
            finish(rebuild, 440)
    assert not world.predicted()


def test_a_dense_snapshot_that_is_gone_is_named_rather_than_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(700))
    world.dense(600)
    world.snapshots.delete(str(world.snapshots.find("dense", PLAN.begin)))
    gone = pytest.raises(SnapshotError, match=r"is gone from .*, and dense is past it")
    with context(world) as made, gone:
        made.open_rebuild(PLAN)
