from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from learner.config import LearnerConfig
from learner.optim import Adagrad, adagrad_, rates
from tests.learner.worlds import model

CONFIG = LearnerConfig(rate=0.05, embedding_rate=0.2)


def lookup(table: nn.Embedding, rows: Tensor, factors: Tensor) -> Tensor:
    total: Tensor = (table(rows) * factors).sum()
    return total


def test_dense_steps_are_bit_for_bit_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, 5, generator=generator)
    ours, total = start.clone(), torch.zeros(7, 5)
    theirs = start.clone().requires_grad_()
    oracle = torch.optim.Adagrad([theirs], lr=0.05, eps=1e-10)
    for _ in range(30):
        theirs.grad = torch.randn(7, 5, generator=generator)
        adagrad_(ours, total, theirs.grad, rate=0.05, epsilon=1e-10)
        oracle.step()
    assert torch.equal(ours, theirs)
    assert torch.equal(total, oracle.state[theirs]["sum"])


def test_sparse_steps_equal_those_of_torch_on_dense_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = nn.Embedding(20, 3, sparse=True), nn.Embedding(20, 3)
    theirs.load_state_dict(ours.state_dict())
    total = torch.zeros(20, 3)
    oracle = torch.optim.Adagrad(theirs.parameters(), lr=0.05, eps=1e-10)
    for _ in range(30):
        rows = torch.randint(0, 20, (12,), generator=generator)
        factors = torch.randn(12, 3, generator=generator)
        (gradient,) = torch.autograd.grad(lookup(ours, rows, factors), [ours.weight])
        with torch.no_grad():
            adagrad_(ours.weight, total, gradient, rate=0.05, epsilon=1e-10)
        oracle.zero_grad()
        torch.autograd.backward(lookup(theirs, rows, factors))
        oracle.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(total, oracle.state[theirs.weight]["sum"], rtol=1e-6, atol=1e-7)


def test_a_row_that_is_not_in_the_batch_is_not_touched() -> None:
    table = nn.Embedding(6, 2, sparse=True)
    with torch.no_grad():
        table.weight[4] = torch.nan
    optimiser = Adagrad(table, CONFIG)
    before = table.weight.detach().clone()
    loss = lookup(table, torch.tensor([1, 1, 3]), torch.ones(3, 2))
    (gradient,) = torch.autograd.grad(loss, [table.weight])
    optimiser.step({"weight": gradient})
    moved = (table.weight != before).all(1) & ~table.weight.isnan().all(1)
    assert moved.tolist() == [False, True, False, True, False, False]
    assert optimiser.sums["weight"][:, 0].tolist() == [0, 4, 0, 1, 0, 0]


def test_a_zero_gradient_changes_nothing_even_before_the_first_step() -> None:
    weight, total = torch.tensor([0.0, -0.3]), torch.zeros(2)
    adagrad_(weight, total, torch.zeros(2), rate=0.1, epsilon=1e-10)
    assert weight.tolist() == [0.0, pytest.approx(-0.3)]
    assert total.tolist() == [0.0, 0.0]


def test_each_kind_of_parameter_learns_at_its_own_rate() -> None:
    config = LearnerConfig(rate=0.01, embedding_rate=0.05, first_order_rate=0.1)
    found = rates(model().module, config)
    assert found["embedding.weight"] == 0.05
    assert found["first_order.buckets.weight"] == found["first_order.numeric"] == 0.1
    others = {n: r for n, r in found.items() if n.startswith(("bottom", "top"))}
    assert set(others.values()) == {0.01}


def test_a_parameter_that_needs_no_gradient_has_no_state() -> None:
    layer = nn.Linear(2, 1)
    layer.weight.requires_grad_(False)
    assert list(Adagrad(layer, CONFIG).sums) == ["bias"]


@pytest.mark.parametrize("option", ["rate", "embedding_rate", "first_order_rate", "epsilon"])
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_a_rate_that_is_not_positive_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValidationError, match=option):
        LearnerConfig.model_validate({option: value})
