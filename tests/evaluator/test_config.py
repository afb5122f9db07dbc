from __future__ import annotations

import pytest
from pydantic import ValidationError

from evaluator.config import EvaluatorConfig


@pytest.mark.parametrize("models", [(), ("sparse",), ("sparse", "dense"), ("dense", "dense")])
def test_dense_comes_first_and_each_model_once(models: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="name dense first and each once"):
        EvaluatorConfig(models=models)


@pytest.mark.parametrize("windows", [(), (500, 500)])
def test_each_window_size_is_named_once(windows: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="name at least one size and each once"):
        EvaluatorConfig(windows=windows)


def test_a_window_holds_at_least_one_event() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        EvaluatorConfig(windows=(0,))


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        EvaluatorConfig.model_validate({"window": (500,)})
