from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from learner.models.dlrm import DLRM, CategoricalField, DLRMOptions, PairwiseDots, from_schema
from tests.learner.worlds import OPTIONS, SCHEMA, batches

FIELDS = [CategoricalField(7), CategoricalField(9, columns=3)]


def small(numeric: int = 2, **changes: object) -> DLRM:
    options = {"embedding_dim": 4, "bottom": (5,), "top": (6,), "embedding_std": 1.0} | changes
    torch.manual_seed(3)
    return DLRM(numeric, FIELDS, DLRMOptions.model_validate(options))


def by_hand(model: DLRM, dense: Tensor, categorical: Tensor) -> Tensor:
    """Walk through the definition for one event, without batches."""
    w = model.state_dict()
    site = w["embedding.weight"][categorical[0]]
    tags = [w["embedding.weight"][7 + tag] for tag in categorical[1:] if tag != 0]
    mean = torch.stack(tags).mean(0) if tags else torch.zeros(4)
    x = torch.relu(w["bottom.0.weight"] @ dense + w["bottom.0.bias"])
    x = torch.relu(w["bottom.2.weight"] @ x + w["bottom.2.bias"])
    x = torch.cat([x, torch.stack([site @ x, mean @ x, mean @ site])])
    x = torch.relu(w["top.0.weight"] @ x + w["top.0.bias"])
    logit: Tensor = w["top.2.weight"] @ x + w["top.2.bias"]
    return logit


CATEGORICAL = torch.tensor([[1, 2, 0, 0], [6, 2, 4, 8], [3, 5, 5, 0], [2, 0, 0, 0]])
DENSE = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0], [2.0, 1.0]])


def test_the_logits_are_those_of_the_definition() -> None:
    model = small()
    expected = torch.cat([by_hand(model, *row) for row in zip(DENSE, CATEGORICAL, strict=True)])
    torch.testing.assert_close(model(DENSE, CATEGORICAL), expected)


def test_predicting_without_a_gradient_gives_the_same_bits() -> None:
    model = small()
    with torch.no_grad():
        without = model(DENSE, CATEGORICAL)
    assert torch.equal(model(DENSE, CATEGORICAL), without)


def test_the_order_and_the_padding_of_several_values_do_not_matter() -> None:
    model = small()
    orders = torch.tensor([[1, 2, 4, 0], [1, 4, 2, 0], [1, 0, 4, 2]])
    torch.testing.assert_close(
        model(DENSE[:1].expand(3, 2), orders), model(DENSE[:1], orders[:1]).expand(3)
    )


def test_the_bucket_of_padding_never_learns() -> None:
    model = small()
    model(DENSE, CATEGORICAL).sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert torch.count_nonzero(gradient.to_dense()[7]) == 0


def test_without_numeric_features_a_learned_vector_takes_the_place_of_the_bottom() -> None:
    model = small(numeric=0)
    weights = model.state_dict()
    assert [name for name in weights if name.startswith("bottom")] == ["bottom.vector"]
    site, vector = weights["embedding.weight"][:7], weights["bottom.vector"]
    with torch.no_grad():
        model.top[0].register_forward_pre_hook(lambda _, given: seen.extend(given))
        seen: list[Tensor] = []
        model(torch.zeros(4, 0), CATEGORICAL)
    torch.testing.assert_close(seen[0][:, 4], site[CATEGORICAL[:, 0]] @ vector)


def test_a_single_feature_can_be_learned_from() -> None:
    model = DLRM(0, [CategoricalField(7)], DLRMOptions())
    logits = model(torch.zeros(2, 0), torch.tensor([[3], [4]]))
    assert logits[0] != logits[1]


def test_without_categorical_features_the_bottom_alone_feeds_the_top() -> None:
    model = DLRM(2, [], DLRMOptions())
    assert model(DENSE, torch.zeros(4, 0, dtype=torch.int64)).shape == (4,)


def test_a_model_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="a DLRM needs at least one feature; the schema has none"):
        DLRM(0, [], DLRMOptions())


def test_first_order_terms_add_the_mean_weight_of_each_feature() -> None:
    plain, wide = small(), small(first_order=True)
    wide.load_state_dict(plain.state_dict(), strict=False)
    assert wide.first_order is not None
    assert wide.first_order.numeric is not None
    with torch.no_grad():
        wide.first_order.buckets.weight.copy_(torch.arange(16.0).unsqueeze(1))
        wide.first_order.numeric.copy_(torch.tensor([100.0, 1000.0]))
    # site 6 + the mean of tags 2, 4, 8, which begin at 7 + 0.5 * 100
    torch.testing.assert_close(
        (wide(DENSE, CATEGORICAL) - plain(DENSE, CATEGORICAL))[1],
        torch.tensor(6 + 7 + 14 / 3 + 50),
    )


def test_the_gradient_of_the_dot_products_is_right_by_finite_differences() -> None:
    vectors = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(PairwiseDots(5), (vectors,))


def test_a_schema_decides_the_shape() -> None:
    model = from_schema(SCHEMA, dict(OPTIONS))
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {
        "embedding.weight": (12 + 9 + 20, 4),
        "bottom.0.weight": (5, 2),
        "bottom.0.bias": (5,),
        "bottom.2.weight": (4, 5),
        "bottom.2.bias": (4,),
        "top.0.weight": (8, 4 + 6),
        "top.0.bias": (8,),
        "top.2.weight": (6, 8),
        "top.2.bias": (6,),
        "top.4.weight": (1, 6),
        "top.4.bias": (1,),
        "first_order.numeric": (2,),
        "first_order.buckets.weight": (41, 1),
    }
    clicks = batches(1)[0]
    logits = model(torch.tensor(clicks.numeric), torch.tensor(clicks.categorical))
    assert logits.shape == (16,)
    assert logits.dtype == torch.float32


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="bottoms"):
        from_schema(SCHEMA, {"bottoms": [3]})
