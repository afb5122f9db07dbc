"""The adapting mask of a comparison, alone and in a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner import UPDATER, LearnerStep, OnlineModel, Ports, StreamTrainer, masks_of
from pruner import ComparisonConfig, FirstMaskSource, InputEnd, LedgerMaskSource, PrunerConfig
from pruner.criteria.aux import Aux, AuxOptions, importance
from pruner.evidence import layers_of
from pruner.masks import sparsity
from pruner.sparsity import Schedule
from pruner.updaters import (
    Adaptation,
    AdaptationOptions,
    Recipe,
    UpdaterContext,
    factory,
    for_comparison,
)
from stream import topics
from stream.batch import ClickBatch
from stream.columnar import predictions_from_bytes
from stream.messages import PredictionBatch
from stream.spec import RunSpec
from stream.state import Checkpoints
from tests.learner.test_dense import flipped_from
from tests.pruner.nets import clicks, job, learn, ripe
from tests.pruner.worlds import BATCH, CONFIG, RUN, SCHEMA, World, build, first_mask, stream

STEPS, TARGET = 20, 0.8
WEIGHTS = 12 * 32 + 32 * 32 + 32
AUX, MOP = (
    ComparisonConfig(updater="adaptation"),
    ComparisonConfig(updater="adaptation", criterion="mop"),
)


def adaptation(
    model: OnlineModel, every: int = 1, options: AdaptationOptions | None = None
) -> Adaptation:
    recipe = Recipe(Aux(), Schedule(every_steps=every), sparsity=TARGET, steps=STEPS)
    context = UpdaterContext(model, recipe, RunSpec.small(), np.random.default_rng(0))
    return Adaptation(options or AdaptationOptions(), context)


def kept(masks: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def after_the_phase(every: int = 1) -> tuple[OnlineModel, Adaptation, np.ndarray]:
    """Prune a model, and continue with its state; return the sums of importances by hand too."""
    running, total = job(Aux(), STEPS), np.zeros(WEIGHTS)
    for batch in clicks(STEPS, seed=2):
        total += importances(running.model, batch)
        running.learn(batch)
    updater = adaptation(running.model, every)
    updater.load(running.phase.state())
    return running.model, updater, total


def importances(model: OnlineModel, batch: ClickBatch) -> np.ndarray:
    """Weigh each weight by the formula of the paper, in float64, before the batch is learned."""
    found = []
    gradients = model.gradients(batch)
    for name in model.prunable:
        theta, gradient = model.theta(name).double().numpy(), gradients[name].double().numpy()
        pull, size = np.abs(gradient * theta), np.abs(theta)
        found.append((0.5 * pull / pull.mean() + 0.5 * size / size.mean()).ravel())
    return np.concatenate(found)


@pytest.mark.parametrize("every", [1, 5])
def test_it_keeps_the_weights_of_the_highest_a_exactly_as_many_as_asked(every: int) -> None:
    model, updater, total = after_the_phase(every)
    moved = 0
    for number, batch in enumerate(clicks(30, seed=7), start=1):
        before = {name: mask.clone() for name, mask in model.masks.items()}
        total += importances(model, batch)
        learn(model, updater, batch)
        changed = any(not torch.equal(before[name], mask) for name, mask in model.masks.items())
        moved += changed
        if number % every:
            assert not changed
            continue
        mask = np.concatenate([model.masks[name].numpy().ravel() for name in model.prunable])
        assert mask.sum() == WEIGHTS - round(TARGET * WEIGHTS)
        # a = T0 + total - λ t, the same T0 and λ for all, so ranking by a is ranking by the total.
        assert total[mask].min() >= total[~mask].max() - 1e-3
    assert moved > 20 // every


def test_importances_by_hand_are_those_of_the_criterion() -> None:
    model, batch = ripe(), clicks(1)[0]
    layers = layers_of(model)
    gradients = model.gradients(batch)
    found = [
        importance(replace(one, gradient=gradients[name])).flatten() for name, one in layers.items()
    ]
    np.testing.assert_allclose(torch.cat(found).numpy(), importances(model, batch), rtol=1e-4)


def test_pruned_weights_come_back_with_the_values_that_they_had() -> None:
    model, updater, _ = after_the_phase()
    back = 0
    for batch in clicks(30, seed=7):
        pruned = {name: ~mask for name, mask in model.masks.items()}
        theta = {name: model.theta(name) for name in model.prunable}
        learn(model, updater, batch)
        for name, mask in model.masks.items():
            returned = pruned[name] & mask
            back += int(returned.sum())
            weight = model.module.get_parameter(f"{name}.weight")
            assert torch.equal(weight[returned], theta[name][returned])
    assert back > 10


@pytest.mark.parametrize("state", [{}, {"step": torch.tensor(3)}, "mop", "shape"])
def test_without_a_state_that_fits_the_mask_stays_for_as_long_as_a_prune_phase(
    state: Any,
) -> None:
    model, updater, _ = after_the_phase()
    if state == "mop":
        state = {n.replace("aux/", "mop/"): t for n, t in updater.state().items()}
    if state == "shape":
        state = {n: t if t.ndim == 0 else t[:1] for n, t in updater.state().items()}
    updater.load(state)
    before = {name: mask.clone() for name, mask in model.masks.items()}
    for number, batch in enumerate(clicks(STEPS, seed=7), start=1):
        stays = all(torch.equal(before[name], mask) for name, mask in model.masks.items())
        assert stays == (number <= STEPS)
        learn(model, updater, batch)
    assert not all(torch.equal(before[name], mask) for name, mask in model.masks.items())
    assert kept(model.masks) == WEIGHTS - round(TARGET * WEIGHTS)


def test_a_state_that_fits_continues_bit_for_bit() -> None:
    model, updater, _ = after_the_phase()
    stream = clicks(12, seed=7)
    for batch in stream[:6]:
        learn(model, updater, batch)
    twin = deepcopy(model)
    other = adaptation(twin)
    other.load(updater.state())
    for batch in stream[6:]:
        learn(model, updater, batch)
        learn(twin, other, batch)
    assert all(torch.equal(twin.state()[name], t) for name, t in model.state().items())
    assert all(torch.equal(other.state()[name], t) for name, t in updater.state().items())


def test_how_often_it_selects() -> None:
    """AUX as often as a prune phase, MoP once a window, and whatever is asked for."""
    spec = RunSpec.small(batch_events=10, window_events=200, prune_events=100)
    pruner = PrunerConfig(regime="d2s", update_batches=3)

    def batches(**config: Any) -> int:
        asked = ComparisonConfig.model_validate({"updater": "adaptation", **config})
        updater = for_comparison(asked, pruner, ripe(), spec, [1])
        assert isinstance(updater, Adaptation)
        return updater._every

    assert batches() == 3
    assert batches(criterion="mop") == 20
    assert batches(options={"every_events": 70}) == 7
    with pytest.raises(ValueError, match="every_events = 75 is not a multiple of the batch, 10"):
        batches(options={"every_events": 75})


def test_a_comparison_without_a_criterion_has_the_pruners() -> None:
    pruner = PrunerConfig(regime="d2s", options={"w1": 1.0, "w2": 0.0})

    def options(**config: Any) -> AuxOptions:
        asked = ComparisonConfig.model_validate({"updater": "adaptation", **config})
        updater = for_comparison(asked, pruner, ripe(), RunSpec.small(), [1])
        assert isinstance(updater, Adaptation)
        criterion = updater._recipe.criterion
        assert isinstance(criterion, Aux)
        return criterion.options

    assert options().w1 == 1.0
    assert options(criterion_options={"w1": 0.25}) == AuxOptions(w1=0.25)
    assert options(criterion="aux") == AuxOptions()


def test_unknown_updaters_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown updater 'grafting'; known: adaptation, fixed"):
        factory("grafting", {})
    with pytest.raises(ValueError, match="every_batches"):
        factory("adaptation", {"every_batches": 3})
    with pytest.raises(ValueError, match="every_events"):
        factory("fixed", {"every_events": 3})


# In a run: a comparison beside the others, from the first promoted candidate on.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose first mask was promoted at 600, and whose input ends at 1600."""
    return first_mask(tmp_path_factory.mktemp("served"), end=True)


