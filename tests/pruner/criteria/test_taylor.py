from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from pruner import criteria
from pruner.criteria.taylor import taylor
from pruner.criteria.taylor_ema import TaylorEma, TaylorEmaOptions
from pruner.criterion import State
from pruner.evidence import Evidence
from tests.pruner.nets import clicks as stream_of
from tests.pruner.nets import job, random_evidence, ripe

SHAPE = (4, 6)


def evidence(seed: int) -> Evidence:
    return random_evidence({"one": SHAPE}, seed)["one"]


def effect(layer: Evidence) -> NDArray[np.float64]:
    assert layer.gradient is not None
    found: NDArray[np.float64] = layer.gradient.double().numpy() * layer.weight.double().numpy()
    return np.abs(found)


def observed(average: TaylorEma, stream: list[Evidence]) -> State:
    state = average.init(stream[0], np.random.default_rng(0))
    for layer in stream:
        state = average.observe(state, layer)
    return state


def test_the_score_of_a_batch_is_weight_times_gradient_without_its_sign() -> None:
    layer = evidence(0)
    np.testing.assert_allclose(taylor(layer).numpy(), effect(layer), rtol=1e-6)


def test_the_score_of_a_weight_is_what_its_removal_costs_to_first_order() -> None:
    """The loss with a hundredth of the weight removed, times a hundred; no gradient is asked."""
    online, batch = ripe(), stream_of(1, seed=3, events=512)[0]
    weight = online.module.get_parameter("top.4.weight")
    layer = Evidence(weight.detach().clone(), online.gradients(batch)["top.4"])
    costs = []
    for column in range(weight.shape[1]):
        with torch.no_grad():
            kept = weight[0, column].clone()
            losses = []
            for factor in (0.99, 1.01):
                weight[0, column] = kept * factor
                chance = np.clip(online.predict(batch), 1e-12, 1 - 1e-12)
                y = batch.label.astype(np.float64)
                losses.append(-np.mean(y * np.log(chance) + (1 - y) * np.log1p(-chance)))
            weight[0, column] = kept
        costs.append(abs(losses[0] - losses[1]) / 0.02)
    found = taylor(layer).double().numpy()[0]
    np.testing.assert_allclose(found, costs, rtol=0.02, atol=1e-4)
    assert found.max() > 20 * 1e-4


@pytest.mark.parametrize("decay", [0.99, 0.5, 0.0])
def test_the_average_is_a_weighted_sum_of_batches_from_zero(decay: float) -> None:
    """In float64, as the sum that the recursion unrolls to."""
    stream = [evidence(seed) for seed in range(30)]
    ages = range(len(stream) - 1, -1, -1)
    expected = sum(
        (1 - decay) * decay**age * effect(one) for age, one in zip(ages, stream, strict=True)
    )
    average = TaylorEma(TaylorEmaOptions(decay=decay))
    score = average.score(observed(average, stream), stream[-1])
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-5)


def test_the_average_without_memory_is_the_score_of_the_batch() -> None:
    stream = [evidence(seed) for seed in range(3)]
    forgetful = TaylorEma(TaylorEmaOptions(decay=0.0))
    assert torch.equal(forgetful.score(observed(forgetful, stream), stream[-1]), taylor(stream[-1]))


def test_the_default_forgets_half_in_69_batches() -> None:
    """A batch is 500 events by default, so in 34 500 events."""
    loud, quiet = evidence(0), Evidence(torch.ones(SHAPE), torch.zeros(SHAPE))
    before, after = (observed(TaylorEma(), [loud, *[quiet] * n])["average"] for n in (0, 69))
    np.testing.assert_allclose((after / before).numpy(), 0.5, atol=0.002)


def test_gradients_of_both_signs_do_not_cancel() -> None:
    weight = torch.ones(1, 2)
    pulls = [torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, 1.0]])]
    score = observed(TaylorEma(), [Evidence(weight, pulls[i % 2]) for i in range(40)])["average"]
    assert score[0, 0] == score[0, 1] > 0


def test_a_pruned_weight_gathers_evidence_like_any_other() -> None:
    layer = evidence(0)
    masked = Evidence(layer.weight, layer.gradient, mask=layer.weight > 0)
    states = [observed(TaylorEma(), [one])["average"] for one in (layer, masked)]
    assert torch.equal(*states)


def test_a_weight_that_was_pruned_comes_back_in_a_model() -> None:
    running = job(TaylorEma(TaylorEmaOptions(decay=0.5)), steps=40)
    pruned: dict[str, torch.Tensor] = {}
    returned = 0
    for batch in stream_of(40, seed=2):
        running.learn(batch)
        for name, mask in running.model.masks.items():
            returned += int((mask & pruned.get(name, torch.zeros_like(mask))).sum())
            pruned[name] = ~mask
    assert returned > 0


@pytest.mark.parametrize("option", [{"decay": 1.0}, {"decay": -0.1}, {"beta": 0.9}])
def test_an_impossible_option_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(option))):
        criteria.build("taylor_ema", option)
