"""Learning from clicks in several partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learner import (
    Continue,
    LearnerConfig,
    LearnerState,
    LearnerStep,
    ModelVersion,
    StreamTrainer,
    SwitchTo,
)
from learner.trainer import Answer
from pruner.updaters import FixedMask
from stream.batch import ClickBatch
from stream.columnar import predictions_from_bytes
from stream.messages import Position, PredictionBatch
from stream.spec import Waiting
from stream.topics import LEDGER
from tests.learner.worlds import PLAN, World, batches, dense_trainer, masks_for, model

CONFIG = LearnerConfig(checkpoint_events=48, snapshot_events=64)
BEGIN = 64
"""Where the sparse model begins."""
STREAMS = batches(8, seed=1), batches(6, seed=2), [one[:7] for one in batches(5, seed=3)]
"""Of each partition, 16 or 7 events a record: 259 events, 17 batches, the last one short."""
TOTAL = sum(len(part) for stream in STREAMS for part in stream)


class FromSnapshot:
    """A source that begins with a model as it was at a count, and lets it continue for good."""

    def __init__(self, world: World) -> None:
        self.world = world

    def at(self, count: int | None) -> Answer:
        if count is not None:
            return Continue()
        names = self.world.snapshots.names("candidate-1")
        if not names:
            return Waiting(LEDGER, "the first mask")
        return SwitchTo(ModelVersion(1, names[0], BEGIN))


def dense(world: World, steps: int = 1000) -> list[LearnerStep]:
    """Live for some steps, or while there are clicks, and then die without a word."""
    taken: list[LearnerStep] = []
    with world.ports("dense") as ports:
        learner = dense_trainer(model(config=CONFIG), ports, PLAN)
        while len(taken) < steps and not (taken and (taken[-1].done or taken[-1].waiting_for)):
            taken.append(learner.step())
    return taken


def sparse(world: World, steps: int = 1000) -> list[LearnerStep]:
    taken: list[LearnerStep] = []
    with world.ports("sparse") as ports:
        online, source = model(seed=9, config=CONFIG), FromSnapshot(world)
        learner = StreamTrainer(online, ports, PLAN, FixedMask(), source)
        while len(taken) < steps and not (taken and (taken[-1].done or taken[-1].waiting_for)):
            taken.append(learner.step())
    return taken


def cut(world: World) -> None:
    """Cut a candidate from the dense snapshot."""
    store = world.snapshots
    name = store.find("dense", BEGIN)
    assert name is not None
    found, online = store.read(name), model()
    online.load(found.tensors)
    online.set_masks(masks_for(online))
    through = found.trained_through
    store.write(LearnerState("candidate-1", 1, found.cursor, through, online.state()))


def write(world: World, streams: Sequence[Sequence[ClickBatch]] = STREAMS) -> None:
    for partition, stream in enumerate(streams):
        world.write(stream, partition=partition)


def everybody(world: World) -> None:
    """Let dense and sparse learn everything."""
    dense(world)
    cut(world)
    sparse(world)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which all clicks were there at once and nobody was killed."""
    world = World(tmp_path_factory.mktemp("whole"), len(STREAMS))
    write(world)
    everybody(world)
    return world


def places(batch: PredictionBatch) -> list[tuple[int, int, int]]:
    """Name the partition, record and row of each event, for records of which all are valid."""
    found = []
    for span in batch.spans:
        offset, row = span.first
        for _ in range(span.events):
            if row == len(STREAMS[span.partition][offset]):
                offset, row = offset + 1, 0
            found.append((span.partition, offset, row))
            row += 1
        assert found[-1][1:] == span.last
    return found


def test_every_event_is_learned_once_and_each_partition_in_its_order(whole: World) -> None:
    assert_complete(whole)


def test_every_model_learns_what_the_spans_of_dense_say_in_their_order(whole: World) -> None:
    assert_learned(whole)


def assert_complete(world: World) -> None:
    """Every event stands in one span, each partition in its order."""
    learned = [place for batch in order_of(world) for place in places(batch)]
    for partition, stream in enumerate(STREAMS):
        expected = [(at, row) for at, part in enumerate(stream) for row in range(len(part))]
        assert [place[1:] for place in learned if place[0] == partition] == expected
    assert len(learned) == TOTAL


def assert_learned(world: World) -> None:
    """All predictions are those of models that never died and learned what the spans say."""
    oracles = {"dense": model(config=CONFIG), "sparse": model(seed=9, config=CONFIG)}
    found = {name: predicted(world, name) for name in oracles}
    for batch in order_of(world):
        clicks = ClickBatch.concat([STREAMS[p][at][row : row + 1] for p, at, row in places(batch)])
        if batch.begin == BEGIN:
            candidate = world.snapshots.names("candidate-1")[0]
            oracles["sparse"].load(world.snapshots.read(candidate).tensors)
        for name, oracle in oracles.items():
            if name == "dense" or batch.begin >= BEGIN:
                probability = found[name][batch.begin].probability
                assert np.array_equal(probability, oracle.predict(clicks))
                oracle.learn(clicks)
    for name, oracle in oracles.items():
        left = world.snapshots.read(world.snapshots.names(name)[-1]).tensors
        assert all(torch.equal(left[key], value) for key, value in oracle.state().items())


