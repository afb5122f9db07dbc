from __future__ import annotations

from typing import Any

import pytest
import torch

from pruner.evidence import Evidence, Need, with_means

WEIGHT = torch.tensor([[1.0, -2.0, 3.0], [0.0, 4.0, -6.0]])


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gradient", torch.zeros(3, 2)),
        ("accumulator", torch.zeros(2)),
        ("mask", torch.ones(2, 2, dtype=torch.bool)),
        ("input_sq", torch.zeros(2)),
    ],
)
def test_evidence_of_another_shape_is_refused(name: str, tensor: torch.Tensor) -> None:
    wrong: dict[str, Any] = {name: tensor}
    with pytest.raises(ValueError, match=f"{name} has shape"):
        Evidence(WEIGHT, **wrong)


def test_a_weight_that_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight has shape \(4,\); it must be \(out, in\)"):
        Evidence(torch.zeros(4))


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask is torch\.float32; it must be torch\.bool"):
        Evidence(WEIGHT, mask=torch.ones(2, 3))


def test_evidence_that_was_not_gathered_is_named() -> None:
    with pytest.raises(ValueError, match="evidence 'accumulator' was not gathered"):
        Evidence(WEIGHT).need(Need.ACCUMULATOR)
    with pytest.raises(ValueError, match="evidence 'means' was not gathered"):
        Evidence(WEIGHT).need_means()


def test_saliency_is_gradient_times_weight_without_its_sign() -> None:
    layer = Evidence(WEIGHT, gradient=torch.full((2, 3), -0.5))
    assert torch.equal(layer.saliency, torch.tensor([[0.5, 1.0, 1.5], [0.0, 2.0, 3.0]]))


def test_means_weigh_every_weight_of_every_layer_alike() -> None:
    small = Evidence(torch.tensor([[8.0]]), gradient=torch.tensor([[1.0]]))
    layers = {"small": small, "big": Evidence(WEIGHT, gradient=torch.ones(2, 3))}
    for layer in with_means(layers).values():
        assert layer.need_means().magnitude.item() == pytest.approx(24 / 7)
        assert layer.need_means().saliency.item() == pytest.approx(24 / 7)