def copied(world: World, folder: Path) -> World:
    shutil.copytree(world.folder, folder)
    return World(folder)


@contextmanager
def comparison(world: World, config: ComparisonConfig) -> Iterator[StreamTrainer]:
    """Open the trainer of a comparison, as a process does, and kill it."""
    with (
        closing(world.home.reader(topics.CLICKS)) as reader,
        closing(world.home.reader(topics.LEDGER)) as ledger,
        closing(world.home.writer(topics.predictions("adapting"))) as writer,
    ):
        end = InputEnd(reader, world.snapshots, SCHEMA)
        source = FirstMaskSource(LedgerMaskSource(ledger, RUN, end.total))
        checkpoints = Checkpoints(world.folder / "state" / "adapting")
        ports = Ports("adapting", reader, writer, checkpoints, world.snapshots)
        online = build()
        updater = for_comparison(config, CONFIG, online, RUN, [3, 1])
        yield StreamTrainer(online, ports, RUN, updater, source)


def live(world: World, config: ComparisonConfig, steps: int = 1000) -> LearnerStep:
    step = LearnerStep(0)
    with comparison(world, config) as trainer:
        for _ in range(steps):
            step = trainer.step()
            if step.done:
                break
    return step


def predicted(world: World) -> dict[int, PredictionBatch]:
    """Read what it published by the count it begins at; repeats must have the same bytes."""
    found: dict[int, bytes] = {}
    for value in world.values(topics.predictions("adapting")):
        begin = predictions_from_bytes(value).begin
        assert found.setdefault(begin, value) == value
    return {begin: predictions_from_bytes(value) for begin, value in found.items()}


