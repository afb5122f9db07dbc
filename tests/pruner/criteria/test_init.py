from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pruner import criteria
from pruner.criteria.magnitude import MAGNITUDE
from pruner.criteria.random import Random
from pruner.criterion import Stateless
from pruner.evidence import Evidence
from tests.plugin import install


def test_an_unknown_criterion_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match="unknown criterion 'fisher'; known: aux, fisher_ema, "):
        criteria.build("fisher")


def test_an_option_that_a_criterion_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="lambda"):
        criteria.build("aux", {"lambda": 1.75})
    with pytest.raises(ValidationError, match="decay"):
        criteria.build("magnitude", {"decay": 0.99})


def test_a_function_an_object_and_a_class_can_be_offered() -> None:
    def size(layer: Evidence) -> Tensor:
        return layer.weight.abs()

    assert isinstance(criteria.made("size", size, {}), Stateless)
    assert criteria.made("mine", MAGNITUDE, {}) is MAGNITUDE
    assert criteria.made("mine", Random, {}).name == "random"


def test_a_criterion_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def cube(layer):\n    return layer.weight.abs() ** 3\n"
    install(tmp_path, code, {"resprout.criteria": ("cube = cube",)})
    monkeypatch.syspath_prepend(tmp_path)
    assert criteria.known()["cube"] == "far-away"
    layer = Evidence(torch.tensor([[-2.0]]))
    assert criteria.build("cube").score({}, layer).item() == 8.0
    with pytest.raises(ValueError, match="unknown criterion 'cub'; known: aux, cube, fisher_ema"):
        criteria.build("cub")


def test_all_built_in_criteria_bear_the_name_they_are_found_by() -> None:
    assert all(criteria.build(name).name == name for name in criteria.BUILT_IN)
