from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from evaluator.metrics.metric import ArraySums

ADAPTER = TypeAdapter(ArraySums)


@settings(deadline=None)
@given(st.lists(st.floats(), max_size=20))
def test_numbers_come_back_from_a_checkpoint_bit_for_bit(values: list[float]) -> None:
    cells = ArraySums(np.array(values))
    back = ADAPTER.validate_json(ADAPTER.dump_json(cells))
    assert back.values.tobytes() == np.array(values).tobytes()
    assert back == cells


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int32])
def test_type_and_shape_come_back(kind: type[np.generic]) -> None:
    values = np.arange(6, dtype=kind).reshape(2, 3)
    back = ADAPTER.validate_json(ADAPTER.dump_json(ArraySums(values))).values
    assert (back.dtype, back.shape) == (np.dtype(kind), (2, 3))


def test_an_empty_table_comes_back() -> None:
    cells = ArraySums(np.empty((0, 3), np.int32))
    assert ADAPTER.validate_json(ADAPTER.dump_json(cells)) == cells


def test_cells_that_differ_in_anything_are_not_equal() -> None:
    ones = ArraySums(np.ones(4))
    assert ones != ArraySums(np.ones((2, 2)))
    assert ones != ArraySums(np.ones(4, np.float32))
    assert ones != ArraySums(np.array([1, 1, 1, np.nextafter(1, 2)]))
    assert ones != "ones"
    assert hash(ones) == hash(ArraySums(np.ones(4)))


def test_sums_leave_their_parts_alone() -> None:
    one = ArraySums(np.ones(3))
    assert (one + one + one).values.tolist() == [3, 3, 3]
    assert one.values.tolist() == [1, 1, 1]
