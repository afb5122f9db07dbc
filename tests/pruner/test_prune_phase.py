from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from learner.snapshots import dump_tensors, load_tensors
from pruner import PrunerConfig, criteria
from pruner.criteria.aux import Aux, AuxOptions
from pruner.criteria.magnitude import MAGNITUDE
from pruner.criterion import Criterion, CriterionFailedError, State, Stateless
from pruner.evidence import Evidence
from pruner.masks import sparsity
from pruner.sparsity import ALLOCATIONS, Phase, Schedule
from pruner.updaters import PrunePhase, Recipe, recipe
from stream.spec import RunSpec
from tests.pruner.nets import random_evidence

SHAPES = {"first": (8, 6), "second": (4, 8), "third": (1, 4)}
WEIGHTS = 8 * 6 + 4 * 8 + 4


def evidence(seed: int) -> dict[str, Evidence]:
    return random_evidence(SHAPES, seed)


def begin(criterion: Criterion, target: float = 0.8, steps: int = 10, every: int = 1) -> PrunePhase:
    how = Recipe(criterion, Schedule(every_steps=every), sparsity=target, steps=steps)
    return PrunePhase(how, evidence(0), np.random.default_rng(0))


def kept(masks: Mapping[str, Tensor] | None) -> int:
    return sum(int(mask.sum()) for mask in (masks or {}).values())


CRITERIA = [*(criteria.build(name) for name in criteria.BUILT_IN), Aux(AuxOptions(penalty=1.5))]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: repr(c)[:30])
@pytest.mark.parametrize("target", [0.0, 0.5, 0.8, 0.9, 0.999])
def test_at_the_freeze_the_number_of_weights_kept_is_exact(
    criterion: Criterion, target: float
) -> None:
    pruning = begin(criterion, target)
    masks = None
    for step in range(10):
        masks = pruning.masks_after(evidence(step))
    assert kept(masks) == max(3, WEIGHTS - round(target * WEIGHTS))


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: repr(c)[:30])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_layer_is_ever_empty(criterion: Criterion, allocation: str) -> None:
    how = Recipe(criterion, Schedule(), allocation, sparsity=0.999, steps=10)
    pruning = PrunePhase(how, evidence(0), np.random.default_rng(0))
    for step in range(10):
        masks = pruning.masks_after(evidence(step)) or {}
        assert all(mask.any() for mask in masks.values())


def test_a_ramp_prunes_step_by_step() -> None:
    pruning = begin(MAGNITUDE, target=0.8, steps=4)
    found = [sparsity(pruning.masks_after(evidence(0)) or {}) for _ in range(4)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.5 / WEIGHTS)


def test_between_the_steps_of_the_schedule_the_mask_stays() -> None:
    pruning = begin(Aux(), steps=10, every=4)
    changed = [pruning.masks_after(evidence(step)) is not None for step in range(10)]
    assert changed == [False, False, False, True, False, False, False, True, False, True]


def test_after_the_freeze_there_is_nothing_to_observe() -> None:
    pruning = begin(MAGNITUDE, steps=1)
    pruning.masks_after(evidence(0))
    with pytest.raises(ValueError, match="the mask is frozen since step 1"):
        pruning.masks_after(evidence(1))


def test_averages_over_all_layers_are_gathered_for_those_who_need_them() -> None:
    pruning = begin(Aux(AuxOptions(norm="global_mean")), steps=1)
    assert kept(pruning.masks_after(evidence(0))) == WEIGHTS - round(0.8 * WEIGHTS)


@pytest.mark.parametrize("name", criteria.BUILT_IN)
def test_it_goes_on_from_a_state_as_if_nothing_had_happened(name: str) -> None:
    through, resumed = begin(criteria.build(name)), begin(criteria.build(name))
    for step in range(5):
        through.masks_after(evidence(step))
        resumed.masks_after(evidence(step))
    fresh = PrunePhase(resumed.recipe, evidence(7), np.random.default_rng(9))
    fresh.load(load_tensors(dump_tensors(resumed.state())))
    assert fresh.run.step == 5
    for step in range(5, 10):
        a, b = through.masks_after(evidence(step)) or {}, fresh.masks_after(evidence(step)) or {}
        assert all(torch.equal(a[layer], b[layer]) for layer in SHAPES)


def explode(layer: Evidence) -> Tensor:
    raise ZeroDivisionError(f"layer of {layer.weight.numel()} weights")


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (explode, "failed at batch 1: ZeroDivisionError: layer of 48 weights"),
        (lambda layer: layer.weight[:1], r"scores of 'first' have shape \(1, 6\), its weights"),
        (lambda layer: layer.weight / 0, "scores of 'first' are not all finite"),
    ],
)
def test_whatever_a_criterion_does_wrong_is_its_failure(function: type[Tensor], fault: str) -> None:
    pruning = begin(Stateless("broken", function))
    with pytest.raises(CriterionFailedError, match=fault):
        pruning.masks_after(evidence(0))


def test_a_criterion_that_raises_at_the_start_has_failed_too() -> None:
    @dataclass(frozen=True)
    class Stillborn(Aux):
        def init(self, layer: Evidence, rng: np.random.Generator) -> State:
            raise KeyError("fisher")

    with pytest.raises(CriterionFailedError, match=r"'aux' failed at batch 0: KeyError: 'fisher'"):
        begin(Stillborn())


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (None, "mask of 'first' is None"),
        (torch.ones(8, 6), r"mask of 'first' is torch\.float32 of shape \(8, 6\)"),
        (torch.ones(6, 8, dtype=torch.bool), r"mask of 'first' is torch\.bool of shape \(6, 8\)"),
    ],
)
def test_a_learned_mask_that_does_not_fit_is_a_failure(mask: Tensor | None, fault: str) -> None:
    class Masked(Aux):
        def select(
            self, states: Mapping[str, State], layers: Mapping[str, Evidence], phase: Phase
        ) -> dict[str, Tensor]:
            masks = super().select(states, layers, phase)
            del masks["first"]
            return masks if mask is None else {**masks, "first": mask}

    with pytest.raises(CriterionFailedError, match=fault):
        begin(Masked()).masks_after(evidence(0))


def test_a_learned_mask_of_no_layer_is_a_failure() -> None:
    class Strayed(Aux):
        def select(
            self, states: Mapping[str, State], layers: Mapping[str, Evidence], phase: Phase
        ) -> dict[str, Tensor]:
            return super().select(states, layers, phase) | {"fourth": torch.ones(1) > 0}

    with pytest.raises(CriterionFailedError, match="there are no layers fourth to mask"):
        begin(Strayed()).masks_after(evidence(0))


def test_a_recipe_of_unknown_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown criterion 'fisher'"):
        recipe(PrunerConfig(criterion="fisher"), RunSpec.small())
    with pytest.raises(ValidationError, match="penality"):
        recipe(PrunerConfig(regime="d2s", options={"penality": 1.0}), RunSpec.small())


def test_a_recipe_reads_the_configuration() -> None:
    config = PrunerConfig(
        regime="d2s", schedule="cubic", ramp_ratio=0.2, update_batches=3, sparsity=0.9
    )
    found = recipe(config, RunSpec.small(batch_events=1_000, prune_events=100_000))
    assert found.schedule == Schedule("cubic", 0.2, 3)
    assert (found.sparsity, found.steps, found.criterion.name) == (0.9, 100, "aux")
