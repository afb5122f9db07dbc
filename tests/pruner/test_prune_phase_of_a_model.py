from __future__ import annotations

import pytest
import torch

from learner import LearnerConfig, MaskingConfig
from learner.snapshots import dump_tensors, load_tensors
from pruner import criteria
from pruner.criteria.aux import Aux
from pruner.criterion import CriterionFailedError, Stateless
from pruner.evidence import Evidence, Need, gather
from pruner.sparsity import Schedule
from pruner.updaters import Recipe
from tests.learner.worlds import batches
from tests.learner.worlds import model as dlrm
from tests.pruner.nets import Job, clicks, job, model, ripe


def test_it_prunes_and_then_fine_tunes_under_a_mask_that_stays() -> None:
    running = job(Aux(), steps=20)
    stream = clicks(30)
    for batch in stream[:20]:
        assert not running.phase.frozen
        running.learn(batch)
    masks = {name: mask.clone() for name, mask in running.model.masks.items()}
    assert running.phase.frozen
    before = {name: running.model.theta(name) for name in running.model.prunable}
    for batch in stream[20:]:
        running.learn(batch)
    for name, mask in running.model.masks.items():
        assert torch.equal(mask, masks[name])
        changed = running.model.theta(name) != before[name]
        assert changed[mask].any()
        assert not changed[~mask].any()


def test_a_weight_that_comes_back_has_the_value_it_was_cut_with() -> None:
    """A criterion that cuts the first half of each row, then the second."""
    shown: list[int] = []

    def halves(layer: Evidence) -> torch.Tensor:
        columns = torch.arange(layer.weight.shape[1]).expand_as(layer.weight)
        shown.append(1)
        return (columns if len(shown) <= 3 else -columns).float()

    recipe = Recipe(Stateless("halves", halves), Schedule("linear", 0.1), "uniform", 0.5, steps=2)
    running = Job.of(ripe(), recipe)
    first, second = clicks(2)
    running.learn(first)
    cut = ~running.model.masks["top.0"]
    theta = running.model.theta("top.0")
    running.learn(second)
    back = running.model.masks["top.0"] & cut
    assert back.any()
    assert torch.equal(running.model.module.get_parameter("top.0.weight")[back], theta[back])


def test_gradients_of_cut_weights_are_observed() -> None:
    seen: list[bool] = []

    def score(layer: Evidence) -> torch.Tensor:
        if layer.mask is not None and not layer.mask.all():
            seen.append(bool((layer.need(Need.GRADIENT)[~layer.mask] != 0).any()))
        return layer.weight.abs()

    running = job(Stateless("spy", score), steps=4)
    for batch in clicks(4):
        running.learn(batch)
    assert any(seen)


def test_only_evidence_that_is_needed_is_gathered() -> None:
    kinds: list[frozenset[Need]] = []

    def score(layer: Evidence) -> torch.Tensor:
        kinds.append(frozenset(n for n in Need if getattr(layer, n.value) is not None))
        return layer.weight.abs()

    job(Stateless("all", score), steps=1).learn(clicks(1)[0])
    job(Stateless("none", score, frozenset()), steps=1).learn(clicks(1)[0])
    assert kinds[0] == frozenset(Need)
    assert kinds[-1] == {Need.GRADIENT}


def test_a_layer_that_no_batch_uses_has_a_gradient_of_zero() -> None:
    online = model()
    layers = gather(online, frozenset(), {}, online.forward(clicks(1)[0]))
    assert all(not one.need(Need.GRADIENT).any() for one in layers.values())


def test_with_all_weights_kept_it_learns_what_the_model_would() -> None:
    plain, running = ripe(), job(Aux(), steps=5, sparsity=0.0)
    for batch in clicks(8):
        plain.learn(batch)
        running.learn(batch)
    state = running.model.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state().items())


@pytest.mark.parametrize("name", criteria.BUILT_IN)
@pytest.mark.parametrize("stop", [3, 10, 14])
def test_it_goes_on_from_a_state_bit_for_bit(name: str, stop: int) -> None:
    stream = clicks(20)
    through = job(criteria.build(name), steps=10)
    resumed = job(criteria.build(name), steps=10)
    for step, batch in enumerate(stream):
        if step == stop:
            kept = dump_tensors(resumed.state())
            resumed = Job.of(model(seed=5), resumed.phase.recipe, seed=5)
            resumed.load(load_tensors(kept))
        through.learn(batch)
        resumed.learn(batch)
    assert dump_tensors(through.state()) == dump_tensors(resumed.state())


def test_a_criterion_that_raises_stops_the_step() -> None:
    def broken(layer: Evidence) -> torch.Tensor:
        raise RuntimeError("no scores today")

    running = job(Stateless("broken", broken), steps=2)
    before = running.model.state()
    with pytest.raises(CriterionFailedError, match="no scores today"):
        running.learn(clicks(1)[0])
    assert all(torch.equal(before[n], t) for n, t in running.model.state().items())


def test_embeddings_are_pruned_with_the_layers_where_that_is_asked_for() -> None:
    config = LearnerConfig(masking=MaskingConfig(embeddings=True))
    online = dlrm(config=config)
    recipe = Recipe(Aux(), Schedule(every_steps=2), sparsity=0.7, steps=6)
    running = Job.of(online, recipe)
    stream = batches(12)
    for batch in stream[:6]:
        running.learn(batch)
    sizes = {name: mask.numel() for name, mask in online.masks.items()}
    assert set(online.masks) == set(online.prunable)
    assert {"embedding", "first_order.buckets"} <= set(online.masks)
    kept = sum(int(mask.sum()) for mask in online.masks.values())
    assert kept == sum(sizes.values()) - round(0.7 * sum(sizes.values()))
    table = online.module.get_parameter("embedding.weight")
    pruned, before = ~online.masks["embedding"], online.theta("embedding")
    assert not table[pruned].any()
    for batch in stream[6:]:
        running.learn(batch)
    assert torch.equal(online.theta("embedding")[pruned], before[pruned])
    assert not torch.equal(online.theta("embedding"), before)
    resumed = Job.of(dlrm(seed=4, config=config), recipe)
    resumed.load(load_tensors(dump_tensors(running.state())))
    assert dump_tensors(resumed.state()) == dump_tensors(running.state())


def test_the_evidence_of_an_embedding_has_a_gradient_for_every_row() -> None:
    online = dlrm(config=LearnerConfig(masking=MaskingConfig(embeddings=True)))
    (batch,) = batches(1)
    found = gather(online, frozenset(), online.gradients(batch), online.forward(batch))
    gradient = found["embedding"].need(Need.GRADIENT)
    assert gradient.shape == found["embedding"].weight.shape
    assert torch.equal(gradient, online.gradients(batch)["embedding"].to_dense())


def test_a_state_of_another_criterion_is_refused_by_a_prune_phase() -> None:
    running, other = job(criteria.build("mop"), steps=2), job(Aux(), steps=2)
    with pytest.raises(ValueError, match="prune phase is not that of criterion 'mop' on this mod"):
        running.phase.load(other.phase.state())