def last(world: World) -> dict[str, Tensor]:
    return world.snapshots.read(world.snapshots.names("adapting")[-1]).tensors


@pytest.mark.parametrize("config", [AUX, MOP], ids=["aux", "mop"])
def test_it_begins_as_the_first_version_and_its_mask_moves(
    served: World, tmp_path: Path, config: ComparisonConfig
) -> None:
    world = copied(served, tmp_path / "world")
    (verdict,) = world.verdicts()
    first = masks_of(world.snapshots.read(str(verdict.snapshot)))
    assert live(world, config).count == 1600
    assert sorted(predicted(world)) == list(range(600, 1600, BATCH))
    state = world.snapshots.read(world.snapshots.names("adapting")[-1])
    now = masks_of(state)
    assert any(not torch.equal(first[name], mask) for name, mask in now.items())
    assert sparsity(now) == sparsity(first)
    assert kept(now) == kept(first)
    assert any(name.startswith("updater.") for name in state.tensors)


def test_the_aux_state_of_the_candidate_is_what_it_continues_from(
    served: World, tmp_path: Path
) -> None:
    world = copied(served, tmp_path / "aux")
    (verdict,) = world.verdicts()
    left = world.snapshots.read(str(verdict.snapshot)).tensors
    assert int(left["updater.step"]) == CONFIG.prune_events // BATCH
    with comparison(world, AUX) as trainer:
        assert trainer.step() == LearnerStep(600)
        state = trainer.updater.state()
        assert {UPDATER + name for name in state} == {n for n in left if n.startswith(UPDATER)}
        assert all(torch.equal(left[UPDATER + name], tensor) for name, tensor in state.items())
        trainer.step()
        assert int(trainer.updater.state()["step"]) == CONFIG.prune_events // BATCH + 1
    with comparison(copied(served, tmp_path / "mop"), MOP) as trainer:
        trainer.step()
        assert int(trainer.updater.state()["step"]) == 0


@pytest.mark.parametrize("config", [AUX, MOP], ids=["aux", "mop"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_killed_again_and_again_it_ends_with_the_same_bits(
    served: World, tmp_path: Path, config: ComparisonConfig, size: int
) -> None:
    whole, broken = copied(served, tmp_path / "whole"), copied(served, tmp_path / "broken")
    live(whole, config)
    for steps in (1, size, 9, size + 1, 2, size + 6):
        live(broken, config, steps)
    assert live(broken, config).done
    ours, theirs = predicted(broken), predicted(whole)
    assert {b: p.probability.tobytes() for b, p in ours.items()} == {
        b: p.probability.tobytes() for b, p in theirs.items()
    }
    expected = last(broken)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in last(whole).items())
    assert last(whole).keys() == expected.keys()


@pytest.mark.parametrize("position", [613, 800, 1099])
def test_flipping_all_labels_from_an_event_on_changes_no_prediction_up_to_its_batch(
    served: World, tmp_path: Path, position: int
) -> None:
    parts = flipped_from(stream(1600), position)
    other = first_mask(tmp_path / "other", end=True, parts=parts)
    for name, config in {"aux": AUX, "mop": MOP}.items():
        honest = copied(served, tmp_path / f"honest-{name}")
        flipped = copied(other, tmp_path / f"flipped-{name}")
        live(honest, config)
        live(flipped, config)
        one, two = predicted(honest), predicted(flipped)
        end = (position // BATCH + 1) * BATCH
        assert one.keys() == two.keys() == set(range(600, 1600, BATCH))
        for begin, batch in one.items():
            same = np.array_equal(batch.probability, two[begin].probability)
            assert same == (begin < end)