def predicted(world: World, name: str) -> dict[int, PredictionBatch]:
    """Read predictions by the count they begin at; repeats must have the same bytes."""
    return {begin: predictions_from_bytes(v) for begin, v in world.published(name).items()}


def order_of(world: World) -> list[PredictionBatch]:
    return [batch for _, batch in sorted(predicted(world, "dense").items())]


def test_all_models_learn_the_same_batches(whole: World) -> None:
    order = {batch.begin: batch.spans for batch in whole.predicted("dense")}
    followed = {batch.begin: batch.spans for batch in whole.predicted("sparse")}
    assert followed == {begin: spans for begin, spans in order.items() if begin >= BEGIN}
    assert max(len(spans) for spans in order.values()) == len(STREAMS)


def test_what_is_claimed_is_what_was_learned(whole: World) -> None:
    assert_claims(whole)


def assert_claims(world: World) -> None:
    """A model claims, for each partition, exactly the last place before the batch."""
    for name in ("dense", "sparse"):
        found = predicted(world, name)
        through: dict[int, Position] = {}
        for batch in order_of(world):
            if batch.begin in found:
                assert found[batch.begin].trained_through == through
            for span in batch.spans:
                assert through.get(span.partition, Position(-1, 0)) < span.first
                through[span.partition] = span.last


def test_the_last_snapshot_holds_the_end_of_every_partition(whole: World) -> None:
    for name in ("dense", "sparse"):
        found = whole.snapshots.read(whole.snapshots.names(name)[-1])
        assert (found.count, found.cursor.ended) == (TOTAL, True)
        assert found.cursor.places == {0: Position(7, 16), 1: Position(5, 16), 2: Position(4, 7)}
        assert found.trained_through == {0: Position(7, 15), 1: Position(5, 15), 2: Position(4, 6)}


@pytest.mark.parametrize("batch", [0, 1, 4, 9, 15])
def test_flipping_all_labels_from_a_batch_on_changes_no_prediction_up_to_its_end(
    whole: World, tmp_path: Path, batch: int
) -> None:
    """In all partitions: of each, from its place in the order on."""
    order = whole.predicted("dense")
    late = {place for later in order[batch:] for place in places(later)}
    world = World(tmp_path, len(STREAMS))
    write(world, flipped(late))
    assert_unchanged_up_to(batch, whole, world)


@pytest.mark.parametrize("partition", range(len(STREAMS)))
@pytest.mark.parametrize("batch", [2, 5])
def test_flipping_the_labels_of_one_partition_changes_no_prediction_up_to_there(
    whole: World, tmp_path: Path, partition: int, batch: int
) -> None:
    order = whole.predicted("dense")
    late = {at for later in order[batch:] for at in places(later) if at[0] == partition}
    assert late & set(places(order[batch]))
    world = World(tmp_path, len(STREAMS))
    write(world, flipped(late))
    assert_unchanged_up_to(batch, whole, world)


def flipped(late: set[tuple[int, int, int]]) -> list[list[ClickBatch]]:
    """Flip the labels of some events."""

    def label(partition: int, at: int, part: ClickBatch) -> ClickBatch:
        here = np.array([(partition, at, row) in late for row in range(len(part))])
        return replace(part, label=np.where(here, 1 - part.label, part.label))

    return [[label(p, at, part) for at, part in enumerate(s)] for p, s in enumerate(STREAMS)]


def assert_unchanged_up_to(batch: int, whole: World, world: World) -> None:
    """All predictions through a batch are the same, and those of the next one are not."""
    everybody(world)
    end = batch * PLAN.batch_events
    for name in ("dense", "sparse"):
        before, after = whole.published(name), world.published(name)
        assert before.keys() == after.keys()
        assert {b for b in before if b <= end and before[b] != after[b]} == set()
        following = end + PLAN.batch_events
        # Both begin with what dense had learned.
        if following in before and following > BEGIN:
            assert before[following] != after[following]


@pytest.mark.parametrize("seed", range(6))
def test_dense_and_sparse_killed_anywhere_leave_the_same_as_if_they_had_lived(
    tmp_path: Path, seed: int
) -> None:
    """Clicks come while they live, so what was ready differs from life to life."""
    rng = np.random.default_rng(seed)
    world = World(tmp_path, len(STREAMS))
    unwritten = [list(stream) for stream in STREAMS]
    while any(unwritten):
        partition = int(rng.choice([p for p, rest in enumerate(unwritten) if rest]))
        n = int(rng.integers(1, 4))
        here, unwritten[partition] = unwritten[partition][:n], unwritten[partition][n:]
        world.write(here, end=not unwritten[partition], partition=partition)
        dense(world, steps=int(rng.integers(1, 7)))
        if world.snapshots.find("dense", BEGIN) is not None:
            cut(world)
            sparse(world, steps=int(rng.integers(1, 7)))
    everybody(world)
    assert len(world.predicted("dense")) > len(order_of(world))
    assert_complete(world)
    assert_learned(world)
    assert_claims(world)
