from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from pruner import criteria
from pruner.criteria.wanda import Wanda, WandaOptions
from pruner.criterion import State
from pruner.evidence import Evidence
from pruner.sparsity import keep_exactly
from tests.pruner.nets import clicks, job, random_evidence

SHAPE = (4, 6)


def evidence(seed: int) -> Evidence:
    return random_evidence({"one": SHAPE}, seed)["one"]


def squares(layer: Evidence) -> NDArray[np.float64]:
    assert layer.input_sq is not None
    found: NDArray[np.float64] = layer.input_sq.double().numpy()
    return found


def size(layer: Evidence) -> NDArray[np.float64]:
    found: NDArray[np.float64] = layer.weight.abs().double().numpy()
    return found


def observed(wanda: Wanda, stream: list[Evidence]) -> State:
    state = wanda.init(stream[0], np.random.default_rng(0))
    for layer in stream:
        state = wanda.observe(state, layer)
    return state


def test_the_score_is_the_size_times_the_root_of_the_mean_square_of_the_input() -> None:
    stream = [evidence(seed) for seed in range(20)]
    mean = np.mean([squares(layer) for layer in stream], axis=0)
    score = Wanda().score(observed(Wanda(), stream), stream[-1])
    np.testing.assert_allclose(score.numpy(), size(stream[-1]) * np.sqrt(mean), rtol=1e-5)


def test_it_is_the_norm_of_what_a_weight_passes_on_in_a_model() -> None:
    """Inputs of the last layer recomputed from the module, event by event, in float64."""
    running = job(Wanda(), steps=5, sparsity=0.0)
    net = running.model.module.get_submodule("top")
    assert isinstance(net, nn.Sequential)
    passed: list[NDArray[np.float64]] = []
    for batch in clicks(5, seed=2):
        x = batch.numeric.astype(np.float64)
        for index in (0, 2):
            weight, bias = (
                net[index].get_parameter(name).detach().double().numpy()
                for name in ("weight", "bias")
            )
            x = np.maximum(x @ weight.T + bias, 0)
        passed.append(x)
        running.learn(batch)
    theta = running.model.theta("top.4")
    state = running.phase.run.states["top.4"]
    expected = np.linalg.norm(np.concatenate(passed) * theta.double().numpy(), axis=0)
    found = Wanda().score(state, Evidence(theta)).double().numpy()[0]
    np.testing.assert_allclose(found * np.sqrt(5 * 64), expected, rtol=1e-4)
    assert np.count_nonzero(expected) > 20


def test_with_a_decay_old_inputs_are_forgotten() -> None:
    stream = [evidence(seed) for seed in range(12)]
    mean = squares(stream[0])
    for batches, layer in enumerate(stream[1:], start=2):
        share = max(1 / batches, 0.25)
        mean = (1 - share) * mean + share * squares(layer)
    wanda = Wanda(WandaOptions(decay=0.75))
    score = wanda.score(observed(wanda, stream), stream[-1])
    np.testing.assert_allclose(score.numpy(), size(stream[-1]) * np.sqrt(mean), rtol=1e-5)


def test_by_rows_the_best_of_every_output_are_kept() -> None:
    """As the paper selects: a stable sort of every row by itself."""
    layer = evidence(5)
    wanda = Wanda(WandaOptions(rows=True))
    score = wanda.score(observed(wanda, [layer]), layer)
    order = np.argsort(-size(layer) * np.sqrt(squares(layer)), axis=1, kind="stable")
    for allocation in ("global", "uniform"):
        mask = keep_exactly({"one": score}, 0.5, allocation)["one"].numpy()
        expected = np.zeros(SHAPE, dtype=bool)
        np.put_along_axis(expected, order[:, :3], True, axis=1)
        np.testing.assert_array_equal(mask, expected)
    plain = keep_exactly({"one": Wanda().score(observed(Wanda(), [layer]), layer)}, 0.5)["one"]
    assert len(set(plain.sum(1).tolist())) > 1


def test_by_rows_of_equals_the_earlier_is_higher() -> None:
    layer = Evidence(torch.ones(2, 4), input_sq=torch.ones(4))
    wanda = Wanda(WandaOptions(rows=True))
    assert wanda.score(observed(wanda, [layer]), layer).tolist() == [[1.0, 0.75, 0.5, 0.25]] * 2


def test_a_large_weight_on_a_silent_input_goes_first() -> None:
    layer = Evidence(torch.tensor([[9.0, 1.0]]), input_sq=torch.tensor([0.0, 1.0]))
    assert Wanda().score(observed(Wanda(), [layer]), layer).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("option", [{"decay": 1.1}, {"decay": -0.1}, {"row": True}])
def test_an_impossible_option_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(option))):
        criteria.build("wanda", option)
