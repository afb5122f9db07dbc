"""Grafting, against numpy in float64 that shares no code with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learner import LearnerConfig, MaskingConfig, OnlineModel
from pruner import Claim, Evidence, Need, PrunerConfig, Stateless
from pruner.criterion import CriterionFailedError
from pruner.updaters import DenseEvidence, Graft, recipe
from stream.spec import RunSpec
from tests.learner.worlds import batches, model

SPARSITY, DECAY, EVERY, PULL = 0.6, 0.9, 200, 0.25
CONFIG = PrunerConfig(
    regime="graft",
    sparsity=SPARSITY,
    graft_events=EVERY,
    graft_pull=PULL,
    options={"decay": DECAY},
)
GIVEN = LearnerConfig(masking=MaskingConfig(returning_weights="given", returning_sums="given"))

Arrays = dict[str, NDArray[np.float64]]


def of(tensors: dict[str, torch.Tensor]) -> Arrays:
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def thetas(online: OnlineModel) -> Arrays:
    return of({name: online.theta(name) for name in online.prunable})


class Pair:
    """A dense model with its evidence, and a served one that is grafted from it."""

    def __init__(self, *, shares: bool = True) -> None:
        rng = np.random.default_rng(0)
        self.dense, self.served = model(), model(config=GIVEN)
        self.served.load(self.dense.state())
        if shares:
            self.served.share_embeddings(self.dense)
        self.evidence = DenseEvidence(recipe(CONFIG, RunSpec.small()), self.dense, rng)
        self.graft = Graft("sparse", CONFIG, self.evidence, self.dense)
        self.expected = {name: np.zeros_like(value) for name, value in thetas(self.dense).items()}

    def learn(self, seed: int, count: int = 6) -> None:
        """Let both learn some batches, and follow the evidence on the side."""
        for one in batches(count, seed=seed):
            dense, served = self.dense.forward(one), self.served.forward(one)
            found = of(self.dense.gradients(one))
            for name, theta in thetas(self.dense).items():
                square = (theta * found[name]) ** 2
                self.expected[name] = DECAY * self.expected[name] + (1 - DECAY) * square
            self.served.unlearnable(served)
            evidence = self.evidence
            self.dense.learn_from(dense, lambda g: evidence.observe(self.dense, g, dense))  # noqa: B023
            self.served.learn_from(served)

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Rank all weights together, each against the mean of its layer."""
        scaled = {name: value / value.mean() for name, value in self.expected.items()}
        everything = np.sort(np.concatenate([value.ravel() for value in scaled.values()]))
        pruned = round(SPARSITY * everything.size)
        return {name: value >= everything[pruned] for name, value in scaled.items()}


def test_the_mask_is_of_the_highest_evidence_of_the_dense_model_over_all_layers() -> None:
    pair = Pair()
    pair.learn(seed=1)
    assert pair.graft.update(pair.served, EVERY) is not None
    expected = pair.masks()
    assert {name: mask.numpy().tolist() for name, mask in pair.served.masks.items()} == {
        name: mask.tolist() for name, mask in expected.items()
    }
    assert sum(int(mask.sum()) for mask in expected.values()) > 0


def test_weights_that_enter_are_the_dense_ones_and_those_that_stay_are_pulled() -> None:
    pair = Pair()
    pair.learn(seed=1)
    pair.graft.update(pair.served, EVERY)
    pair.learn(seed=2, count=40)
    masks = {name: mask.numpy().copy() for name, mask in pair.served.masks.items()}
    own, dense = thetas(pair.served), thetas(pair.dense)
    sums = {n: pair.served.accumulator(n).double().numpy().copy() for n in pair.served.prunable}
    biases = pair.served.module.get_parameter("top.0.bias").detach().double().numpy().copy()
    change = pair.graft.update(pair.served, 2 * EVERY)
    entered = 0
    for name, new in pair.masks().items():
        before, found = masks[name], thetas(pair.served)[name]
        weight = pair.served.module.get_parameter(f"{name}.weight").detach().double().numpy()
        stays, enters = before & new, ~before & new
        pulled = own[name] + PULL * (dense[name] - own[name])
        np.testing.assert_allclose(found[stays], pulled[stays], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(found[enters], dense[name][enters])
        assert not weight[~new].any()
        kept = pair.served.accumulator(name).double().numpy()
        np.testing.assert_array_equal(kept[stays], sums[name][stays])
        np.testing.assert_array_equal(
            kept[enters], pair.dense.accumulator(name).double().numpy()[enters]
        )
        assert change is not None
        assert (change.entered[name], change.kept[name]) == (enters.sum(), new.sum())
        entered += int(enters.sum())
    assert entered > 0
    theirs = pair.dense.module.get_parameter("top.0.bias").detach().double().numpy()
    found = pair.served.module.get_parameter("top.0.bias").detach().double().numpy()
    np.testing.assert_allclose(found, biases + PULL * (theirs - biases), rtol=1e-5, atol=1e-7)


def test_between_two_grafts_nothing_changes() -> None:
    pair = Pair()
    pair.learn(seed=1)
    before = pair.served.state()
    assert pair.graft.update(pair.served, EVERY + 50) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.served.state().items())


