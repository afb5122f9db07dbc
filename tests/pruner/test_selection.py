from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.sparsity import top_k

few_values = st.lists(st.integers(-2, 2), min_size=1, max_size=30)


@given(few_values, st.data())
def test_equals_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    """Few distinct values make many ties; of equals the earlier ones are kept."""
    kept = data.draw(st.integers(0, len(values)))
    order = np.argsort([-value for value in values], kind="stable")
    mask = top_k(torch.tensor(values, dtype=torch.float32), kept)
    assert set(mask.nonzero().flatten().tolist()) == set(order[:kept].tolist())


def test_infinite_scores_are_ranked_too() -> None:
    assert top_k(torch.tensor([-torch.inf, 1.0, torch.inf]), 2).tolist() == [False, True, True]


@pytest.mark.parametrize("kept", [-1, 5])
def test_keeping_more_than_there_is_is_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=f"cannot keep {kept} of 4 weights"):
        top_k(torch.zeros(2, 2), kept)
