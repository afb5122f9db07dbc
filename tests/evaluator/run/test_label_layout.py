from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.run.plot import label_layout

HEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def test_labels_that_are_far_apart_stay() -> None:
    assert label_layout([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]


def test_labels_at_the_same_height_share_the_room_around_it() -> None:
    assert label_layout([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])


def test_a_pushed_label_pushes_the_next() -> None:
    assert label_layout([0.5, 0.5, 0.56], 0.1) == pytest.approx([0.42, 0.52, 0.62])


@given(HEIGHTS, st.floats(0.01, 0.2))
def test_all_end_up_a_gap_apart_and_in_their_order(heights: list[float], gap: float) -> None:
    found = label_layout(heights, gap)
    for low, high in pairwise(sorted(found)):
        assert high - low >= gap - 1e-9
    order = sorted(range(len(heights)), key=lambda i: (heights[i], i))
    assert [found[i] for i in order] == sorted(found)


@given(HEIGHTS)
def test_their_mean_does_not_move(heights: list[float]) -> None:
    assert sum(label_layout(heights, 0.1)) == pytest.approx(sum(heights))
