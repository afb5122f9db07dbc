from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pruner import criteria
from pruner.criteria.snip_momentum import SnipMomentum, SnipMomentumOptions
from pruner.criterion import State
from pruner.evidence import Evidence
from tests.pruner.nets import random_evidence

SHAPE = (4, 6)


def evidence(seed: int) -> Evidence:
    return random_evidence({"one": SHAPE}, seed)["one"]


def observed(snip: SnipMomentum, stream: list[Evidence]) -> State:
    state = snip.init(stream[0], np.random.default_rng(0))
    for layer in stream:
        state = snip.observe(state, layer)
    return state


@pytest.mark.parametrize("decay", [0.9, 0.5, 0.0])
def test_the_score_is_a_decaying_sum_of_sensitivities(decay: float) -> None:
    """In float64, as the sum that the recursion unrolls to."""
    stream = [evidence(seed) for seed in range(30)]
    expected = np.zeros(SHAPE)
    for age, layer in enumerate(reversed(stream)):
        assert layer.gradient is not None
        sensitivity = layer.gradient.double().numpy() * layer.weight.double().numpy()
        expected += decay**age * np.abs(sensitivity)
    snip = SnipMomentum(SnipMomentumOptions(decay=decay))
    score = snip.score(observed(snip, stream), stream[-1])
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-5)


def test_the_default_is_nine_tenths() -> None:
    layer = Evidence(torch.ones(1, 1), torch.ones(1, 1))
    assert observed(SnipMomentum(), [layer] * 3)["total"].item() == pytest.approx(1 + 0.9 + 0.81)


def test_a_pruned_weight_gathers_evidence_like_any_other() -> None:
    layer = evidence(0)
    masked = Evidence(layer.weight, layer.gradient, mask=layer.weight > 0)
    states = [observed(SnipMomentum(), [one])["total"] for one in (layer, masked)]
    assert torch.equal(*states)


@pytest.mark.parametrize("option", [{"decay": 1.0}, {"decay": -0.1}, {"beta": 0.9}])
def test_an_impossible_option_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(option))):
        criteria.build("snip_momentum", option)
