from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruner.sparsity import (
    ALLOCATIONS,
    erk,
    global_,
    global_layer_mean,
    keep_exactly,
    kept_of,
    lamp,
    uniform,
)

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def scores_of(counts: list[int], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{i}": torch.randint(0, 6, (1, n), generator=generator).float()
        for i, n in enumerate(counts)
    }


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(sizes, st.floats(0, 0.999), st.integers(0, 9))
def test_it_keeps_exactly_as_many_as_asked_and_empties_no_layer(
    name: str, counts: list[int], sparsity: float, seed: int
) -> None:
    scores = scores_of(counts, seed)
    kept = ALLOCATIONS[name](scores, sparsity)
    assert sum(kept.values()) == kept_of(sum(counts), len(counts), sparsity)
    for layer, score in scores.items():
        assert 1 <= kept[layer] <= score.numel()


@given(sizes, st.floats(0, 0.999), st.integers(0, 9))
def test_global_equals_ranking_all_weights_in_one_list(
    counts: list[int], sparsity: float, seed: int
) -> None:
    scores = scores_of(counts, seed)
    assert global_(scores, sparsity) == ranked({n: flat(s) for n, s in scores.items()}, sparsity)


def ranked(scores: Mapping[str, Sequence[float]], sparsity: float) -> dict[str, int]:
    """Brute force: the best of each layer first, then all others by score, then by place."""
    entries = [(s, -i, name) for name, score in scores.items() for i, s in enumerate(score)]
    best = {name: max(e for e in entries if e[2] == name) for name in scores}
    order = {name: i for i, name in enumerate(scores)}
    others = [e for e in entries if e != best[e[2]]]
    others.sort(key=lambda e: (-e[0], order[e[2]], -e[1]))
    kept = kept_of(len(entries), len(scores), sparsity)
    chosen = [*best.values(), *others[: kept - len(scores)]]
    return {n: sum(e[2] == n for e in chosen) for n in scores}


@given(sizes, st.floats(0, 0.999), st.integers(0, 9))
def test_global_layer_mean_equals_ranking_scores_over_their_means_in_one_list(
    counts: list[int], sparsity: float, seed: int
) -> None:
    scores = scores_of(counts, seed)
    divided = {}
    for name, score in scores.items():
        values = np.array(flat(score), dtype=np.float64)
        divided[name] = (values / values.mean() if values.any() else values).tolist()
    assert global_layer_mean(scores, sparsity) == ranked(divided, sparsity)


def test_the_size_of_a_layers_scores_does_not_matter_to_global_layer_mean() -> None:
    """Powers of two, so that nothing is rounded; the smallest are subnormal in float32."""
    scores = random_scores()
    for exponent in (-140, -30, 30):
        scaled = scores | {"b": scores["b"] * 2.0**exponent}
        assert global_layer_mean(scaled, 0.6) == global_layer_mean(scores, 0.6)
    assert global_(scores | {"b": scores["b"] * 2.0**-30}, 0.6)["b"] == 1


def test_a_mean_too_small_for_float32_divides_under_global_layer_mean() -> None:
    least = 2.0**-149
    scores = {"a": torch.tensor([[least] * 2 + [0.0] * 6]), "b": torch.arange(1.0, 9.0)[None]}
    assert scores["a"].mean() == 0
    assert global_layer_mean(scores, 0.75) == {"a": 2, "b": 2}


