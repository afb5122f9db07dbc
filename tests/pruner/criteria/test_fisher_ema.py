from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pruner import criteria
from pruner.criteria.fisher_ema import FisherEma, FisherEmaOptions
from pruner.criterion import State
from pruner.evidence import Evidence
from tests.pruner.nets import random_evidence

SHAPE = (4, 6)


def evidence(seed: int) -> Evidence:
    return random_evidence({"one": SHAPE}, seed)["one"]


def observed(fisher: FisherEma, stream: list[Evidence]) -> State:
    state = fisher.init(stream[0], np.random.default_rng(0))
    for layer in stream:
        state = fisher.observe(state, layer)
    return state


@pytest.mark.parametrize("decay", [0.98, 0.5, 0.0])
def test_the_score_is_the_average_of_squares_from_zero(decay: float) -> None:
    """In float64, as the sum that the recursion unrolls to."""
    stream = [evidence(seed) for seed in range(30)]
    expected = np.zeros(SHAPE)
    for age, layer in enumerate(reversed(stream)):
        assert layer.gradient is not None
        effect = layer.gradient.double().numpy() * layer.weight.double().numpy()
        expected += (1 - decay) * decay**age * effect * effect
    fisher = FisherEma(FisherEmaOptions(decay=decay))
    score = fisher.score(observed(fisher, stream), stream[-1])
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-5)


def test_the_default_forgets_half_in_34_batches() -> None:
    """A batch is 500 events by default, so in 17 000 events."""
    loud, quiet = evidence(0), Evidence(torch.ones(SHAPE), torch.zeros(SHAPE))
    before, after = (observed(FisherEma(), [loud, *[quiet] * n])["average"] for n in (0, 34))
    np.testing.assert_allclose((after / before).numpy(), 0.5, atol=0.005)


def test_gradients_of_both_signs_do_not_cancel() -> None:
    weight = torch.ones(1, 2)
    pulls = [torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, 1.0]])]
    score = observed(FisherEma(), [Evidence(weight, pulls[i % 2]) for i in range(40)])["average"]
    assert score[0, 0] == score[0, 1] > 0


def test_a_pruned_weight_gathers_evidence_like_any_other() -> None:
    layer = evidence(0)
    masked = Evidence(layer.weight, layer.gradient, mask=layer.weight > 0)
    states = [observed(FisherEma(), [one])["average"] for one in (layer, masked)]
    assert torch.equal(*states)


@pytest.mark.parametrize("option", [{"decay": 1.0}, {"decay": -0.1}, {"beta": 0.9}])
def test_an_impossible_option_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(option))):
        criteria.build("fisher_ema", option)
