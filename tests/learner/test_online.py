from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from learner import LearnerConfig, OnlineModel
from stream.batch import ClickBatch
from tests.learner.worlds import batches, masks_for, model

CONFIG = LearnerConfig(rate=0.02, embedding_rate=0.05, first_order_rate=0.1)


def weighted_loss(module: nn.Module, clicks: ClickBatch) -> Tensor:
    """The loss of the definition, in the precision of the module."""
    kind = next(module.parameters()).dtype
    logits = module(torch.tensor(clicks.numeric, dtype=kind), torch.tensor(clicks.categorical))
    label, weight = torch.tensor(clicks.label, dtype=kind), torch.tensor(clicks.weight, dtype=kind)
    each = functional.softplus(logits) - label * logits
    total: Tensor = (weight * each).sum() / weight.sum()
    return total


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Equal bit for bit, the sign of zero included."""
    return first.keys() == second.keys() and all(
        first[name].numpy().tobytes() == second[name].numpy().tobytes() for name in first
    )


def test_learning_equals_adagrad_of_torch_on_the_plain_module() -> None:
    online = model(config=CONFIG)
    plain = deepcopy(online.module)
    for table in plain.modules():
        if isinstance(table, nn.Embedding):
            table.sparse = False
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in plain.named_parameters():
        groups.setdefault(online.optimiser.rates[name], []).append(parameter)
    oracle = torch.optim.Adagrad(
        [{"params": parameters, "lr": rate} for rate, parameters in groups.items()], eps=1e-10
    )
    for clicks in batches(20):
        online.learn(clicks)
        oracle.zero_grad()
        torch.autograd.backward(weighted_loss(plain, clicks))
        oracle.step()
    assert len(groups) == 3
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(online.state()[name], tensor, rtol=1e-5, atol=2e-6)


def test_learning_lowers_the_loss() -> None:
    online, unseen = model(config=CONFIG), batches(1, n=4000, seed=1)[0]
    before = float(weighted_loss(online.module, unseen).detach())
    for clicks in batches(400):
        online.learn(clicks)
    assert float(weighted_loss(online.module, unseen).detach()) < before - 0.05


def test_predictions_are_the_sigmoid_of_the_logits_in_float64() -> None:
    online, clicks = model(), batches(1)[0]
    probability = online.predict(clicks)
    logits = online.module(torch.tensor(clicks.numeric), torch.tensor(clicks.categorical))
    expected = 1 / (1 + np.exp(-logits.detach().numpy().astype(np.float64)))
    assert probability.dtype == np.float64
    np.testing.assert_allclose(probability, expected, rtol=1e-14)


def test_no_prediction_is_certain() -> None:
    """A certain one that is wrong would cost an infinite loss."""
    for logit in (-1e4, 1e4):
        online = model(config=CONFIG)
        last = online.prunable[-1]
        with torch.no_grad():
            online.module.get_parameter(f"{last}.weight").zero_()
            online.module.get_parameter(f"{last}.bias").fill_(logit)
        likely = online.predict(batches(1)[0])
        assert 0 < likely.min() <= likely.max() < 1
        assert np.isfinite(np.log([likely, 1 - likely])).all()


def test_predictions_depend_on_no_label() -> None:
    online, clicks = model(), batches(1)[0]
    flipped = replace(clicks, label=1 - clicks.label)
    assert np.array_equal(online.predict(clicks), online.predict(flipped))
    assert np.array_equal(online.predict(clicks), online.forward(flipped).probability)


def test_one_pass_for_both_learns_what_learning_alone_learns() -> None:
    one, two = model(), model()
    for clicks in batches(5):
        one.learn(clicks)
        ahead = two.forward(clicks)
        assert np.array_equal(ahead.probability, two.predict(clicks))
        two.learn_from(ahead)
    assert same(one.state(), two.state())


@pytest.mark.parametrize("change", ["learn", "set_masks", "load"])
def test_a_prediction_of_another_time_cannot_be_learned_from(change: str) -> None:
    online = model()
    first, second = batches(2)
    ahead = online.forward(first)
    {
        "learn": lambda: online.learn(second),
        "set_masks": lambda: online.set_masks({}),
        "load": lambda: online.load(online.state()),
    }[change]()
    with pytest.raises(ValueError, match="after 0 changes of the model, which has changed 1 times"):
        online.learn_from(ahead)


def test_a_masked_weight_is_zero_and_its_theta_stands_still() -> None:
    online, stream = model(), batches(20)
    for clicks in stream[:5]:
        online.learn(clicks)
    before = {name: online.theta(name) for name in online.prunable}
    masks = masks_for(online)
    online.set_masks(masks)
    for clicks in stream[5:]:
        online.learn(clicks)
    for name, mask in masks.items():
        weight = online.state()[f"{name}.weight"]
        assert torch.count_nonzero(weight[~mask]) == 0
        assert torch.equal(online.theta(name)[~mask], before[name][~mask])
        assert torch.equal(online.theta(name)[mask], weight[mask])
    assert not torch.equal(online.theta("top.0"), before["top.0"])


def test_a_weight_that_comes_back_has_the_value_it_had() -> None:
    online = model()
    with torch.no_grad():
        online.module.get_parameter("top.0.weight")[0, 0] = -0.0
    before = online.state()
    online.set_masks(masks_for(online, seed=1))
    online.set_masks(masks_for(online, seed=2))
    online.set_masks({})
    assert same(online.state(), before)


def test_a_layer_without_a_mask_is_whole() -> None:
    online = model()
    masks = masks_for(online)
    online.set_masks(masks)
    online.set_masks({"top.0": masks["top.0"]})
    assert list(online.masks) == ["top.0"]
    assert torch.equal(online.theta("top.2"), model().theta("top.2"))
    assert torch.count_nonzero(online.state()["top.2.weight"]) == 48


def test_the_masks_are_the_models_own() -> None:
    online = model()
    masks = masks_for(online)
    online.set_masks(masks)
    masks["top.0"].fill_(True)
    assert not online.masks["top.0"].all()


def test_observers_see_the_gradient_of_the_effective_weight_even_where_it_is_cut() -> None:
    online, clicks = model(), batches(1, n=64)[0]
    online.set_masks(masks_for(online, kept=0.7))
    seen: dict[str, Tensor] = {}
    twin = deepcopy(online)
    twin.learn(clicks, lambda found: seen.update({n: g.clone() for n, g in found.items()}))
    double = deepcopy(online.module).double()
    assert torch.count_nonzero(seen["top.0"][~online.masks["top.0"]]) > 10
    for name in online.prunable:
        weight = double.get_parameter(f"{name}.weight").data
        for place in [(0, 0), (0, 1), (0, 2), (0, 3)]:
            if place[1] < weight.shape[1]:
                expected = slope(double, weight, place, clicks)
                assert float(seen[name][place]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def slope(module: nn.Module, weight: Tensor, place: tuple[int, int], clicks: ClickBatch) -> float:
    """The central difference of the loss, in float64."""
    start, losses = weight[place].item(), []
    for step in (1e-5, -1e-5):
        weight[place] = start + step
        losses.append(float(weighted_loss(module, clicks).detach()))
    weight[place] = start
    return (losses[0] - losses[1]) / 2e-5


def test_the_accumulator_of_a_cut_weight_stands_still() -> None:
    online, stream = model(), batches(6)
    online.learn(stream[0])
    masks = masks_for(online)
    online.set_masks(masks)
    before = online.accumulator("top.0").clone()
    for clicks in stream[1:]:
        online.learn(clicks)
    after = online.accumulator("top.0")
    assert torch.equal(after[~masks["top.0"]], before[~masks["top.0"]])
    assert not torch.equal(after, before)


def test_gradients_are_what_an_observer_sees_and_nothing_is_learned() -> None:
    online, clicks = model(), batches(1)[0]
    online.set_masks(masks_for(online))
    before, found = online.state(), online.gradients(clicks)
    assert same(online.state(), before)
    seen: dict[str, Tensor] = {}
    online.learn(
        clicks, lambda gradients: seen.update({n: g.clone() for n, g in gradients.items()})
    )
    assert same(found, seen)
    assert tuple(found) == online.prunable


def test_the_mean_squares_of_the_inputs_are_gathered_only_when_asked_for() -> None:
    online, clicks = model(), batches(1)[0]
    assert online.forward(clicks).input_sq == {}
    found = online.forward(clicks, inputs=True).input_sq
    assert tuple(found) == online.prunable
    np.testing.assert_allclose(found["bottom.0"], (clicks.numeric**2).mean(0), rtol=1e-5)
    assert online.forward(clicks).input_sq == {}


def test_the_effective_weight_of_a_masked_model_predicts_as_a_plain_module_does() -> None:
    online, clicks = model(), batches(1)[0]
    plain = deepcopy(online.module)
    masks = masks_for(online)
    online.set_masks(masks)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(f"{name}.weight").mul_(mask)
        logits = plain(torch.tensor(clicks.numeric), torch.tensor(clicks.categorical))
    np.testing.assert_allclose(online.predict(clicks), torch.sigmoid(logits.double()).numpy())


@pytest.mark.parametrize("masked", [False, True])
def test_a_loaded_state_goes_on_bit_for_bit(masked: bool) -> None:
    stream = batches(12)
    first = model()
    first.set_masks(masks_for(first) if masked else {})
    for clicks in stream[:6]:
        first.learn(clicks)
    second = model(seed=9)
    second.set_masks({"top.2": torch.ones(6, 8, dtype=torch.bool)})
    second.load(first.state())
    for clicks in stream[6:]:
        first.learn(clicks)
        second.learn(clicks)
        assert np.array_equal(first.predict(clicks), second.predict(clicks))
    assert same(first.state(), second.state())


def test_a_state_and_a_clone_share_nothing_with_the_model() -> None:
    online, clicks = model(), batches(1)[0]
    online.set_masks(masks_for(online))
    state, twin = online.state(), deepcopy(online)
    before = {name: tensor.clone() for name, tensor in state.items()}
    online.learn(clicks)
    assert same(state, before)
    assert same(twin.state(), before)
    twin.learn(clicks)
    assert same(twin.state(), online.state())


def test_the_names_in_a_state_are_those_of_the_module_and_three_prefixes() -> None:
    online = model()
    online.set_masks({"top.0": torch.ones(8, 10, dtype=torch.bool)})
    state = online.state()
    own = set(online.module.state_dict())
    assert set(state) - own == {f"adagrad.{name}" for name in own} | {"mask.top.0", "frozen.top.0"}
    assert state["mask.top.0"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("top.9.weight", torch.zeros(1), "'top.9.weight' is unknown"),
        ("top.0.bias", torch.zeros(3), r"'top.0.bias' has shape \(3,\), not \(8,\)"),
        ("adagrad.top.9", torch.zeros(1), "'top.9' is unknown"),
        ("mask.top.0", torch.ones(8, 10, dtype=torch.uint8), "'top.0' is missing"),
        ("frozen.top.0", torch.zeros(8, 10), "'top.0' is unknown"),
    ],
)
def test_a_state_of_another_model_is_refused(name: str, tensor: Tensor, message: str) -> None:
    online = model()
    with pytest.raises(ValueError, match=f"tensors do not fit the model: .*{message}"):
        online.load(online.state() | {name: tensor})


def test_a_mask_for_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'top.9', which is no prunable layer; .* bottom.0, "):
        model().set_masks({"top.9": torch.ones(1, 1, dtype=torch.bool)})


@pytest.mark.parametrize("mask", [torch.ones(10, 8, dtype=torch.bool), torch.ones(8, 10)])
def test_a_mask_of_another_shape_or_kind_is_refused_and_changes_nothing(mask: Tensor) -> None:
    online = model()
    before = online.state()
    with pytest.raises(ValueError, match=r"must be torch.bool of shape \(8, 10\)"):
        online.set_masks({"top.2": torch.zeros(6, 8, dtype=torch.bool), "top.0": mask})
    assert same(online.state(), before)


@pytest.mark.parametrize("blown", [[torch.inf], [torch.nan], [torch.inf, -torch.inf]])
def test_a_model_that_has_blown_up_says_so(blown: list[float]) -> None:
    online = model()
    assert online.finite()
    with torch.no_grad():
        online.module.get_parameter("top.0.weight")[0, : len(blown)] = torch.tensor(blown)
    assert not online.finite()


def test_weights_whose_sum_alone_is_too_large_are_finite() -> None:
    online = model()
    with torch.no_grad():
        online.module.get_parameter("top.0.weight")[0, :2] = torch.finfo(torch.float32).max
    assert online.finite()


def test_the_same_batches_give_the_same_bits_wherever_they_stand_in_memory() -> None:
    one, two = model(), model()
    for clicks in batches(5, n=37):
        one.learn(clicks)
        wide = np.zeros((38, 2), np.float32)
        wide[1:] = clicks.numeric
        two.learn(replace(clicks, numeric=wide[1:]))
    assert same(one.state(), two.state())


def test_a_module_with_tied_or_untrained_layers_offers_only_what_learns() -> None:
    module = model().module
    module.get_parameter("top.2.weight").requires_grad_(False)
    online = OnlineModel(module, CONFIG)
    assert online.prunable == ("bottom.0", "bottom.2", "top.0", "top.4")
    online.learn(batches(1)[0])
    assert torch.equal(online.state()["top.2.weight"], model().state()["top.2.weight"])


@pytest.mark.parametrize("name", ["mask", "frozen", "adagrad"])
def test_a_module_whose_names_clash_with_a_state_is_refused(name: str) -> None:
    module = nn.ModuleDict({name: nn.Linear(2, 1)})
    with pytest.raises(ValueError, match=f"a tensor '{name}.weight'; rename the submodule"):
        OnlineModel(module, CONFIG)
