from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pruner.criteria.aux import Aux, AuxOptions, auxiliary, cutoff, importance, start_of
from pruner.criterion import State
from pruner.evidence import Evidence, with_means
from pruner.masks import sparsity
from pruner.sparsity import Phase
from tests.pruner.nets import clicks, job, open_end, random_evidence

SHAPES = {"first": (6, 4), "second": (1, 6)}


def evidence(seed: int) -> dict[str, Evidence]:
    return random_evidence(SHAPES, seed)


def observed(aux: Aux, stream: list[dict[str, Evidence]]) -> dict[str, State]:
    rng = np.random.default_rng(0)
    states = {name: aux.init(layer, rng) for name, layer in stream[0].items()}
    for layers in stream:
        states = {name: aux.observe(states[name], layer) for name, layer in layers.items()}
    return states


def sgd(stream: list[dict[str, Evidence]], penalty: float, start: float) -> dict[str, Tensor]:
    """Run the paper's update as it is printed, in float64 with a rate of its own."""
    rate = 0.01
    a = {n: np.full(layer.weight.shape, rate * start) for n, layer in stream[0].items()}
    for layers in stream:
        for name, layer in layers.items():
            assert layer.gradient is not None
            theta, gradient = layer.weight.double().numpy(), layer.gradient.double().numpy()
            g, m = np.abs(gradient * theta), np.abs(theta)
            a[name] += rate * (0.5 * g / g.mean() + 0.5 * m / m.mean() - penalty)
    return {name: torch.from_numpy(value / rate) for name, value in a.items()}


def test_a_is_what_plain_sgd_makes_of_it_in_units_of_the_rate() -> None:
    stream = [evidence(seed) for seed in range(30)]
    expected = sgd(stream, penalty=0.9, start=2.0)
    for name, state in observed(Aux(AuxOptions(penalty=0.9, start=2.0)), stream).items():
        found = auxiliary(state, 0.9, 2.0).double()
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("penalty", [0.4, 0.9, 1.6])
def test_a_weight_is_kept_iff_its_average_importance_exceeds_the_penalty_less_t0_over_k(
    penalty: float,
) -> None:
    steps = 25
    stream = [evidence(seed) for seed in range(steps)]
    aux = Aux(AuxOptions(penalty=penalty))
    masks = aux.select(observed(aux, stream), {}, Phase(steps, steps, 0.8))
    threshold = penalty - start_of(penalty, steps) / steps
    for name in SHAPES:
        averages = torch.stack([importance(layers[name]) for layers in stream]).mean(0)
        assert torch.equal(masks[name], averages > threshold)
    assert threshold == pytest.approx(0.98 * penalty)


def test_importance_averages_one_in_every_layer_whatever_its_size() -> None:
    for layer in evidence(0).values():
        assert importance(layer).mean().item() == pytest.approx(1.0)


def test_with_the_printed_sum_no_importance_exceeds_one() -> None:
    options = AuxOptions(norm="layer_sum")
    for layer in evidence(0).values():
        assert importance(layer, options).sum().item() == pytest.approx(1.0)


def test_with_the_printed_sum_a_penalty_of_one_and_three_quarters_prunes_everything() -> None:
    assert open_end(AuxOptions(penalty=1.75, norm="layer_sum"), steps=12) == 1.0


def test_the_global_mean_compares_layers_by_their_averages() -> None:
    options = AuxOptions(norm="global_mean")
    layers = with_means(evidence(0))
    total = torch.cat([importance(one, options).flatten() for one in layers.values()])
    assert total.mean().item() == pytest.approx(1.0)


def test_averages_are_over_all_stored_weights_cut_or_not() -> None:
    layer = evidence(0)["first"]
    mask = layer.weight > 0
    masked = Evidence(layer.weight, layer.gradient, mask=mask)
    assert torch.equal(importance(masked), importance(layer))


