from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruner.masks import MaskDamagedError, content_hash, describe, pack, sparsity, unpack

shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=4)


def masks_of(sizes: list[tuple[int, int]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"top.{i}": torch.rand(s, generator=generator) < 0.3 for i, s in enumerate(sizes)}


@given(shapes)
def test_masks_come_back_as_they_were(sizes: list[tuple[int, int]]) -> None:
    masks = masks_of(sizes)
    found = unpack(pack(masks))
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], masks[name]) for name in masks)


def test_a_byte_holds_eight_weights() -> None:
    assert len(pack({"top": torch.ones(80, 100, dtype=torch.bool)})) < 1000 + 50


def test_the_hash_depends_on_the_content_and_not_on_the_order() -> None:
    masks = masks_of([(3, 4), (5, 6)])
    turned = dict(reversed(masks.items()))
    assert content_hash(pack(turned)) == content_hash(pack(masks))
    masks["top.0"][0, 0] ^= True
    assert content_hash(pack(turned | masks)) != content_hash(pack(masks_of([(3, 4), (5, 6)])))


@pytest.mark.parametrize(
    ("packed", "fault"),
    [
        (b"", "masks of 0 bytes have no header"),
        (b"\x00\x00\x00\x05[[[[[", "masks of 9 bytes have no header"),
        (pack(masks_of([(3, 4)]))[:-1], "masks of 12 weights have 1 bytes of bits"),
        (pack(masks_of([(3, 4)])) + b"\x00", "masks of 12 weights have 3 bytes of bits"),
    ],
)
def test_bytes_that_are_no_masks_are_refused(packed: bytes, fault: str) -> None:
    with pytest.raises(MaskDamagedError, match=fault):
        unpack(packed)


def test_overlap_is_of_the_weights_kept_now() -> None:
    now = torch.tensor([[True, True, True, False]])
    before = torch.tensor([[True, False, False, True]])
    assert describe({"a": now}, {"a": before})["a"].overlap == pytest.approx(1 / 3)
    assert describe({"a": now}, {"a": now})["a"].overlap == 1.0


def test_layers_are_described_one_by_one() -> None:
    masks = {"a": torch.tensor([[True, False]]), "b": torch.tensor([[True, True]])}
    found = describe(masks, before={"a": ~masks["a"], "b": masks["b"]})
    assert (found["a"].sparsity, found["a"].overlap) == (0.5, 0.0)
    assert (found["b"].weights, found["b"].kept, found["b"].overlap) == (2, 2, 1.0)
    assert sparsity(masks) == 0.25