def random_scores() -> dict[str, Tensor]:
    """Make whole numbers, of which a layer's scores have few bits."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randint(1, 64, shape, generator=generator).float()
        for name, shape in {"a": (8, 6), "b": (4, 8), "c": (1, 4)}.items()
    }


def test_a_layer_whose_scores_are_all_zero_keeps_one_weight_under_global_layer_mean() -> None:
    scores = {"dead": torch.zeros(2, 5), "alive": torch.arange(1.0, 11.0)[None] * 1e-9}
    assert global_layer_mean(scores, 0.5) == {"dead": 1, "alive": 9}


def test_the_order_of_negative_scores_stays_under_global_layer_mean() -> None:
    scores = {"a": torch.tensor([[-1.0, -2.0, -3.0]]), "b": torch.tensor([[-5.0, 1.0, 4.0]])}
    assert global_layer_mean(scores, 0.5) == {"a": 1, "b": 2}


@given(sizes, st.floats(0, 0.999), st.integers(0, 9))
def test_lamp_equals_ranking_adaptive_scores_in_one_list(
    counts: list[int], sparsity: float, seed: int
) -> None:
    """Brute force: for every weight a sum over all weights of its layer that outlive it."""
    scores = scores_of(counts, seed)
    adaptive = {}
    for name, score in scores.items():
        values = flat(score)
        outliving = [
            sum(v * v for j, v in enumerate(values) if (v, -j) >= (value, -i))
            for i, value in enumerate(values)
        ]
        adaptive[name] = [v * v / s if s else 0.0 for v, s in zip(values, outliving, strict=True)]
    assert lamp(scores, sparsity) == ranked(adaptive, sparsity)


def test_the_size_of_a_layers_scores_does_not_matter_to_lamp() -> None:
    scores = random_scores()
    for exponent in (-140, -30, 30):
        scaled = scores | {"b": scores["b"] * 2.0**exponent}
        assert lamp(scaled, 0.6) == lamp(scores, 0.6)


def test_scores_below_zero_count_as_zero_under_lamp() -> None:
    scores = {"a": torch.tensor([[-9.0, 1.0]]), "b": torch.tensor([[3.0, 3.0]])}
    assert lamp(scores, 0.25) == {"a": 1, "b": 2}
    assert lamp({"a": torch.full((1, 4), -1.0), "b": torch.ones(1, 4)}, 0.5) == {"a": 1, "b": 3}


shapes = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=5)


@given(shapes, st.floats(0, 0.999))
def test_erk_is_the_rule_between_one_weight_and_all(
    layers: list[tuple[int, int]], sparsity: float
) -> None:
    """The scale by bisection, in float64; no count is further from the rule than rounding."""
    scores = {f"layer{i}": torch.zeros(shape) for i, shape in enumerate(layers)}
    sides = np.array([out + inputs for out, inputs in layers], dtype=np.float64)
    sizes = np.array([out * inputs for out, inputs in layers], dtype=np.float64)
    kept = kept_of(int(sizes.sum()), len(layers), sparsity)
    low, high = 0.0, float(sizes.max())
    for _ in range(200):
        middle = (low + high) / 2
        enough = np.clip(middle * sides, 1, sizes).sum() >= kept
        low, high = (low, middle) if enough else (middle, high)
    found = np.array(list(erk(scores, sparsity).values()))
    assert np.abs(found - np.clip(high * sides, 1, sizes)).max() < 1 + 1e-6
    assert found.sum() == kept


def test_erk_has_the_densities_of_the_paper() -> None:
    """The MLP 784-300-100-10 at 90 %: e (in + out) weights, here e = 26620 / 1594 and no cap."""
    scores = {f"{a}": torch.zeros(b, a) for a, b in ((784, 300), (300, 100), (100, 10))}
    total = 784 * 300 + 300 * 100 + 100 * 10
    assert total == 266_200
    density = {name: kept / scores[name].numel() for name, kept in erk(scores, 0.9).items()}
    scale = (26_620 - 1_000) / (1084 + 400)
    assert 26_620 / 1594 * 110 > 1_000
    assert density["100"] == 1.0
    assert density["784"] == pytest.approx(scale * 1084 / (784 * 300), abs=1e-5)
    assert density["300"] == pytest.approx(scale * 400 / (300 * 100), abs=1e-4)


def flat(score: Tensor) -> list[float]:
    found: list[float] = score.flatten().tolist()
    return found


def test_uniform_does_not_look_at_scores() -> None:
    scores: Mapping[str, Tensor] = {"a": torch.full((2, 5), 9.0), "b": torch.zeros(2, 5)}
    assert uniform(scores, 0.8) == {"a": 2, "b": 2}


def test_the_better_layer_keeps_more_under_global() -> None:
    scores = {"a": torch.arange(10.0)[None], "b": torch.arange(10.0)[None] + 5}
    assert global_(scores, 0.7) == {"a": 1, "b": 5}


def test_the_highest_scores_are_kept_over_all_layers() -> None:
    scores = {"a": torch.tensor([[5.0, 1.0]]), "b": torch.tensor([[4.0, 3.0], [2.0, 0.0]])}
    masks = keep_exactly(scores, sparsity=0.5)
    assert masks["a"].tolist() == [[True, False]]
    assert masks["b"].tolist() == [[True, True], [False, False]]
