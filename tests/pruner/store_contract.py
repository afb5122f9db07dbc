"""What every mask store must hold to: check functions over a way to open one.

``open_store()`` opens the same store each time it is called, as another process would; a store
that lives in memory opens the same object.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from learner.regime import Head, Swap
from pruner.store import MaskMissingError, MaskStore

Open = Callable[[], MaskStore]


def masks(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"top.0": torch.rand(5, 7, generator=generator) < 0.4, "top.2": torch.ones(1, 5) > 0}


def a_mask_comes_back_by_its_content(open_store: Open) -> None:
    names = [open_store().put(masks(seed)) for seed in (0, 1)]
    for seed, name in enumerate(names):
        found = open_store().get(name)
        assert all(torch.equal(found[layer], mask) for layer, mask in masks(seed).items())


def the_same_mask_is_kept_once(open_store: Open) -> None:
    assert open_store().put(masks(0)) == open_store().put(masks(0))
    assert len(open_store().names()) == 1


def a_mask_that_is_not_there_is_named(open_store: Open) -> None:
    name = open_store().put(masks(0))
    with pytest.raises(MaskMissingError, match=f"no mask 'abc' in the store; it holds {name}"):
        open_store().get("abc")


def an_empty_store_has_no_head(open_store: Open) -> None:
    assert open_store().head() is None
    assert open_store().history() == ()
    assert open_store().names() == ()


def the_head_moves_forward_only(open_store: Open) -> None:
    one, two, three = (Swap(n, f"candidate-{n}/x", 100 * n, f"mask{n}") for n in (1, 2, 3))
    for swap in (one, three, two, three, one):
        open_store().publish(swap)
    assert open_store().head() == three
    assert open_store().history() == (one, three)


def a_head_of_the_same_version_does_not_move_it(open_store: Open) -> None:
    open_store().publish(Swap(1, "candidate-1/x", 100))
    open_store().publish(Swap(1, "candidate-2/y", 200))
    head = open_store().head()
    assert head is not None
    assert head.snapshot == "candidate-1/x"


def masks_that_nobody_names_are_forgotten_but_never_that_of_the_head(open_store: Open) -> None:
    old, serving, new = (open_store().put(masks(seed)) for seed in (0, 1, 2))
    open_store().publish(Swap(1, "candidate-1/x", 100, serving))
    open_store().retain({new})
    assert set(open_store().names()) == {serving, new}
    with pytest.raises(MaskMissingError, match=old):
        open_store().get(old)


def it_is_the_head_that_the_sparse_learner_publishes_to(open_store: Open) -> None:
    head: Head = open_store()
    head.publish(Swap(1, "candidate-1/x", 100))
    assert open_store().head() == Swap(1, "candidate-1/x", 100)


CHECKS: list[Callable[[Open], None]] = [
    a_mask_comes_back_by_its_content,
    the_same_mask_is_kept_once,
    a_mask_that_is_not_there_is_named,
    an_empty_store_has_no_head,
    the_head_moves_forward_only,
    a_head_of_the_same_version_does_not_move_it,
    masks_that_nobody_names_are_forgotten_but_never_that_of_the_head,
    it_is_the_head_that_the_sparse_learner_publishes_to,
]
