"""Masking against an oracle that shares no code with it: plain torch, every weight by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from learner import LearnerConfig, MaskingConfig, OnlineModel
from stream.batch import ClickBatch

RATE, EMBEDDING_RATE = 0.1, 0.3
LAYERS = ("table", "first", "last")
WEIGHTS = ("stash", "zero", "given")
SUMS = ("keep", "zero", "given")
LEARNING = ("kept", "all")


class Net(nn.Module):
    """An embedding and two linear layers."""

    def __init__(self, *, sparse: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3, sparse=sparse)
        self.first = nn.Linear(2 + 3, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        vectors = self.table(categorical.long()).sum(1)
        hidden = torch.tanh(self.first(torch.cat([dense, vectors], 1)))
        logits: Tensor = self.last(hidden).squeeze(1)
        return logits


def net(*, sparse: bool = True) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net(sparse=sparse)


def clicks(seed: int, events: int = 20) -> ClickBatch:
    """Make clicks that use only some rows of the embedding, some of them twice."""
    rng = np.random.default_rng(seed)
    return ClickBatch(
        label=(rng.random(events) < 0.4).astype(np.float32),
        weight=rng.choice([1.0, 2.0], events).astype(np.float32),
        time_ms=np.zeros(events, np.int64),
        numeric=rng.standard_normal((events, 2)).astype(np.float32),
        categorical=rng.integers(seed % 3, 5, (events, 2)).astype(np.int32),
    )


def masks(seed: int, kept: float = 0.6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: net().get_parameter(f"{name}.weight").shape for name in LAYERS}
    return {n: torch.rand(shape, generator=generator) < kept for n, shape in shapes.items()}


def given(value: float) -> dict[str, Tensor]:
    return {n: torch.full_like(net().get_parameter(f"{n}.weight").data, value) for n in LAYERS}


@dataclass
class Oracle:
    """Stores all weights θ of plain dense layers, and multiplies with the mask in the forward pass.

    The gradient of the effective weight is taken by hand, from a leaf that holds the product.
    """

    config: MaskingConfig
    theta: dict[str, Tensor] = field(init=False)
    sums: dict[str, Tensor] = field(init=False)
    masks: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.theta = {n: p.detach().clone() for n, p in net(sparse=False).named_parameters()}
        self.sums = {n: torch.zeros_like(p) for n, p in self.theta.items()}

    def effective(self) -> dict[str, Tensor]:
        found = {n: tensor.clone() for n, tensor in self.theta.items()}
        for name, mask in self.masks.items():
            found[f"{name}.weight"] = found[f"{name}.weight"] * mask
        return found

    def logits(self, batch: ClickBatch, weights: dict[str, Tensor]) -> Tensor:
        vectors = weights["table.weight"][torch.tensor(batch.categorical).long()].sum(1)
        joined = torch.cat([torch.tensor(batch.numeric), vectors], 1)
        hidden = torch.tanh(joined @ weights["first.weight"].T + weights["first.bias"])
        return (hidden @ weights["last.weight"].T + weights["last.bias"]).squeeze(1)

    def gradients(self, batch: ClickBatch) -> dict[str, Tensor]:
        leaves = {n: w.requires_grad_() for n, w in self.effective().items()}
        logits, label = self.logits(batch, leaves), torch.tensor(batch.label)
        weight = torch.tensor(batch.weight)
        loss = (weight * (functional.softplus(logits) - label * logits)).sum() / weight.sum()
        found = torch.autograd.grad(loss, list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def learn(self, batch: ClickBatch) -> None:
        for name, gradient in self.gradients(batch).items():
            layer, _, kind = name.rpartition(".")
            learns = torch.ones_like(gradient)
            if kind == "weight" and layer in self.masks and self.config.learning == "kept":
                learns = self.masks[layer].float()
            step = gradient * learns
            self.sums[name] += step**2
            rate = EMBEDDING_RATE if layer == "table" else RATE
            moved = self.theta[name] - rate * step / (self.sums[name].sqrt() + 1e-10)
            self.theta[name] = torch.where(step == 0, self.theta[name], moved)

    def set_masks(
        self, new: dict[str, Tensor], weights: dict[str, Tensor], sums: dict[str, Tensor]
    ) -> None:
        for layer in LAYERS:
            name, shape = f"{layer}.weight", self.theta[f"{layer}.weight"].shape
            before = self.masks.get(layer, torch.ones(shape, dtype=torch.bool))
            after = new.get(layer, torch.ones(shape, dtype=torch.bool))
            for place in np.ndindex(*shape):
                if before[place] or not after[place]:
                    continue
                if self.config.returning_weights == "zero":
                    self.theta[name][place] = 0.0
                if self.config.returning_weights == "given":
                    self.theta[name][place] = weights[layer][place]
                if self.config.returning_sums == "zero":
                    self.sums[name][place] = 0.0
                if self.config.returning_sums == "given":
                    self.sums[name][place] = sums[layer][place]
        self.masks = new


def online(config: MaskingConfig) -> OnlineModel:
    rates: dict[str, Any] = {"rate": RATE, "embedding_rate": EMBEDDING_RATE}
    return OnlineModel(net(), LearnerConfig(**rates, masking=config))


def assert_same(model: OnlineModel, oracle: Oracle) -> None:
    state, effective = model.state(), oracle.effective()
    for name, theta in oracle.theta.items():
        layer, _, kind = name.rpartition(".")
        torch.testing.assert_close(state[name], effective[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            state[f"adagrad.{name}"], oracle.sums[name], rtol=1e-4, atol=1e-7
        )
        if kind == "weight" and layer in model.prunable:
            torch.testing.assert_close(model.theta(layer), theta, rtol=1e-4, atol=1e-6)
            cut = model.masks.get(layer, torch.ones_like(theta, dtype=torch.bool))
            assert not state[name][~cut].any()


@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize(("weights", "sums"), [*product(WEIGHTS, SUMS)])
def test_every_rule_does_what_it_says(weights: str, sums: str, learning: str) -> None:
    """Masks come, change twice, cover one layer less, and go; batches are learned in between."""
    config = MaskingConfig.model_validate(
        {
            "embeddings": True,
            "returning_weights": weights,
            "returning_sums": sums,
            "learning": learning,
        }
    )
    model, oracle = online(config), Oracle(config)
    assert model.prunable == LAYERS
    two = masks(2)
    partial = {name: mask for name, mask in masks(3).items() if name != "first"}
    for number, new in enumerate((None, masks(1), two, partial, {})):
        if new is not None:
            values, starts = given(0.25 * number), given(0.5 * number)
            model.set_masks(new, values, starts)
            oracle.set_masks(dict(new), values, starts)
            assert_same(model, oracle)
        for step in range(4):
            batch = clicks(10 * number + step)
            expected = torch.sigmoid(oracle.logits(batch, oracle.effective())).detach().numpy()
            np.testing.assert_allclose(model.predict(batch), expected, rtol=1e-4)
            model.learn(batch)
            oracle.learn(batch)
        assert_same(model, oracle)


@pytest.mark.parametrize("learning", LEARNING)
def test_an_observer_sees_the_gradients_of_pruned_embeddings_too(learning: str) -> None:
    config = MaskingConfig.model_validate({"embeddings": True, "learning": learning})
    model, oracle, batch = online(config), Oracle(config), clicks(1)
    model.set_masks(masks(1))
    oracle.set_masks(masks(1), {}, {})
    for name, gradient in model.gradients(batch).items():
        expected = oracle.gradients(batch)[f"{name}.weight"]
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-6)
        assert dense[~model.masks[name]].any()


@pytest.mark.parametrize(("weights", "sums"), [*product(WEIGHTS, SUMS)])
@pytest.mark.parametrize("learning", LEARNING)
def test_a_loaded_state_continues_bit_for_bit(weights: str, sums: str, learning: str) -> None:
    config = MaskingConfig.model_validate(
        {
            "embeddings": True,
            "returning_weights": weights,
            "returning_sums": sums,
            "learning": learning,
        }
    )
    first = online(config)
    first.learn(clicks(0))
    first.set_masks(masks(1))
    first.learn(clicks(1))
    second = online(config)
    second.load(first.state())
    for model in (first, second):
        model.learn(clicks(2))
        model.set_masks(masks(2), given(0.1), given(0.2))
        model.learn(clicks(3))
    state = second.state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state().items())


def test_without_asking_embeddings_are_not_prunable() -> None:
    model = online(MaskingConfig())
    assert model.prunable == ("first", "last")
    with pytest.raises(ValueError, match="a mask for 'table', which is no prunable layer"):
        model.set_masks({"table": masks(0)["table"]})


@pytest.mark.parametrize(("what", "values"), [("weights", (None, {})), ("sums", ({}, None))])
def test_a_rule_that_needs_values_refuses_to_go_without(
    what: str, values: tuple[dict[str, Tensor] | None, dict[str, Tensor] | None]
) -> None:
    model = online(MaskingConfig.model_validate({f"returning_{what}": "given"}))
    chosen = {name: mask for name, mask in masks(1).items() if name != "table"}
    model.set_masks(chosen)
    before = model.state()
    with pytest.raises(ValueError, match=f"returning_{what} is 'given', and weights of 'first'"):
        model.set_masks({}, *values)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())


def test_where_nothing_returns_no_values_are_needed() -> None:
    model = online(MaskingConfig(returning_weights="given", returning_sums="given"))
    mask = masks(1)["first"]
    model.set_masks({"first": mask})
    fewer = mask.clone()
    fewer[mask.nonzero()[0][0], mask.nonzero()[0][1]] = False
    model.set_masks({"first": fewer})
    assert int(model.masks["first"].sum()) == int(mask.sum()) - 1


def test_listeners_are_called_once_a_changed_layer_with_its_new_mask() -> None:
    model = online(MaskingConfig(embeddings=True))
    seen: list[tuple[str, float | None, bool]] = []

    def listen(name: str, mask: Tensor | None) -> None:
        weight = model.module.get_parameter(f"{name}.weight")
        fits = mask is None or not weight[~mask].any()
        seen.append((name, None if mask is None else float(mask.sum()), fits))

    model.masking.listeners.append(listen)
    one = masks(1)
    model.set_masks(one)
    assert seen == [(name, float(one[name].sum()), True) for name in LAYERS]
    state = model.state()
    seen.clear()
    model.set_masks({"first": one["first"]})
    assert seen == [
        ("table", None, True),
        ("first", float(one["first"].sum()), True),
        ("last", None, True),
    ]
    seen.clear()
    model.load(state)
    assert {name for name, _, _ in seen} == set(LAYERS)


def test_a_layer_that_a_batch_does_not_use_is_not_changed() -> None:
    class Lazy(Net):
        def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
            del categorical
            logits: Tensor = self.last(torch.tanh(dense @ torch.ones(2, 4))).squeeze(1)
            return logits

    for learning in LEARNING:
        config = MaskingConfig.model_validate({"embeddings": True, "learning": learning})
        model = OnlineModel(Lazy(), LearnerConfig(masking=config))
        model.set_masks(masks(1))
        before = model.theta("first"), model.theta("table")
        model.learn(clicks(0))
        assert torch.equal(model.theta("first"), before[0])
        assert torch.equal(model.theta("table"), before[1])
