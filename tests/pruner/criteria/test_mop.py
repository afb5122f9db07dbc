from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pruner.criteria.mop import Mop, MopOptions
from pruner.criterion import State
from pruner.evidence import Evidence

SHAPE = (4, 6)


def evidence(seed: int) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    return Evidence(
        torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    )


def observed(mop: Mop, stream: list[Evidence]) -> State:
    state = mop.init(stream[0], np.random.default_rng(0))
    for layer in stream:
        state = mop.observe(state, layer)
    return state


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8), (0.8, 0.2), (0.0, 1.0), (1.0, 0.0)])
def test_the_score_is_the_formula_of_the_paper(weights: tuple[float, float]) -> None:
    w1, w2 = weights
    stream = [evidence(seed) for seed in range(20)]
    average = np.zeros(SHAPE)
    for layer in stream:
        assert layer.gradient is not None
        average = 0.99 * average + 0.01 * layer.gradient.double().numpy()
    theta = np.abs(stream[-1].weight.double().numpy())
    expected = w1 * theta / theta.sum() + w2 * np.abs(average) / np.abs(average).sum()
    mop = Mop(MopOptions(w1=w1, w2=w2))
    score = mop.score(observed(mop, stream), stream[-1])
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-4)
    assert score.sum().item() == pytest.approx(w1 + w2, rel=1e-5)


def test_gradients_of_both_signs_cancel_in_the_average() -> None:
    weight = torch.ones(1, 2)
    pulls = [torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, 1.0]])]
    mop = Mop(MopOptions(w1=0.0, w2=1.0))
    state = observed(mop, [Evidence(weight, pulls[i % 2]) for i in range(400)])
    score = mop.score(state, Evidence(weight, pulls[0]))
    assert score[0, 1] > 50 * score[0, 0]


def test_a_pruned_weight_gathers_its_gradient_like_any_other() -> None:
    layer = evidence(0)
    masked = Evidence(layer.weight, layer.gradient, mask=layer.weight > 0)
    states: list[Tensor] = [observed(Mop(), [one])["average"] for one in (layer, masked)]
    assert torch.equal(*states)


def test_a_layer_without_weights_or_gradients_has_scores_of_zero() -> None:
    dead = Evidence(torch.zeros(SHAPE), torch.zeros(SHAPE))
    assert not Mop().score(observed(Mop(), [dead]), dead).any()


@pytest.mark.parametrize("option", [{"decay": 1.0}, {"w1": -0.1}, {"w2": -1.0}, {"w3": 1.0}])
def test_an_impossible_option_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        MopOptions.model_validate(option)
