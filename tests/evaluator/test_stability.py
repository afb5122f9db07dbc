from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from evaluator.drift import (
    SAMPLE,
    InputComparison,
    Shift,
    StabilityState,
    chance,
    population_stability,
)
from stream.batch import ClickBatch
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature

SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="price"), NumericFeature(name="flag")),
    categorical=(
        CategoricalFeature(name="site", buckets=2**30),
        CategoricalFeature(name="tags", buckets=60, max_values=2),
    ),
)
WINDOW = 2_000
COUNTS = st.lists(st.integers(0, 5_000), min_size=4, max_size=4).map(np.array)


def clicks(n: int, seed: int, **changed: np.ndarray) -> ClickBatch:
    """Draw a window; columns by name replace what was drawn."""
    rng = np.random.default_rng(seed)
    drawn = {
        "price": rng.standard_normal(n),
        "flag": (rng.random(n) < 0.3).astype(float),
        "site": rng.zipf(1.5, n) % 2**30 + 2,
        "tags": rng.integers(2, 20, n),
        "second": np.where(rng.random(n) < 0.5, rng.integers(2, 20, n), 0),
        **changed,
    }
    return ClickBatch(
        label=np.zeros(n, np.float32),
        weight=np.ones(n, np.float32),
        time_ms=np.zeros(n, np.int64),
        numeric=np.column_stack([drawn["price"], drawn["flag"]]).astype(np.float32),
        categorical=np.column_stack([drawn["site"], drawn["tags"], drawn["second"]]).astype(
            np.int32
        ),
    )


def watch(state: StabilityState | None = None, window: int = WINDOW) -> InputComparison:
    return InputComparison(SCHEMA, window, threshold=0.2, state=state)


def close(watched: InputComparison, number: int, **changed: np.ndarray) -> tuple[Shift, ...]:
    """Let a window pass, the number saying which."""
    for begin in range(0, WINDOW, 100):
        watched.add(clicks(WINDOW, number, **changed)[begin : begin + 100])
    return watched.close((number + 1) * WINDOW)


def drifted(shifts: tuple[Shift, ...]) -> list[str]:
    return [shift.feature for shift in shifts if shift.has_drifted]


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_the_index_is_the_sum_of_both_divergences(one: np.ndarray, other: np.ndarray) -> None:
    p, q = (np.array(counts) + 0.5 for counts in (one, other))
    expected = scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p)
    found = population_stability(one, other)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found == pytest.approx(population_stability(other, one), abs=1e-12)


@pytest.mark.parametrize(("shift", "psi"), [(0.32, 0.1), (0.5, 0.25)])
def test_a_shift_of_a_normal_feature_has_the_index_documented(shift: float, psi: float) -> None:
    edges = np.linspace(-8, 8, 400)
    shares = [np.diff(scipy.stats.norm.cdf(edges, mean)) * 1e9 for mean in (0, shift)]
    found = population_stability(*(share.astype(np.int64) for share in shares))
    assert found == pytest.approx(psi, abs=0.005)


def test_chance_exceeds_its_bound_as_often_as_it_should() -> None:
    """Of 4000 pairs of equal samples, one in a thousand exceeds the bound made for that."""
    rng, share = np.random.default_rng(0), np.full(10, 0.1)
    pairs = rng.multinomial(2_000, share, (4_000, 2))
    found = [population_stability(one, other) for one, other in pairs]
    bound = chance(2_000, 2_000, 10) / scipy.stats.chi2.isf(1e-6, 9) * scipy.stats.chi2.isf(1e-3, 9)
    assert 0 <= sum(psi > bound for psi in found) <= 12


def test_the_first_window_is_compared_with_nothing() -> None:
    assert close(watch(), 0) == ()


def test_an_input_that_stands_still_raises_no_alarm_in_200_windows() -> None:
    watched = watch()
    found = [close(watched, number) for number in range(200)]
    assert all(len(shifts) == 4 for shifts in found[1:])
    assert [drifted(shifts) for shifts in found] == [[]] * 200


