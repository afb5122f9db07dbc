from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pruner import Criterion, PrunerConfig, criteria
from pruner.criteria.aux import Aux
from pruner.criteria.magnitude import MAGNITUDE
from pruner.masks import sparsity as sparsity_of
from pruner.sparsity import (
    ALLOCATIONS,
    Blocks,
    Groups,
    Pattern,
    Schedule,
    keep_exactly,
    kept_of,
    pattern_of,
    unstructured,
)
from pruner.updaters import Adaptation, AdaptationOptions, Recipe, UpdaterContext, recipe
from stream import RunSpec
from tests.pruner.nets import Job, clicks, learn, ripe

shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)
groups = st.integers(2, 6).flatmap(lambda m: st.tuples(st.integers(1, m - 1), st.just(m)))
Masks = dict[str, NDArray[np.bool_]]


def scores_of(layers: list[tuple[int, int]], seed: int) -> dict[str, Tensor]:
    """Make scores of few values, some below zero, so that there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{i}": torch.randint(-3, 3, shape, generator=generator).float()
        for i, shape in enumerate(layers)
    }


def best_first(
    values: list[tuple[float, str, int]], layers: list[str], kept: int
) -> set[tuple[str, int]]:
    """Choose by score, of equals the earlier, after the best of each layer: no tensors at all."""
    order = sorted(values, key=lambda v: (-v[0], layers.index(v[1]), v[2]))
    best = [next(v for v in order if v[1] == layer) for layer in layers]
    others = [v for v in order if v not in best]
    return {v[1:] for v in [*best, *others[: kept - len(layers)]]}


def grouped(scores: Mapping[str, Tensor], sparsity: float, n: int, m: int) -> Masks:
    """Brute force, weight by weight."""
    weights = sum(score.numel() for score in scores.values())
    kept = kept_of(weights, len(scores), sparsity)
    for most in range(n, m + 1):
        offered = []
        for name, score in scores.items():
            rows, columns = score.shape
            for row in range(rows):
                for begin in range(0, columns, m):
                    group = [
                        (float(score[row, c]), -c) for c in range(begin, min(begin + m, columns))
                    ]
                    best = sorted(group, reverse=True)[:most]
                    offered += [(s, name, row * columns - c) for s, c in best]
        if len(offered) >= kept:
            break
    chosen = best_first(offered, list(scores), kept)
    return {
        name: np.array([(name, i) in chosen for i in range(one.numel())]).reshape(one.shape)
        for name, one in scores.items()
    }


def blocked(scores: Mapping[str, Tensor], sparsity: float, r: int, c: int) -> Masks:
    """Brute force, block by block and number by number."""
    offered, places = [], {}
    for name, score in scores.items():
        values = score.double().numpy()
        corners = [(y, x) for y in range(0, len(values), r) for x in range(0, len(values[0]), c)]
        for i, (y, x) in enumerate(corners):
            offered.append((float(values[y : y + r, x : x + c].mean()), name, i))
            places[name, i] = (slice(y, y + r), slice(x, x + c))
    weights = sum(score.numel() for score in scores.values())
    wanted = kept_of(weights, len(scores), sparsity)
    tries = []
    for kept in range(len(scores), len(offered) + 1):
        found = {name: np.zeros(tuple(score.shape), dtype=bool) for name, score in scores.items()}
        for name, i in best_first(offered, list(scores), kept):
            found[name][places[name, i]] = True
        tries.append((abs(sum(int(one.sum()) for one in found.values()) - wanted), kept, found))
    return min(tries, key=lambda one: one[:2])[2]


@given(shapes, groups, st.floats(0, 0.999), st.integers(0, 9))
def test_groups_equal_a_choice_weight_by_weight(
    layers: list[tuple[int, int]], pattern: tuple[int, int], sparsity: float, seed: int
) -> None:
    scores = scores_of(layers, seed)
    expected = grouped(scores, sparsity, *pattern)
    for name, mask in keep_exactly(scores, sparsity, "global", Groups(*pattern)).items():
        np.testing.assert_array_equal(mask.numpy(), expected[name])


@given(shapes, st.tuples(st.integers(1, 4), st.integers(1, 4)), st.floats(0, 0.999))
def test_blocks_equal_a_choice_block_by_block(
    layers: list[tuple[int, int]], block: tuple[int, int], sparsity: float
) -> None:
    scores = scores_of(layers, len(layers))
    expected = blocked(scores, sparsity, *block)
    for name, mask in keep_exactly(scores, sparsity, "global", Blocks(*block)).items():
        np.testing.assert_array_equal(mask.numpy(), expected[name])


def fullest(mask: Tensor, m: int) -> int:
    """Return the most weights that a group of a mask keeps."""
    rows = mask.numpy().astype(int)
    return max(int(rows[:, i : i + m].sum(1).max()) for i in range(0, rows.shape[1], m))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@given(shapes, groups, st.floats(0, 0.999))
def test_groups_keep_exactly_as_many_as_asked_and_never_more_than_n_of_m(
    allocation: str, layers: list[tuple[int, int]], pattern: tuple[int, int], more: float
) -> None:
    n, m = pattern
    sparsity = (1 - n / m) + more * (n / m)
    scores = scores_of(layers, n)
    masks = keep_exactly(scores, sparsity, allocation, Groups(n, m))
    weights = sum(score.numel() for score in scores.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == kept_of(
        weights, len(scores), sparsity
    )
    assert all(mask.any() and fullest(mask, m) <= n for mask in masks.values())


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_whole_blocks_keep_as_many_weights_as_asked_to_half_a_block(allocation: str) -> None:
    scores = scores_of([(8, 12), (4, 8), (4, 4)], 1)
    for sparsity in (0.0, 0.3, 0.5, 0.8):
        masks = keep_exactly(scores, sparsity, allocation, Blocks(4, 2))
        kept = sum(int(mask.sum()) for mask in masks.values())
        assert abs(kept - 144 * (1 - sparsity)) <= 4.5
        assert kept % 8 == 0
        assert all(mask.any() for mask in masks.values())


def test_a_block_at_an_edge_is_ranked_by_its_mean() -> None:
    """A layer of one output beside one of four: its blocks of one weight are not at a loss."""
    scores = {"top": torch.full((4, 4), 2.0), "logit": torch.tensor([[1.0, 3.0, 4.0, 5.0]])}
    masks = keep_exactly(scores, 0.45, pattern=Blocks(4, 1))
    assert masks["logit"].tolist() == [[False, True, True, True]]
    assert masks["top"].sum(1).tolist() == [2, 2, 2, 2]


def test_at_its_own_sparsity_every_whole_group_keeps_exactly_n() -> None:
    scores = scores_of([(3, 8), (5, 12)], 2)
    for allocation in ALLOCATIONS:
        for mask in keep_exactly(scores, 0.5, allocation, Groups(2, 4)).values():
            assert (mask.view(len(mask), -1, 4).sum(2) == 2).all()


def test_the_rest_of_a_row_is_a_group_of_its_own() -> None:
    scores = {"top": torch.tensor([[1.0, 2.0, 3.0, 4.0, 9.0, 8.0, 7.0]])}
    mask = keep_exactly(scores, 3 / 7, pattern=Groups(2, 4))["top"]
    assert mask.int().tolist() == [[0, 0, 1, 1, 1, 1, 0]]


def test_a_block_larger_than_a_layer_is_the_layer() -> None:
    scores = {"a": torch.zeros(2, 3), "b": torch.ones(4, 8)}
    masks = keep_exactly(scores, 0.999, pattern=Blocks(4, 4))
    assert masks["a"].all()
    assert masks["b"].sum() == 16


def test_blocks_of_one_weight_are_no_pattern() -> None:
    scores = scores_of([(5, 7), (2, 3)], 4)
    for allocation in ALLOCATIONS:
        found = keep_exactly(scores, 0.6, allocation, Blocks(1, 1))
        plain = keep_exactly(scores, 0.6, allocation)
        assert all(torch.equal(found[name], mask) for name, mask in plain.items())


@pytest.mark.parametrize("criterion", [MAGNITUDE, Aux(), criteria.build("fisher_ema")])
@pytest.mark.parametrize("pattern", [Groups(1, 4), Blocks(4, 1)], ids=str)
def test_the_mask_of_a_model_has_the_pattern_at_the_freeze(
    criterion: Criterion, pattern: Pattern
) -> None:
    how = Recipe(criterion, Schedule(), sparsity=0.8, steps=10, pattern=pattern)
    running = Job.of(ripe(), how)
    for batch in clicks(12, seed=3):
        running.learn(batch)
    masks = running.model.masks
    assert running.phase.frozen
    if isinstance(pattern, Groups):
        assert max(fullest(mask, 4) for mask in masks.values()) == 1
        assert sparsity_of(masks) == pytest.approx(0.8, abs=0.5 / 1440)
    else:
        whole = {n: mask.view(-1, 4, mask.shape[1]) for n, mask in masks.items() if len(mask) > 1}
        assert len(whole) == 2
        assert all(torch.equal(mask.all(1), mask.any(1)) for mask in whole.values())
        assert sparsity_of(masks) == pytest.approx(0.8, abs=2.5 / 1440)


def test_a_ramp_fills_groups_with_more_than_n_until_it_is_sparse_enough() -> None:
    how = Recipe(MAGNITUDE, Schedule(), sparsity=0.75, steps=3, pattern=Groups(1, 4))
    running, found = Job.of(ripe(), how), []
    for batch in clicks(3, seed=3):
        running.learn(batch)
        found.append(max(fullest(mask, 4) for mask in running.model.masks.values()))
    assert found == [3, 2, 1]


def test_an_adapting_mask_keeps_the_pattern() -> None:
    how = Recipe(Aux(), Schedule(), sparsity=0.8, steps=5, pattern=Groups(1, 4))
    model = ripe()
    context = UpdaterContext(model, how, RunSpec.small(), np.random.default_rng(0))
    updater = Adaptation(AdaptationOptions(), context)
    found = []
    for batch in clicks(15, seed=3):
        learn(model, updater, batch)
        if model.masks:
            assert max(fullest(mask, 4) for mask in model.masks.values()) == 1
            found.append(torch.cat([mask.flatten() for mask in model.masks.values()]))
    assert len(found) == 11
    assert {int(mask.sum()) for mask in found} == {kept_of(1440, 3, 0.8)}
    assert not torch.equal(found[0], found[-1])


def test_a_pattern_is_read_from_the_settings() -> None:
    for text, found in (
        ("unstructured", unstructured),
        ("1:4", Groups(1, 4)),
        ("4x2", Blocks(4, 2)),
    ):
        config = PrunerConfig(pattern=text)
        assert recipe(config, RunSpec.small()).pattern == found


@pytest.mark.parametrize("text", ["2:2", "0:4", "4:2", "4", "2/4", "0x4", "4x", "", "2:4 ", "x"])
def test_an_unknown_pattern_is_refused_with_those_known(text: str) -> None:
    with pytest.raises(ValueError, match=f"unknown pattern '{text}'; known: 'unstructured', N:M"):
        pattern_of(text)


def test_a_sparsity_below_that_of_a_pattern_is_refused() -> None:
    for sparsity in (0.0, 0.4, 0.49999):
        config = PrunerConfig(pattern="2:4", sparsity=sparsity)
        with pytest.raises(ValueError, match=r"'2:4' allows: set the sparsity to 0\.5 or more"):
            recipe(config, RunSpec.small())
    for text, sparsity in (("2:4", 0.5), ("3:10", 0.7), ("1:3", 0.6666666667), ("4x1", 0.1)):
        recipe(PrunerConfig(pattern=text, sparsity=sparsity), RunSpec.small())
