from __future__ import annotations

import re
from typing import get_args

import pytest
from pydantic import ValidationError

from pruner.config import PrunerConfig, StoreConfig, TriggerConfig
from pruner.criteria import BUILT_IN
from pruner.sparsity import ALLOCATIONS, SHAPES
from resprout.settings import descriptions


@pytest.mark.parametrize("sparsity", [1.2, 1.0, -0.1, float("nan")])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity: float) -> None:
    with pytest.raises(ValidationError, match="sparsity"):
        PrunerConfig(sparsity=sparsity)


@pytest.mark.parametrize("kind", [PrunerConfig, TriggerConfig, StoreConfig])
def test_an_unknown_key_is_refused(
    kind: type[PrunerConfig] | type[TriggerConfig] | type[StoreConfig],
) -> None:
    with pytest.raises(ValidationError, match="sparsety"):
        kind.model_validate({"sparsety": 0.5})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allocation", "fair"),
        ("schedule", "never"),
        ("selection", "2:4"),
        ("inconclusive", "toss_a_coin"),
    ],
)
def test_a_part_of_pruning_that_does_not_exist_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValidationError, match=key):
        PrunerConfig.model_validate({key: value})


def test_allocations_and_schedules_of_the_settings_are_those_that_there_are() -> None:
    fields = PrunerConfig.model_fields
    assert set(get_args(fields["allocation"].annotation)) == ALLOCATIONS.keys()
    assert set(get_args(fields["schedule"].annotation)) == SHAPES.keys()


def test_the_criteria_that_are_described_are_those_that_there_are() -> None:
    (described,) = (one.text for one in descriptions() if one.name == "pruner.criterion")
    assert re.findall(r"`(\w+)`", described) == sorted(BUILT_IN)
