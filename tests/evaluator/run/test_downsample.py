from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluator.run.history import downsample

VALUES = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6))
TABLES = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.tuples(*[VALUES] * k), min_size=1, max_size=200)
)


@given(TABLES, st.integers(1, 60))
def test_what_is_drawn_reaches_as_far_as_what_is_not(
    rows: list[tuple[float, ...]], points: int
) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    chosen = downsample(columns, points)
    assert list(chosen) == sorted(set(chosen.tolist()))
    assert {chosen[0], chosen[-1]} == {0, len(rows) - 1}
    assert len(chosen) <= max(points, 2 + 3 * len(columns))
    for column in columns:
        drawn = column[chosen]
        assert np.isnan(drawn).any() == np.isnan(column).any()
        if np.isfinite(column).any():
            assert np.nanmax(drawn) == np.nanmax(column)
            assert np.nanmin(drawn) == np.nanmin(column)


def test_few_rows_all_stay() -> None:
    assert downsample([np.array([1.0, np.nan, 1.0])], points=3).tolist() == [0, 1, 2]
    assert downsample([], points=10).tolist() == []


def test_every_spike_stays_where_it_was() -> None:
    column = np.zeros(10_000)
    column[[17, 4_000, 9_998]] = 5.0, -3.0, 1.0
    assert {17, 4_000, 9_998} <= set(downsample([column, np.zeros(10_000)], points=200).tolist())


def test_a_long_gap_is_not_bridged() -> None:
    column = np.ones(10_000)
    column[3_000:6_000] = np.nan
    chosen = downsample([column], points=50)
    inside = [row for row in chosen if 3_000 <= row < 6_000]
    assert inside
    assert np.isnan(column[inside]).all()
