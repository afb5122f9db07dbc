from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learner import LearnerConfig, LearnerStep, NonFiniteError, OnlineModel
from stream.batch import ClickBatch
from stream.messages import Position
from stream.spec import Waiting
from tests.learner.worlds import PLAN, World, batches, dense_trainer, model

CONFIG = LearnerConfig(checkpoint_events=48, snapshot_events=64)


def fresh() -> OnlineModel:
    return model(config=CONFIG)


def run(world: World, steps: int = 1000) -> list[LearnerStep]:
    """Live for some steps and then die without a word."""
    taken: list[LearnerStep] = []
    with world.ports("dense") as ports:
        learner = dense_trainer(fresh(), ports, PLAN)
        while len(taken) < steps and not (taken and taken[-1].done):
            taken.append(learner.step())
    return taken


def world_of(folder: Path, parts: list[ClickBatch], *, end: bool = True) -> World:
    world = World(folder)
    world.write(parts, end=end)
    return world


def flipped_from(parts: list[ClickBatch], count: int) -> list[ClickBatch]:
    """Flip every label after the first ``count`` events."""
    whole = ClickBatch.concat(parts)
    label = whole.label.copy()
    label[count:] = 1 - label[count:]
    return [replace(whole, label=label)]


def test_each_batch_is_predicted_before_it_is_learned(tmp_path: Path) -> None:
    stream = batches(6)
    world = world_of(tmp_path, stream)
    run(world)
    oracle = fresh()
    for clicks, found in zip(stream, world.predicted("dense"), strict=True):
        assert np.array_equal(found.probability, oracle.predict(clicks))
        oracle.learn(clicks)


def test_predictions_name_their_events_and_what_the_model_had_learned(tmp_path: Path) -> None:
    world = world_of(tmp_path, batches(1, n=40))
    run(world)
    first, second, third = world.predicted("dense")
    assert [found.begin for found in (first, second, third)] == [0, 16, 32]
    assert (first.model, first.version) == ("dense", 0)
    assert first.trained_through == {}
    assert second.trained_through == {0: Position(0, 15)}
    assert third.trained_through == {0: Position(0, 31)}
    assert [(s.first, s.last, s.events) for s in third.spans] == [
        (Position(0, 32), Position(0, 39), 8)
    ]


@pytest.mark.parametrize("position", [0, 1, 33, 47, 70])
def test_flipping_all_labels_from_an_event_on_changes_no_prediction_up_to_its_batch(
    tmp_path: Path, position: int
) -> None:
    stream = batches(6)
    world = world_of(tmp_path / "honest", stream)
    other = world_of(tmp_path / "flipped", flipped_from(stream, position))
    run(world)
    run(other)
    same = [
        np.array_equal(one.probability, two.probability)
        for one, two in zip(world.predicted("dense"), other.predicted("dense"), strict=True)
    ]
    affected = position // 16 + 1
    assert same == [True] * affected + [False] * (6 - affected)


def test_one_step_is_at_most_one_batch_and_waiting_is_said(tmp_path: Path) -> None:
    stream = batches(3)
    world = world_of(tmp_path, stream[:2], end=False)
    with world.ports("dense") as ports:
        learner = dense_trainer(fresh(), ports, PLAN)
        assert learner.step() == LearnerStep(16, 16)
        assert learner.step() == LearnerStep(32, 16)
        assert learner.step() == LearnerStep(32, 0, waiting_for=Waiting("clicks"))
        world.write(stream[2:])
        assert learner.step() == LearnerStep(48, 16)
        assert learner.step() == LearnerStep(48, 0, done=True)
        assert learner.step() == LearnerStep(48, 0, done=True)


def test_snapshots_stand_on_the_grid_and_at_the_end(tmp_path: Path) -> None:
    stream = batches(10)
    stream[9] = stream[9][:5]
    world = world_of(tmp_path, stream)
    run(world)
    store, oracle = world.snapshots, fresh()
    assert [store.read(name).count for name in store.names("dense")] == [64, 128, 149]
    for clicks in stream[:4]:
        oracle.learn(clicks)
    name = store.find("dense", 64)
    assert name is not None
    found = store.read(name)
    assert all(torch.equal(found.tensors[n], t) for n, t in oracle.state().items())
    assert (found.model, found.version, found.seed) == ("dense", 0, 0)
    assert found.trained_through == {0: Position(3, 15)}
    assert found.cursor.places == {0: Position(3, 16)}
    assert found.config_json == PLAN.config_json


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path, size: int) -> None:
    stream = batches(11)
    stream[10] = stream[10][:7]
    world = world_of(tmp_path / "whole", stream)
    broken = world_of(tmp_path / "broken", [ClickBatch.concat(stream)])
    whole = world_of(tmp_path / "one", [ClickBatch.concat(stream)])
    run(world)
    run(whole)
    for steps in (size + 3, size, 4, size + 5, 1, 1000):
        run(broken, steps)
    probabilities = [p.probability.tobytes() for p in world.predicted("dense")]
    assert [p.probability.tobytes() for p in whole.predicted("dense")] == probabilities
    assert broken.published("dense") == whole.published("dense")
    for name, tensor in end_of(whole).items():
        assert torch.equal(end_of(broken)[name], tensor)


def end_of(world: World) -> dict[str, torch.Tensor]:
    store = world.snapshots
    return store.read(store.names("dense")[-1]).tensors


def test_a_clean_stop_learns_nothing_twice(tmp_path: Path) -> None:
    world = world_of(tmp_path, batches(5))
    with world.ports("dense") as ports:
        learner = dense_trainer(fresh(), ports, PLAN)
        for _ in range(2):
            learner.step()
        learner.close()
    assert run(world)[0] == LearnerStep(48, 16)
    assert len(world.predicted("dense")) == 5


def test_a_run_that_has_ended_stays_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, batches(5))
    run(world)
    files = world.files("dense")
    assert run(world) == [LearnerStep(80, 0, done=True)]
    assert world.files("dense") == files
    assert len(world.predicted("dense")) == 5


def test_an_input_without_events_ends_at_once(tmp_path: Path) -> None:
    world = world_of(tmp_path, [])
    assert run(world) == [LearnerStep(0, 0, done=True)]
    assert [world.snapshots.read(n).count for n in world.snapshots.names("dense")] == [0]


def test_a_model_that_has_blown_up_is_not_kept(tmp_path: Path) -> None:
    world = world_of(tmp_path, batches(5))
    with world.ports("dense") as ports:
        learner = dense_trainer(fresh(), ports, PLAN)
        learner.step()
        with torch.no_grad():
            learner.online.module.get_parameter("top.4.bias").fill_(torch.nan)
        with pytest.raises(NonFiniteError, match="dense predicts what is not finite after 16 even"):
            learner.step()
        learner.close()
    assert run(world)[0].count == 16
