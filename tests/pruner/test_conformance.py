from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor

from pruner import criteria
from pruner.conformance import CHECKS, check
from pruner.criteria.aux import Aux, AuxOptions
from pruner.criteria.wanda import Wanda, WandaOptions
from pruner.criterion import Claim, Criterion, State, Stateless
from pruner.evidence import Evidence, Need
from pruner.sparsity import Phase

GOOD: dict[str, Criterion] = {name: criteria.build(name) for name in criteria.BUILT_IN} | {
    "aux, fixed": Aux(AuxOptions(penalty=1.5)),
    "aux, held": Aux(AuxOptions(solve_batches=3)),
    "aux, sum": Aux(AuxOptions(norm="layer_sum")),
    "aux, global": Aux(AuxOptions(norm="global_mean", penalty=1.2)),
    "aux, literal": Aux(AuxOptions(literal=True)),
    "aux, clamped": Aux(AuxOptions(penalty=1.2, start=1.0, clamp=2.0)),
    "wanda, rows": Wanda(WandaOptions(rows=True)),
    "wanda, forgetful": Wanda(WandaOptions(decay=0.5)),
    "wanda of a batch": Stateless(
        "wanda",
        lambda layer: layer.weight.abs() * layer.need(Need.INPUT_SQ).sqrt(),
        frozenset({Need.INPUT_SQ}),
        frozenset(Claim),
    ),
}


@pytest.mark.parametrize("criterion", GOOD.values(), ids=GOOD)
def test_good_criteria_pass_everything(criterion: Criterion) -> None:
    results = check(criterion)
    assert [result for result in results if not result.passed] == []
    unclaimed = len(Claim) - len(criterion.claims)
    assert len(results) == len(CHECKS) - unclaimed


def caught(criterion: Criterion) -> dict[str, str]:
    return {result.name: result.detail for result in check(criterion) if not result.passed}


def stateless(function: Callable[[Evidence], Tensor], *claims: Claim) -> Stateless:
    return Stateless("broken", function, frozenset(), frozenset(claims))


def spoils_the_weight(layer: Evidence) -> Tensor:
    layer.weight.mul_(2)
    return layer.weight.abs()


def wants_what_it_does_not_name(layer: Evidence) -> Tensor:
    return layer.need(Need.GRADIENT)


@pytest.mark.parametrize(
    ("criterion", "name", "detail"),
    [
        (stateless(lambda x: x.weight.abs().mT), "shape_and_dtype", "scores are torch.float32 of"),
        (stateless(lambda x: x.weight.abs().double()), "shape_and_dtype", "scores are torch.float"),
        (stateless(lambda x: x.weight.abs().log()), "finite", "scores of 'bottom' hold -inf"),
        (stateless(lambda x: x.weight / x.weight.norm()), "finite", "scores of 'bottom' hold nan"),
        (stateless(spoils_the_weight), "inputs_unchanged", "the evidence is changed: weight"),
        (stateless(lambda x: torch.rand_like(x.weight)), "deterministic", "they differ: bottom"),
        (stateless(wants_what_it_does_not_name), "finite", "ValueError: evidence 'gradient' was"),
        (stateless(lambda x: x.weight, Claim.NON_NEGATIVE), "non_negative", "a score is -"),
        (stateless(lambda x: x.weight, Claim.SIGN_IGNORED), "sign_ignored", "they differ: bottom"),
    ],
)
def test_a_broken_function_is_caught(criterion: Criterion, name: str, detail: str) -> None:
    assert caught(criterion)[name].startswith(detail)


class ChangesItsStateInScore(Aux):
    def score(self, state: State, layer: Evidence) -> Tensor:
        state["steps"] += 1
        return super().score(state, layer)


class RemembersOutsideItsState(Aux):
    counter = count()

    def score(self, state: State, layer: Evidence) -> Tensor:
        del layer
        return state["total"] * (1 + next(self.counter))


@dataclass(frozen=True)
class KeepsItsMemoryInItself:
    seen: dict[str, int]

    name = "forgetful"
    needs = frozenset[Need]()
    claims = frozenset[Claim]()

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        del layer, rng
        self.seen["batches"] = 0
        return {}

    def observe(self, state: State, layer: Evidence) -> State:
        del layer
        self.seen["batches"] += 1
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        del state
        return layer.weight.abs() + self.seen["batches"]


class EmptiesALayer(Aux):
    def select(
        self, states: Mapping[str, State], layers: Mapping[str, Evidence], phase: Phase
    ) -> dict[str, Tensor]:
        masks = super().select(states, layers, phase)
        return masks | {"top": masks["top"].float()}


class ClaimsToForget(Aux):
    claims = frozenset({Claim.STATELESS})


@pytest.mark.parametrize(
    ("criterion", "name", "detail"),
    [
        (ChangesItsStateInScore(), "inputs_unchanged", "scoring changes the state: steps"),
        (RemembersOutsideItsState(), "deterministic", "they differ: bottom, logit, top"),
        (KeepsItsMemoryInItself({}), "survives_a_checkpoint", "they differ"),
        (EmptiesALayer(), "exact_sparsity", "CriterionFailedError: criterion 'aux' failed at"),
        (ClaimsToForget(), "stateless", "they differ: bottom, logit, top"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_class_is_caught(criterion: Criterion, name: str, detail: str) -> None:
    assert caught(criterion)[name].startswith(detail)


def test_what_is_not_claimed_is_not_checked() -> None:
    names = {result.name for result in check(stateless(lambda x: x.weight))}
    assert not names & {claim.value for claim in Claim}
