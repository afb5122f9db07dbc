from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from learner import (
    Continue,
    LearnerConfig,
    LearnerState,
    LearnerStep,
    ModelVersion,
    NoModel,
    NonFiniteError,
    OnlineModel,
    Ports,
    Publication,
    RollBackTo,
    StreamTrainer,
    SwitchTo,
    count_of,
)
from learner.trainer import Answer
from pruner.updaters import FixedMask
from stream.messages import Position
from stream.reader import ClickReader
from stream.spec import Waiting
from stream.topics import LEDGER
from tests.learner.test_dense import flipped_from
from tests.learner.worlds import PLAN, World, batches, dense_trainer, masks_for, model

CONFIG = LearnerConfig(checkpoint_events=48, snapshot_events=64)
STREAM = batches(14)


@dataclass
class Script:
    """A source that answers what it was made with."""

    answers: dict[int | None, Answer]

    def at(self, count: int | None) -> Answer:
        return self.answers.get(count, Continue())


@dataclass
class Registry:
    """A registry that remembers what it was called with."""

    publications: list[Publication] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def publish(self, publication: Publication) -> None:
        self.publications.append(publication)

    def reconcile(self, version: int) -> None:
        self.versions.append(version)


def candidate(world: World, number: int, count: int) -> SwitchTo:
    """Cut a candidate from a model that has learned ``count`` events."""
    online = model(seed=number)
    for clicks in STREAM[: count // 16]:
        online.learn(clicks)
    online.set_masks(masks_for(online, seed=number))
    with world.ports("dense") as ports:
        reader = ClickReader(ports.clicks, PLAN.schema, PLAN.batch_events)
        for _ in range(count // 16):
            reader.next()
        through = {0: Position(count // 16 - 1, 15)}
        state = online.state()
        snapshot = LearnerState(f"candidate-{number}", number, reader.cursor, through, state)
    return SwitchTo(ModelVersion(number, world.snapshots.write(snapshot), count))


def world_of(folder: Path) -> World:
    world = World(folder)
    world.write(STREAM)
    return world


def fresh() -> OnlineModel:
    return model(seed=99, config=CONFIG)


def sparse(ports: Ports, script: Script, registry: Registry | None = None) -> StreamTrainer:
    return StreamTrainer(fresh(), ports, PLAN, FixedMask(), script, registry)


def run(world: World, script: Script, steps: int = 1000, registry: Registry | None = None) -> int:
    """Live for some steps and then die without a word; return the count it came to."""
    with world.ports("sparse") as ports:
        learner = sparse(ports, script, registry)
        step = LearnerStep(0)
        for _ in range(steps):
            step = learner.step()
            if step.done:
                break
        return step.count


def two_versions(world: World) -> Script:
    first, second = candidate(world, 1, 32), candidate(world, 2, 96)
    return Script({None: first, 32: first, 96: second})


def test_it_waits_visibly_and_then_becomes_the_candidate(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script = Script({None: Waiting(LEDGER, "the first mask")})
    with world.ports("sparse") as ports:
        learner = sparse(ports, script)
        assert learner.step() == LearnerStep(0, 0, waiting_for=Waiting(LEDGER, "the first mask"))
        assert learner.version == 0
        script.answers[None] = candidate(world, 1, 32)
        assert learner.step() == LearnerStep(32)
        assert learner.version == 1
        assert learner.step() == LearnerStep(48, 16)
        script.answers[48] = Waiting(LEDGER, "the decision on 64")
        assert learner.step() == LearnerStep(
            48, 0, waiting_for=Waiting(LEDGER, "the decision on 64")
        )


def test_it_learns_on_from_the_candidate_under_its_mask(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script = two_versions(world)
    oracle = fresh()
    oracle.load(world.snapshots.read(world.snapshots.names("candidate-1")[0]).tensors)
    run(world, script)
    found = {p.begin: p for p in world.predicted("sparse")}
    assert sorted(found) == list(range(32, 224, 16))
    for begin in range(32, 96, 16):
        clicks = STREAM[begin // 16]
        assert np.array_equal(found[begin].probability, oracle.predict(clicks))
        oracle.learn(clicks)


def test_its_head_hears_of_every_swap_and_at_every_step_which_version_is_in_force(
    tmp_path: Path,
) -> None:
    world, head = world_of(tmp_path), Registry()
    script = two_versions(world)
    run(world, script, steps=4, registry=head)
    assert ([one.version for one in head.publications], head.versions) == ([1], [1, 1, 1])
    again = Registry()
    run(world, script, registry=again)
    assert [one.version for one in again.publications] == [2]
    assert again.versions == sorted(again.versions)
    assert {*again.versions} == {1, 2}


def test_no_prediction_mixes_two_versions(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    run(world, two_versions(world))
    versions = {p.begin: p.version for p in world.predicted("sparse")}
    assert versions == {begin: 1 if begin < 96 else 2 for begin in range(32, 224, 16)}


def test_after_a_swap_it_has_learned_every_event_once(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script = two_versions(world)
    run(world, script)
    oracle = fresh()
    oracle.load(world.snapshots.read(world.snapshots.names("candidate-2")[0]).tensors)
    for clicks in STREAM[6:]:
        oracle.learn(clicks)
    last = world.snapshots.read(world.snapshots.names("sparse")[-1])
    assert all(torch.equal(last.tensors[name], t) for name, t in oracle.state().items())
    assert (last.version, last.count, last.trained_through) == (2, 224, {0: Position(13, 15)})
    by_begin = {p.begin: p.trained_through for p in world.predicted("sparse")}
    assert by_begin[96] == {0: Position(5, 15)}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path, size: int) -> None:
    whole, broken = world_of(tmp_path / "whole"), world_of(tmp_path / "broken")
    run(whole, two_versions(whole))
    script = two_versions(broken)
    for steps in (1, size, 6, size + 1, size + 2, 4, 1000):
        run(broken, script, steps)
    assert {begin for begin in whole.published("sparse")} == set(range(32, 224, 16))
    assert identical(broken, whole)


def identical(one: World, two: World) -> bool:
    """Equal predictions and an equal model at the end, the identity of the log left out."""
    ours, theirs = one.published("sparse"), two.published("sparse")
    last = [w.snapshots.read(w.snapshots.names("sparse")[-1]).tensors for w in (one, two)]
    return ours == theirs and all(torch.equal(last[0][n], t) for n, t in last[1].items())


def test_a_swap_is_safe_before_the_head_hears_of_it(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script, head = two_versions(world), Registry()
    run(world, script, steps=1, registry=head)
    assert [one.version for one in head.publications] == [1]
    with world.ports("sparse") as ports:
        assert sparse(ports, Script({})).version == 1


def test_after_a_restart_at_a_swap_the_head_is_told_again(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script, head = two_versions(world), Registry()
    run(world, script, steps=1)
    run(world, script, steps=1000, registry=head)
    assert [(one.version, one.count) for one in head.publications] == [(1, 32), (2, 96)]


def test_flipping_all_labels_from_an_event_on_changes_no_prediction_up_to_its_batch(
    tmp_path: Path,
) -> None:
    world, other = world_of(tmp_path / "honest"), World(tmp_path / "flipped")
    other.write(flipped_from(STREAM, 131))
    run(world, Script({None: candidate(world, 1, 32)}))
    swap = candidate(other, 1, 32)
    run(other, Script({None: swap}))
    same = [
        np.array_equal(one.probability, two.probability)
        for one, two in zip(world.predicted("sparse"), other.predicted("sparse"), strict=True)
    ]
    assert same == [True] * 7 + [False] * 5


def test_a_model_that_never_starts_ends_with_nothing_written(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with world.ports("sparse") as ports:
        learner = sparse(ports, Script({None: NoModel()}))
        assert learner.step() == LearnerStep(0, 0, done=True)
        assert learner.step() == LearnerStep(0, 0, done=True)
        learner.close()
        assert ports.checkpoints.latest() is None
    assert world.snapshots.names("sparse") == []


def test_a_clean_stop_learns_nothing_twice(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script = two_versions(world)
    with world.ports("sparse") as ports:
        learner = sparse(ports, script)
        for _ in range(3):
            learner.step()
        learner.close()
    run(world, script)
    assert len(world.predicted("sparse")) == 12


def test_at_the_end_of_what_is_written_it_waits_for_clicks(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(STREAM[:2], end=False)
    with world.ports("sparse") as ports:
        learner = sparse(ports, Script({None: candidate(world, 1, 32)}))
        learner.step()
        assert learner.step() == LearnerStep(32, 0, waiting_for=Waiting("clicks"))


def test_a_regime_that_goes_on_before_the_first_mask_is_refused(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with (
        world.ports("sparse") as ports,
        pytest.raises(
            ValueError, match="lets sparse continue before its first mask; it must answer"
        ),
    ):
        sparse(ports, Script({})).step()


def test_a_swap_at_another_count_is_refused(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    first, second = candidate(world, 1, 32), candidate(world, 2, 96)
    script = Script({None: first, 64: second})
    message = "sparse stands at 64 events and cannot switch to candidate-2/.* of 96 events at 96"
    with pytest.raises(ValueError, match=message):
        run(world, script)


def test_a_swap_where_the_input_ends_still_takes_place(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(STREAM[:6])
    assert run(world, two_versions(world)) == 96
    last = world.snapshots.read(world.snapshots.names("sparse")[-1])
    assert (last.version, last.count) == (2, 96)


def back_again(world: World, at: int) -> Script:
    """Version 2 at 96, and back to the weights of version 1 as version 3."""
    script = two_versions(world)
    first = script.answers[32]
    assert isinstance(first, SwitchTo)
    script.answers[at] = RollBackTo(ModelVersion(3, first.to.snapshot, at, "mask-1"))
    return script


@pytest.mark.parametrize("at", [112, 144, 224])
def test_a_rollback_has_the_old_weights_sums_and_mask_and_goes_on_with_the_next_event(
    tmp_path: Path, at: int
) -> None:
    world = world_of(tmp_path)
    run(world, back_again(world, at))
    oracle = fresh()
    oracle.load(world.snapshots.read(world.snapshots.names("candidate-1")[0]).tensors)
    found = {p.begin: p for p in world.predicted("sparse")}
    assert {begin: p.version for begin, p in found.items()} == {
        begin: 1 if begin < 96 else 2 if begin < at else 3 for begin in range(32, 224, 16)
    }
    for begin in range(at, 224, 16):
        clicks = STREAM[begin // 16]
        assert np.array_equal(found[begin].probability, oracle.predict(clicks))
        oracle.learn(clicks)
    last = world.snapshots.read(world.snapshots.names("sparse")[-1])
    assert all(torch.equal(last.tensors[name], t) for name, t in oracle.state().items())
    assert (last.version, last.count) == (3, 224)


def test_after_a_rollback_it_still_claims_all_that_it_has_read(tmp_path: Path) -> None:
    """An upper bound: its weights have seen nothing of the events between 32 and 144."""
    world = world_of(tmp_path)
    run(world, back_again(world, 144))
    claims = {p.begin: p.trained_through for p in world.predicted("sparse")}
    assert claims[144] == {0: Position(8, 15)}
    assert claims[160] == {0: Position(9, 15)}


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_rollback_survives_kills_bit_for_bit(tmp_path: Path, size: int) -> None:
    whole, broken = world_of(tmp_path / "whole"), world_of(tmp_path / "broken")
    run(whole, back_again(whole, 144))
    script = back_again(broken, 144)
    for steps in (5, size, 4, size + 1, 3, size, 1000):
        run(broken, script, steps)
    assert identical(broken, whole)


def test_the_head_hears_of_a_rollback_and_again_after_a_restart(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script, head = back_again(world, 144), Registry()
    run(world, script, registry=head)
    assert [(one.version, one.count) for one in head.publications][-1] == (3, 144)
    other = world_of(tmp_path / "other")
    script = back_again(other, 144)
    run(other, script, steps=10)
    again = Registry()
    run(other, script, registry=again)
    assert [one.version for one in again.publications] == [3]


def test_a_rollback_anywhere_but_at_its_count_is_refused(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script = two_versions(world)
    script.answers[64] = RollBackTo(ModelVersion(2, "candidate-1/000000000000032-0123456789ab", 80))
    message = "sparse stands at 64 events and cannot go back to candidate-1/.* at 80; both must be"
    with pytest.raises(ValueError, match=message):
        run(world, script)


PUBLISHING = LearnerConfig(checkpoint_events=64, publish_events=32)


def published(
    world: World, script: Script, steps: int = 1000, config: LearnerConfig = PUBLISHING
) -> Registry:
    """Live for some steps, publishing every 32 events, and then die without a word."""
    registry = Registry()
    with world.ports("sparse") as ports:
        online = model(seed=99, config=config)
        learner = StreamTrainer(online, ports, PLAN, FixedMask(), script, registry)
        for _ in range(steps):
            if learner.step().done:
                break
    return registry


def ranks(registry: Registry) -> list[tuple[int, int, int]]:
    return [(one.version, one.sequence, one.count) for one in registry.publications]


EXPECTED = [(1, 0, 32), (1, 1, 64), (1, 2, 96), (2, 0, 96), (2, 1, 128), (2, 2, 160), (2, 3, 192)]
EXPECTED += [(2, 4, 224)]
"""Version 2 begins at 96, right after version 1 was published there."""


def test_weights_are_published_at_a_steady_cadence_from_where_the_version_begins(
    tmp_path: Path,
) -> None:
    world = world_of(tmp_path)
    registry = published(world, two_versions(world))
    assert ranks(registry) == EXPECTED
    oracle = fresh()
    oracle.load(world.snapshots.read(world.snapshots.names("candidate-2")[0]).tensors)
    for clicks in STREAM[6:12]:
        oracle.learn(clicks)
    found = world.snapshots.read(registry.publications[-2].snapshot)
    assert (found.model, found.version, found.count) == ("published-sparse", 2, 192)
    own, full = oracle.module.state_dict(), oracle.state()
    masks = {f"mask.{name}" for name in oracle.prunable}
    assert found.tensors.keys() == own.keys() | masks
    assert all(torch.equal(tensor, full[name]) for name, tensor in found.tensors.items())


def test_of_what_was_published_the_last_two_stay(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    published(world, two_versions(world))
    assert [count_of(n) for n in world.snapshots.names("published-sparse")] == [192, 224]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_killed_again_and_again_it_publishes_the_same(tmp_path: Path, size: int) -> None:
    whole, broken = world_of(tmp_path / "whole"), world_of(tmp_path / "broken")
    once = published(whole, two_versions(whole)).publications
    script, several = two_versions(broken), []
    for steps in (2, size, 4, size + 2, 3, size + 1, 1000):
        several += published(broken, script, steps).publications
    assert dict.fromkeys(several) == dict.fromkeys(once)
    assert broken.snapshots.names("published-sparse") == whole.snapshots.names("published-sparse")
    assert identical(broken, whole)


def test_after_a_restart_the_last_publication_is_published_again(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    script = two_versions(world)
    published(world, script, steps=9)
    again = published(world, script, steps=0)
    assert ranks(again) == [(2, 1, 128)]


def test_a_rollback_begins_its_sequence_anew(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    found = ranks(published(world, back_again(world, 144)))
    assert found[4:] == [(2, 1, 128), (3, 0, 144), (3, 1, 176), (3, 2, 208)]


def test_what_is_written_in_another_thread_is_published_once_it_is_there(tmp_path: Path) -> None:
    world, registry = world_of(tmp_path), Registry()
    go = Event()
    with world.ports("sparse") as ports, ThreadPoolExecutor(1) as pool:
        online = model(seed=99, config=PUBLISHING)
        waiting = replace(ports, writer_pool=pool)
        script = Script({None: candidate(world, 1, 32)})
        learner = StreamTrainer(online, waiting, PLAN, FixedMask(), script, registry)
        learner.step()
        pool.submit(go.wait)
        while learner.count < 80:
            learner.step()
        assert ranks(registry) == [(1, 0, 32)]
        go.set()
        learner.close()
    assert ranks(registry) == [(1, 0, 32), (1, 1, 64)]


def test_nobody_publishes_without_a_registry(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    run(world, two_versions(world))
    assert world.snapshots.names("published-sparse") == []


def test_no_checkpoint_of_its_leader_keeps_a_follower_that_is_not_finite(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    first = candidate(world, 1, 32)
    with world.ports("dense") as leading, world.ports("sparse") as ports:
        leader = dense_trainer(model(config=CONFIG), leading, PLAN)
        script = Script({32: first})
        follower = StreamTrainer(fresh(), ports, PLAN, FixedMask(), script, leader=leader)
        while follower.version == 0:
            leader.step()
        kept = leading.checkpoints.latest()
        follower.online.module.get_parameter("top.0.bias").data.fill_(float("nan"))
        leader._saved.clear()
        with pytest.raises(NonFiniteError, match="sparse has weights that are not finite"):
            leader.save_async("checkpoint")
        found = leading.checkpoints.latest()
        assert kept is not None
        assert found is not None
        assert found.path == kept.path