def test_the_literal_form_has_an_extra_weight() -> None:
    layer = Evidence(torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 1.0]]))
    options = AuxOptions(w1=1.0, w2=0.0, literal=True)
    assert importance(layer, options).tolist() == [[1.0, 1.0]]
    assert importance(layer, AuxOptions(w1=0.75, w2=0.0)).tolist() == [[1.0, 0.5]]


def test_a_layer_without_gradient_or_weight_has_no_importance_and_no_nan() -> None:
    assert importance(Evidence(torch.zeros(2, 2), torch.ones(2, 2))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("start", [None, 3.0])
def test_a_penalty_that_is_solved_once_stays(start: float | None) -> None:
    """In float64: the quantile of the averages after 8 of 20 batches, then plain sums of I - λ."""
    steps, target = 20, 0.7
    stream = [evidence(seed) for seed in range(steps)]
    held = Aux(AuxOptions(solve_batches=7, start=start))
    anew = Aux(AuxOptions(start=start))
    states = {name: held.init(one, np.random.default_rng(0)) for name, one in stream[0].items()}
    importances: dict[str, list[Any]] = {name: [] for name in SHAPES}
    for step, layers in enumerate(stream, start=1):
        for name, one in layers.items():
            assert one.gradient is not None
            theta = np.abs(one.weight.double().numpy())
            effect = np.abs(one.gradient.double().numpy()) * theta
            importances[name].append(0.5 * effect / effect.mean() + 0.5 * theta / theta.mean())
        states = {name: held.observe(states[name], one) for name, one in layers.items()}
        if step % 4:
            continue
        masks = held.select(states, {}, Phase(step, steps, target))
        # Batches 4 and 8 solve it; that of 8, the first change after 7, stays.
        seen = min(step, 8)
        averages = {name: np.mean(found[:seen], axis=0) for name, found in importances.items()}
        ranked = np.sort(np.concatenate([found.ravel() for found in averages.values()]))
        quantile = ranked[round(len(ranked) * target) - 1]
        penalty = quantile / 0.98 if start is None else quantile + start / steps
        first = 0.02 * penalty * steps if start is None else start
        for name, found in importances.items():
            a = first + np.sum(found, axis=0) - penalty * step
            assert np.abs(a).min() > 1e-4
            np.testing.assert_array_equal(masks[name].numpy(), a > 0)
        if step == steps:
            bare = {name: {"total": s["total"], "steps": s["steps"]} for name, s in states.items()}
            other = anew.select(bare, {}, Phase(step, steps, target))
            assert any(not torch.equal(masks[name], other[name]) for name in SHAPES)


def test_with_a_penalty_that_stays_the_freeze_is_exact() -> None:
    running = job(Aux(AuxOptions(solve_batches=10)), steps=40, sparsity=0.8)
    found = []
    for batch in clicks(40, seed=2):
        running.learn(batch)
        found.append(running.phase.run.states["top.0"]["penalty"].item())
    assert found[8] == -1.0
    assert found[9] > 0
    assert set(found[9:]) == {found[9]}
    assert sparsity(running.model.masks) == pytest.approx(0.8, abs=1 / 1000)


def test_a_penalty_is_set_or_solved() -> None:
    with pytest.raises(ValidationError, match="solve_batches is for a penalty that is solved"):
        AuxOptions(penalty=1.0, solve_batches=10)
    with pytest.raises(ValidationError, match="solve_batches"):
        AuxOptions(solve_batches=0)


def test_sparsity_rises_with_the_penalty() -> None:
    found = [open_end(AuxOptions(penalty=penalty), 100) for penalty in (1.0, 1.25, 1.5, 1.75)]
    assert all(b > a + 0.02 for a, b in pairwise(found))


def test_sparsity_does_not_depend_on_the_length_of_the_phase() -> None:
    found = [open_end(AuxOptions(penalty=1.5), steps) for steps in (50, 100, 200, 400)]
    assert max(found) - min(found) <= 0.02


def test_with_one_absolute_start_it_does_depend_on_the_length() -> None:
    found = [open_end(AuxOptions(penalty=1.5, start=6.0), steps) for steps in (50, 100, 400)]
    assert found[0] < found[1] < found[2]
    assert found[2] - found[0] > 0.03


def test_sparsity_does_not_depend_on_the_width() -> None:
    found = [open_end(AuxOptions(penalty=1.5), 100, width) for width in (32, 64, 128)]
    assert found == pytest.approx([np.mean(found)] * 3, abs=0.02)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9])
