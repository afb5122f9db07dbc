"""Events that a model cannot learn are set aside; the others are learned as if they were alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner import LearnerConfig, NonFiniteError, OnlineModel
from stream.batch import ClickBatch
from stream.messages import Position
from stream.spec import RunSpec
from tests.learner.worlds import SCHEMA, World, batches, dense_trainer

CONFIG = LearnerConfig(checkpoint_events=32, snapshot_events=64)
PLAN = RunSpec.small(schema=SCHEMA, batch_events=16)
GOOD, ABSURD = 1.0, 30.0
"""The model below takes e^(price^2): of 1 that is 2.7, of 30 more than a float32 holds."""


class Explosive(nn.Module):
    """A model in which one number of one event can do what it likes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(2, 4)
        self.logit = nn.Linear(4, 1)

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        grown = torch.exp(dense[:, :1] ** 2)
        found: Tensor = self.logit(self.hidden(torch.cat([grown, dense[:, 1:]], 1)).tanh())
        return found.squeeze(1) + 0 * grown.squeeze(1)


def fresh() -> OnlineModel:
    return OnlineModel(Explosive(), CONFIG)


def stream(*absurd: int, count: int = 6) -> list[ClickBatch]:
    """Make batches of 16 events, in which those of some numbers are absurd."""
    whole = ClickBatch.concat(batches(count))
    numeric = np.clip(whole.numeric, -GOOD, GOOD)
    numeric[list(absurd), 0] = ABSURD
    whole = replace(whole, numeric=numeric)
    return [whole[begin : begin + 16] for begin in range(0, len(whole), 16)]


def world_of(folder: Path, parts: list[ClickBatch]) -> World:
    world = World(folder)
    world.write(parts)
    return world


def live(world: World, steps: int = 100) -> OnlineModel:
    """Live for some steps, and die without a word."""
    with world.ports("dense") as ports:
        learner = dense_trainer(fresh(), ports, PLAN)
        for _ in range(steps):
            if learner.step().done:
                break
    return learner.online


def test_what_is_set_aside_is_named_and_the_others_are_learned(tmp_path: Path) -> None:
    parts, bad = stream(3, 20, 21), (3, 20, 21)
    world = world_of(tmp_path, parts)
    online = live(world)
    oracle = fresh()
    for number, batch in enumerate(parts):
        rows = [row for row in range(16) if 16 * number + row not in bad]
        oracle.learn(batch[np.isin(np.arange(16), rows)])
    for name, tensor in oracle.state().items():
        assert torch.equal(online.state()[name], tensor), name
    assert online.finite()
    found = world.predicted("dense")
    assert [one.set_aside for one in found] == [
        ((0, Position(0, 3)),),
        ((0, Position(1, 4)), (0, Position(1, 5))),
        *[()] * 4,
    ]


def test_what_cannot_be_predicted_is_predicted_as_the_mean_of_the_others(tmp_path: Path) -> None:
    world = world_of(tmp_path, stream(3))
    live(world)
    first = world.predicted("dense")[0].probability
    assert np.isfinite(first).all()
    assert first[3] == pytest.approx(np.delete(first, 3).mean())


@pytest.mark.parametrize("lives", [[1], [2, 1], [1, 3, 1, 2]])
def test_killed_at_any_time_it_sets_the_same_aside_and_ends_in_the_same_bits(
    tmp_path: Path, lives: list[int]
) -> None:
    parts = stream(3, 20, 21, 95)
    whole = world_of(tmp_path / "whole", parts)
    live(whole)
    killed = world_of(tmp_path / "killed", parts)
    for steps in lives:
        live(killed, steps)
    live(killed)
    assert killed.files("dense").keys() == whole.files("dense").keys()
    assert killed.published("dense").keys() == whole.published("dense").keys()
    for begin, value in whole.published("dense").items():
        assert killed.published("dense")[begin] == value


def test_an_event_whose_gradient_alone_is_too_large_is_found() -> None:
    """What the model predicts of it is finite, what it would learn from it is not."""
    [clicks, *_] = stream()
    online = OnlineModel(Steep(), CONFIG)
    assert not online.unlearnable(online.forward(clicks)).any()
    clicks.numeric[5, 1] = 1e20
    assert np.isfinite(online.predict(clicks)).all()
    assert np.flatnonzero(online.unlearnable(online.forward(clicks))).tolist() == [5]


class Steep(nn.Module):
    """Its prediction hardly depends on a feature; its gradient does."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Linear(2, 1)
        nn.init.constant_(self.logit.weight, 1e-22)

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        found: Tensor = self.logit(dense)
        return found.squeeze(1)


def test_a_batch_most_of_which_cannot_be_learned_is_the_models_fault(tmp_path: Path) -> None:
    world = world_of(tmp_path, stream(*range(16, 25)))
    with pytest.raises(NonFiniteError, match=r"after 16 events, .* from 9 of the next 16; lower"):
        live(world)
    assert len(world.predicted("dense")) == 1
    assert live(world_of(tmp_path / "half", stream(*range(16, 24)))).finite()


def test_an_event_alone_in_its_batch_can_be_set_aside(tmp_path: Path) -> None:
    [first, *_] = stream(0)
    world = world_of(tmp_path, [first[:1]])
    before = fresh().state()
    online = live(world)
    assert all(torch.equal(online.state()[name], tensor) for name, tensor in before.items())
    [found] = world.predicted("dense")
    assert (found.probability.tolist(), found.set_aside) == ([0.5], ((0, Position(0, 0)),))