@pytest.mark.parametrize(
    ("feature", "changed"),
    [
        ("price", {"price": np.random.default_rng(1).normal(0.7, 1, WINDOW)}),
        ("price", {"price": np.full(WINDOW, -50.0)}),
        ("price", {"price": np.random.default_rng(1).normal(0, 3, WINDOW)}),
        ("flag", {"flag": np.ones(WINDOW)}),
        ("flag", {"flag": np.full(WINDOW, -1.0)}),
        ("site", {"site": np.full(WINDOW, 77)}),
        ("site", {"site": np.arange(2, WINDOW + 2)}),
        ("tags", {"second": np.zeros(WINDOW)}),
        ("tags", {"tags": np.full(WINDOW, 30)}),
    ],
)
def test_a_feature_that_changes_is_named(feature: str, changed: dict[str, np.ndarray]) -> None:
    watched = watch()
    close(watched, 0)
    assert drifted(close(watched, 1)) == []
    shifts = close(watched, 2, **changed)
    assert drifted(shifts) == [feature]
    told = next(shift for shift in shifts if shift.has_drifted)
    assert (told.begin, told.end) == (0, WINDOW)


def test_what_has_drifted_is_compared_with_what_it_has_become() -> None:
    watched, there = watch(), {"site": np.full(WINDOW, 77)}
    for number in range(2):
        close(watched, number)
    assert drifted(close(watched, 2, **there)) == ["site"]
    named = [{s.feature: s for s in close(watched, number, **there)} for number in (3, 4)]
    assert sorted(named[0]) == ["flag", "price", "tags"]
    assert (named[1]["site"].begin, named[1]["site"].end) == (3 * WINDOW, 4 * WINDOW)
    assert named[1]["site"].psi == pytest.approx(0)
    assert drifted(close(watched, 5)) == ["site"]


def test_a_small_window_asks_for_more_than_the_threshold() -> None:
    watched = watch(window=50)
    for number in range(2):
        watched.add(clicks(50, number))
        shifts = watched.close((number + 1) * 50)
    expected = scipy.stats.chi2.isf(1e-6, 10) * 2 / 50
    assert shifts[0].threshold == pytest.approx(expected)
    assert shifts[0].threshold > 1


@pytest.mark.parametrize("step", [1, 7, 500])
def test_rows_are_looked_at_evenly_however_batches_are_cut(step: int) -> None:
    watched, whole = watch(window=5 * SAMPLE), clicks(5 * SAMPLE, 0)
    for begin in range(0, len(whole), step):
        watched.add(whole[begin : begin + step])
    assert watched.state.numeric.values.tolist() == whole.numeric[::5].tolist()
    assert watched.state.categorical.values.tolist() == whole.categorical[::5].tolist()


def test_a_watch_goes_on_from_its_state_as_if_nothing_had_happened() -> None:
    adapter = TypeAdapter(StabilityState)
    whole, state = watch(), watch().state
    for number in range(6):
        changed = {"price": np.full(WINDOW, 3.0)} if number >= 3 else {}
        batch = clicks(WINDOW, number, **changed)
        for begin in range(0, WINDOW, 200):
            part = watch(adapter.validate_json(adapter.dump_json(state)))
            for one in (part, whole):
                one.add(batch[begin : begin + 200])
            state = part.state
        part = watch(state)
        assert part.close((number + 1) * WINDOW) == whole.close((number + 1) * WINDOW)
        state = part.state
        assert state == whole.state


def test_a_stream_without_numbers_is_watched_too() -> None:
    schema = FeatureSchema(categorical=SCHEMA.categorical[:1])
    watched = InputComparison(schema, WINDOW, threshold=0.2)
    for number, site in enumerate((5, 5, 6)):
        drawn = clicks(WINDOW, 0, site=np.full(WINDOW, site))
        watched.add(
            ClickBatch(
                drawn.label,
                drawn.weight,
                drawn.time_ms,
                drawn.numeric[:, :0],
                drawn.categorical[:, :1],
            )
        )
        shifts = watched.close((number + 1) * WINDOW)
    assert drifted(shifts) == ["site"]