def test_without_a_penalty_it_meets_the_target(target: float) -> None:
    running = job(Aux(), steps=80, sparsity=target)
    before = 0.0
    for batch in clicks(80, seed=2):
        before = sparsity(running.model.masks) if running.model.masks else 0.0
        running.learn(batch)
    assert before == pytest.approx(target, abs=0.02)
    assert sparsity(running.model.masks) == pytest.approx(target, abs=1 / 1000)


def test_ranking_by_score_is_ranking_by_a() -> None:
    aux = Aux(AuxOptions(penalty=1.2))
    stream = [evidence(seed) for seed in range(5)]
    for name, state in observed(aux, stream).items():
        a = auxiliary(state, 1.2, 3.0).flatten()
        score = aux.score(state, stream[-1][name]).flatten()
        assert torch.equal(a.argsort(), score.argsort())


def test_a_weight_that_was_cut_comes_back_when_the_stream_pulls_on_it() -> None:
    """Layer of two: the first weight matters for 4 batches, then only the second does."""
    aux = Aux(AuxOptions(w1=1.0, w2=0.0, penalty=0.9, start=1.0))
    weight = torch.ones(1, 2)
    early, late = (Evidence(weight, torch.tensor([g])) for g in ([1.0, 0.0], [0.0, 1.0]))
    kept = []
    state = aux.init(early, np.random.default_rng(0))
    for step in range(1, 9):
        state = aux.observe(state, early if step <= 4 else late)
        kept.append(aux.select({"one": state}, {}, Phase(step, 8, 0.5))["one"][0].tolist())
    assert kept[3] == [True, False]
    assert kept[7] == [True, True]


def test_a_clamp_lets_a_weight_come_back_sooner() -> None:
    early, late = (
        {"one": Evidence(torch.ones(1, 2), torch.tensor([g]))} for g in ([1.0, 0.0], [0.0, 1.0])
    )
    revived = {}
    for clamp in (None, 1.0):
        options = AuxOptions(w1=1.0, w2=0.0, penalty=0.9, start=0.0, clamp=clamp)
        aux = Aux(options)
        states = observed(aux, [early] * 10)
        revived[clamp] = next(
            step
            for step in range(1, 30)
            if auxiliary(observed_on(aux, states, late, step)["one"], 0.9, 0.0)[0, 1] > 0
        )
        if clamp:
            assert auxiliary(states["one"], 0.9, 0.0).abs().max() <= 1.0 + 1e-6
    assert revived[None] == 9
    assert revived[1.0] == 1


def observed_on(
    aux: Aux, states: dict[str, State], layers: dict[str, Evidence], steps: int
) -> dict[str, State]:
    states = {n: {k: t.clone() for k, t in s.items()} for n, s in states.items()}
    for _ in range(steps):
        states = {n: aux.observe(states[n], layer) for n, layer in layers.items()}
    return states


@pytest.mark.parametrize("missing", [{"penalty": 1.0}, {"start": 1.0}, {}])
def test_a_clamp_without_fixed_penalty_and_start_is_refused(missing: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="clamp needs a fixed penalty and start"):
        AuxOptions(clamp=1.0, **missing)


def test_nothing_is_cut_at_a_sparsity_of_zero() -> None:
    assert cutoff(torch.tensor([1.0, 2.0]), 0.0) == 0.0