def test_a_table_is_shared_and_only_dense_learns_it() -> None:
    pair = Pair()
    tables = [name for name in pair.dense.state() if name.endswith("embedding.weight")]
    assert tables
    before = pair.dense.state()[tables[0]]
    one = batches(1)[0]
    pair.served.learn(one)
    assert torch.equal(pair.dense.state()[tables[0]], before)
    predicted = pair.served.predict(one)
    pair.dense.learn(one)
    assert torch.equal(pair.served.state()[tables[0]], pair.dense.state()[tables[0]])
    assert not torch.equal(pair.dense.state()[tables[0]], before)
    assert not np.array_equal(pair.served.predict(one), predicted)
    assert tables[0] not in pair.served.state(shared=False)
    assert f"adagrad.{tables[0]}" not in pair.served.state()


def test_loading_leaves_a_shared_table_as_it_is() -> None:
    pair, other = Pair(), model(seed=9)
    before = pair.dense.state()
    pair.served.load(other.state())
    after = pair.served.state()
    assert torch.equal(after["top.0.weight"], other.state()["top.0.weight"])
    assert torch.equal(after["embedding.weight"], before["embedding.weight"])


def test_evidence_continues_bit_for_bit_from_a_state() -> None:
    pair, other = Pair(), Pair()
    pair.learn(seed=1)
    other.dense.load(pair.dense.state())
    other.evidence.load(pair.evidence.state())
    other.expected = pair.expected
    pair.learn(seed=2)
    other.learn(seed=2)
    ours, theirs = pair.evidence.state(), other.evidence.state()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_evidence_of_another_criterion_is_refused() -> None:
    pair = Pair()
    with pytest.raises(ValueError, match="not that of criterion 'fisher_ema' on this model: mop"):
        pair.evidence.load({"mop/top.0/average": torch.zeros(1)})


def test_tables_are_not_both_shared_and_pruned() -> None:
    config = LearnerConfig(masking=MaskingConfig(embeddings=True))
    with pytest.raises(ValueError, match="embeddings cannot be both shared and pruned"):
        model(config=config).share_embeddings(model())


@pytest.mark.parametrize(
    ("given", "implied"),
    [
        ({}, ("fisher_ema", "global_layer_mean", "dense")),
        ({"regime": "d2s"}, ("aux", "global", "candidate")),
        ({"regime": "d2s", "criterion": "mop"}, ("mop", "global", "candidate")),
    ],
)
def test_the_regime_implies_what_is_not_said(
    given: dict[str, str], implied: tuple[str, str, str]
) -> None:
    config = PrunerConfig.model_validate(given)
    assert (config.criterion, config.allocation, config.evidence) == implied


def test_grafting_by_the_evidence_of_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"selects by the evidence of the dense model; leave"):
        PrunerConfig.model_validate({"regime": "graft", "evidence": "candidate"})


class Failing:
    """A criterion that fails at its third batch."""

    name = "failing"
    needs = frozenset({Need.GRADIENT})
    claims: frozenset[Claim] = frozenset()

    def init(self, layer: Evidence, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"batches": torch.zeros(())}

    def observe(self, state: dict[str, torch.Tensor], layer: Evidence) -> dict[str, torch.Tensor]:
        state["batches"] += 1
        if state["batches"] == 3:
            raise ZeroDivisionError("a fault of its own")
        return state

    def score(self, state: dict[str, torch.Tensor], layer: Evidence) -> torch.Tensor:
        return layer.weight.abs()


def test_a_criterion_that_fails_stops_neither_model_and_the_mask_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = Pair()
    how = replace(recipe(CONFIG, RunSpec.small()), criterion=Failing())
    pair.evidence = DenseEvidence(how, pair.dense, np.random.default_rng(0))
    pair.graft = Graft("sparse", CONFIG, pair.evidence, pair.dense)
    pair.learn(seed=1, count=2)
    assert pair.graft.update(pair.served, EVERY) is not None
    masks = {name: mask.clone() for name, mask in pair.served.masks.items()}
    pair.learn(seed=2, count=4)
    assert pair.graft.update(pair.served, 2 * EVERY) is None
    assert all(torch.equal(mask, masks[name]) for name, mask in pair.served.masks.items())
    assert caplog.text.count("criterion 'failing' failed at batch 3: ZeroDivisionError") == 1
    other = DenseEvidence(how, pair.dense, np.random.default_rng(0))
    other.load(pair.evidence.state())
    with pytest.raises(CriterionFailedError, match="has failed on the dense model, at batch 3"):
        other.masks()


def test_a_plain_function_ranks_by_the_last_batch_and_so_after_a_restart() -> None:
    pair = Pair()
    criterion = Stateless("taylor", lambda layer: layer.saliency)
    how = replace(recipe(CONFIG, RunSpec.small()), criterion=criterion)
    pair.evidence = DenseEvidence(how, pair.dense, np.random.default_rng(0))
    with pytest.raises(CriterionFailedError, match="it has no batch"):
        pair.evidence.masks()
    one = batches(1, seed=3)[0]
    expected = {
        name: np.abs(theta * of(pair.dense.gradients(one))[name])
        for name, theta in thetas(pair.dense).items()
    }
    pair.learn(seed=3, count=1)
    found = of(pair.evidence.scores())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-9)
    other = DenseEvidence(how, pair.dense, np.random.default_rng(0))
    other.load(pair.evidence.state())
    ours, theirs = pair.evidence.masks(), other.masks()
    assert all(torch.equal(mask, theirs[name]) for name, mask in ours.items())
