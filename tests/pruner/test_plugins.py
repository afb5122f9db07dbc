"""Evidence, triggers and updaters of another package, end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruner import ComparisonConfig, Need, PrunerConfig, Stateless, TriggerConfig, criteria
from pruner.conformance import check
from pruner.criterion import CriterionFailedError
from pruner.evidence import Evidence, provider
from pruner.triggers import Fire, Score, Seen, build
from pruner.updaters import Recipe, for_comparison, recipe
from stream.spec import RunSpec
from tests.plugin import install
from tests.pruner.nets import clicks, job, learn, ripe
from tests.pruner.test_worker import why
from tests.pruner.worlds import CONFIG, RULES, first_mask, window

CODE = '''
from pydantic import BaseModel

import torch

from pruner import Fire, Hold, Need


def spread(model, gradients, forward):
    """The standard deviation of predictions, times the weights' signs."""
    return {n: model.theta(n).sign() * float(forward.probability.std()) for n in model.prunable}


def one_number(model, gradients, forward):
    return {name: torch.tensor(float(len(forward.batch))) for name in model.prunable}


class Spread:
    name = "spread"
    needs = frozenset({"spread", "numbers", Need.GRADIENT})
    claims = frozenset()

    def __init__(self, options):
        pass

    def init(self, layer, rng):
        return {"seen": torch.zeros(())}

    def observe(self, state, layer):
        state["seen"] += layer.need("numbers")
        return state

    def score(self, state, layer):
        return layer.need("spread") * layer.need(Need.GRADIENT)


class Options(BaseModel):
    every: int = 2


class EveryOther:
    Options = Options
    name = "every_other"

    def __init__(self, options):
        self.every = options.every

    def decide(self, seen):
        if seen.count // 100 % self.every:
            return Hold(f"not a multiple of {self.every}")
        return Fire(f"a multiple of {self.every}")


class FlipFlop:
    """Keeps the first half of each layer, then the second, then the first."""

    Options = Options
    needs_inputs = True

    def __init__(self, options, context):
        self.every, self.batches, self.sizes = options.every, 0, []

    def observe(self, model, gradients, forward):
        self.batches += 1
        self.sizes.append(len(forward.input_sq))

    def update(self, model, count):
        if self.batches % self.every:
            return None
        first = self.batches // self.every % 2 == 0
        halves = {}
        for name in model.prunable:
            half = torch.arange(model.theta(name).shape[1]) < model.theta(name).shape[1] // 2
            halves[name] = (half if first else ~half).expand(model.theta(name).shape)
        return halves

    def state(self):
        return {"batches": torch.tensor(self.batches)}

    def load(self, state):
        self.batches = int(state.get("batches", 0))
'''


@pytest.fixture(autouse=True)
def _far_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    offers = {
        "resprout.evidence": ("spread = spread", "numbers = one_number"),
        "resprout.criteria": ("spread = Spread",),
        "resprout.triggers": ("every_other = EveryOther",),
        "resprout.updaters": ("flip_flop = FlipFlop",),
    }
    install(folder, CODE, offers)
    monkeypatch.syspath_prepend(folder)


def test_evidence_is_gathered_by_its_provider_for_a_criterion_that_names_it() -> None:
    running = job(criteria.build("spread"), steps=3, sparsity=0.5)
    seen: list[torch.Tensor] = []
    for batch in clicks(3):
        seen.append(torch.tensor(running.model.predict(batch).std()))
        running.learn(batch)
    kept = sum(int(mask.sum()) for mask in running.model.masks.values())
    weights = sum(running.model.theta(name).numel() for name in running.model.prunable)
    assert kept == weights - round(0.5 * weights)
    assert {float(one["seen"]) for one in running.phase.run.states.values()} == {3.0 * 64}


def test_such_a_criterion_takes_a_world_to_its_first_mask(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"criterion": "spread"})
    (verdict,) = first_mask(tmp_path / "world", config=config).verdicts()
    assert verdict.verdict == "promoted"
    assert verdict.sparsity == pytest.approx(0.8, abs=0.01)


def test_such_a_criterion_is_checked_on_evidence_of_a_real_model() -> None:
    results = check(criteria.build("spread"))
    assert [result for result in results if not result.passed] == []


def test_evidence_that_nobody_gathers_is_refused_before_anything_is_learned() -> None:
    lost = Stateless("lost", lambda layer: layer.need("curvature"), frozenset({"curvature"}))
    with pytest.raises(ValueError, match=r"unknown evidence 'curvature'; known: .*, spread"):
        Recipe(lost)


def test_evidence_that_is_not_named_in_needs_is_not_there() -> None:
    layer = Evidence(torch.zeros(2, 2), extra={"spread": torch.ones(2)})
    assert layer.need("spread").tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="evidence 'numbers' was not gathered; name it in `needs`"):
        layer.need("numbers")
    forgets = Stateless("forgets", lambda layer: layer.need("numbers"), frozenset({"spread"}))
    with pytest.raises(CriterionFailedError, match="evidence 'numbers' was not gathered"):
        job(forgets, steps=1).learn(clicks(1)[0])


def test_a_built_in_kind_of_evidence_has_no_provider_to_ask() -> None:
    assert provider("spread").__name__ == "spread"
    assert all(kind not in {"spread", "numbers"} for kind in Need)


def test_a_trigger_is_built_by_its_name_with_its_own_options() -> None:
    seen = Seen((Score(600, 700, 0.1),), 600, 400, 600, rebuilds=0)
    found = [
        build(TriggerConfig(name="every_other", options=options)).decide(seen)
        for options in ({}, {"every": 7})
    ]
    assert [isinstance(one, Fire) for one in found] == [False, True]
    with pytest.raises(ValueError, match="every"):
        build(TriggerConfig(name="every_other", options={"every": "often"}))


def test_a_trigger_decides_in_a_world(tmp_path: Path) -> None:
    trigger = build(TriggerConfig(name="every_other", options={"every": 3}))
    world = first_mask(tmp_path / "world", rules=replace(RULES, trigger=trigger))
    world.find(window(700, 0.1), window(800, 0.1), window(900, 0.1))
    world.work()
    found = why(world)
    assert found[700] == "not a multiple of 3"
    assert found[900] is None


def test_a_built_in_trigger_refuses_options_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="'periodic' has settings of its own"):
        build(TriggerConfig(name="periodic", options={"every": 3}))


def test_an_updater_changes_the_masks_of_a_comparison() -> None:
    config = ComparisonConfig(updater="flip_flop", options={"every": 3})
    online = ripe()
    updater = for_comparison(config, PrunerConfig(regime="d2s"), online, RunSpec.small(), [1])
    kept = []
    for batch in clicks(7):
        learn(online, updater, batch)
        kept.append(bool(online.masks and online.masks["top.0"][0, 0]))
    assert kept == [False, False, False, False, False, True, True]
    assert updater.state() == {"batches": torch.tensor(7)}


def test_a_recipe_reads_the_criterion_of_another_package() -> None:
    found = recipe(PrunerConfig(criterion="spread"), RunSpec.small())
    assert found.criterion.needs == {"spread", "numbers", "gradient"}
