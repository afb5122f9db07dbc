"""What every criterion must fulfil: checks that run on any of them.

They are run by ``resprout criteria check NAME`` and, over all built-in criteria, by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from learner import LearnerConfig, OnlineModel, dump_tensors, load_tensors
from pruner.criterion import Claim, Criterion, State
from pruner.evidence import Evidence, Need, gather, layers_of, with_means
from pruner.sparsity import Schedule, kept_of
from pruner.updaters import PrunePhase, Recipe
from stream import ClickBatch

__all__ = ["CHECKS", "Check", "check"]

STEPS = 6
"""Batches of evidence that a check shows a criterion."""
SHAPES = {"bottom": (8, 5), "top": (4, 8), "logit": (1, 4)}
"""The layers of the model that the evidence is of, (out, in)."""

Layers = dict[str, Evidence]

_CLAIMS = frozenset(claim.value for claim in Claim)


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check of a criterion."""

    name: str
    passed: bool
    detail: str
    """What must be so; where the check failed, what was found."""


def check(criterion: Criterion) -> list[Check]:
    """Run all checks that apply.

    A claim that a criterion does not make is not checked.

    Examples
    --------
    >>> from pruner import criteria
    >>> all(result.passed for result in check(criteria.build("aux")))
    True
    """
    results = []
    for name, function in CHECKS.items():
        if name in _CLAIMS and name not in criterion.claims:
            continue
        promise = (function.__doc__ or "").strip()
        try:
            fault = function(criterion)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        results.append(Check(name, fault is None, promise if fault is None else fault))
    return results


def batches(needs: frozenset[str], steps: int = STEPS) -> Iterator[Layers]:
    """Yield the evidence of a small model that learns, with nothing in it but what is needed."""
    rng, model = np.random.default_rng(7), _model()
    for _ in range(steps):
        clicks = _clicks(rng)
        forward = model.forward(clicks, inputs=Need.INPUT_SQ in needs)
        layers = gather(model, needs, model.gradients(clicks), forward)
        layers = {name: _only(needs, one) for name, one in layers.items()}
        yield with_means(layers) if Need.MEANS in needs else layers
        model.learn(clicks)


class _Net(nn.Module):
    """Layers of the shapes in a row."""

    def __init__(self) -> None:
        super().__init__()
        for name, (out, inputs) in SHAPES.items():
            self.add_module(name, nn.Linear(inputs, out))

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        del categorical
        for layer in self.children():
            dense = layer(dense.tanh())
        return dense.squeeze(1)


def _model() -> OnlineModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return OnlineModel(_Net(), LearnerConfig(rate=0.1))


def _clicks(rng: np.random.Generator, events: int = 32) -> ClickBatch:
    numeric = rng.standard_normal((events, SHAPES["bottom"][1]), dtype=np.float32)
    return ClickBatch(
        label=rng.integers(0, 2, events).astype(np.float32),
        weight=np.ones(events, np.float32),
        time_ms=np.zeros(events, np.int64),
        numeric=numeric,
        categorical=np.empty((events, 0), np.int32),
    )


def _only(needs: frozenset[str], layer: Evidence) -> Evidence:
    """Take out a gradient that is not needed, and copy what changes as the model learns."""
    wanted, sums = needs & {Need.GRADIENT, Need.MEANS}, layer.accumulator
    gradient = layer.gradient if wanted else None
    return replace(layer, gradient=gradient, accumulator=None if sums is None else sums.clone())


def shape_and_dtype(criterion: Criterion) -> str | None:
    """Scores have the shape and the dtype of the weights."""
    for name, score in _scores(criterion).items():
        found, wanted = (tuple(score.shape), score.dtype), (SHAPES[name], torch.float32)
        if found != wanted:
            return f"scores are {found[1]} of shape {found[0]} for weights {wanted}"
    return None


def finite(criterion: Criterion) -> str | None:
    """Scores are finite, for weights and gradients of zero too."""
    dead = [_scaled(layers, 0.0) for layers in _shown(criterion)]
    for evidence in (list(_shown(criterion)), dead):
        for name, score in _scores(criterion, evidence).items():
            if not bool(torch.isfinite(score).all()):
                return f"scores of {name!r} hold {_worst(score)}"
    return None


def inputs_unchanged(criterion: Criterion) -> str | None:
    """Neither evidence nor, by scoring, the state is changed."""
    shown, untouched = list(_shown(criterion)), list(_shown(criterion))
    states = _states(criterion, shown)
    before = {name: {k: t.clone() for k, t in s.items()} for name, s in states.items()}
    for name, state in states.items():
        criterion.score(state, shown[-1][name])
        if _differing(before[name], state):
            return f"scoring changes the state: {_differing(before[name], state)}"
    for layers, copies in zip(shown, untouched, strict=True):
        for name, one in layers.items():
            if changed := _differing(_tensors(copies[name]), _tensors(one)):
                return f"the evidence is changed: {changed}"
    return None


def deterministic(criterion: Criterion) -> str | None:
    """Equal evidence and an equal generator give equal scores, bit for bit."""
    return _unequal(_scores(criterion), _scores(criterion))


def survives_a_checkpoint(criterion: Criterion) -> str | None:
    """Written and read in mid-phase, the state continues as if nothing had happened."""
    shown = list(_shown(criterion))
    through = _phase(criterion, 0.5)
    whole = [through.masks_after(layers) or {} for layers in shown][-1]
    scores = through.run.scores(shown[-1])
    before = _phase(criterion, 0.5)
    for layers in shown[: STEPS // 2]:
        before.masks_after(layers)
    kept = dump_tensors(before.state())
    after = _phase(criterion, 0.5)
    after.load(load_tensors(kept))
    resumed = [after.masks_after(layers) or {} for layers in shown[STEPS // 2 :]][-1]
    return (
        _unequal(whole, resumed)
        or _unequal(scores, after.run.scores(shown[-1]))
        or _unequal(through.state(), after.state())
    )


def exact_sparsity(criterion: Criterion) -> str | None:
    """At the freeze exactly as many weights are kept as the sparsity asks."""
    weights = sum(out * inputs for out, inputs in SHAPES.values())
    masks = _masks(criterion, 0.8)[-1]
    kept, wanted = sum(int(m.sum()) for m in masks.values()), kept_of(weights, len(SHAPES), 0.8)
    return None if kept == wanted else f"{kept} weights are kept, not {wanted}"


def never_empties_a_layer(criterion: Criterion) -> str | None:
    """At a sparsity of 0.999 every layer keeps a weight, at every moment."""
    for step, masks in enumerate(_masks(criterion, 0.999)):
        for name, mask in masks.items():
            if not mask.any():
                return f"layer {name!r} is empty after batch {step + 1}"
    return None


def non_negative(criterion: Criterion) -> str | None:
    """No score is below 0."""
    lowest = min(float(score.min()) for score in _scores(criterion).values())
    return None if lowest >= 0 else f"a score is {lowest}"


def sign_ignored(criterion: Criterion) -> str | None:
    """Scores stay as they are when weights and gradients all change their sign."""
    flipped = [_scaled(layers, -1.0) for layers in _shown(criterion)]
    return _unequal(_scores(criterion), _scores(criterion, flipped))


def stateless(criterion: Criterion) -> str | None:
    """Scores depend on the last evidence alone."""
    shown = list(_shown(criterion))
    return _unequal(_scores(criterion, shown), _scores(criterion, shown[-1:]))


CHECKS: dict[str, Callable[[Criterion], str | None]] = {
    function.__name__: function
    for function in (
        shape_and_dtype,
        finite,
        inputs_unchanged,
        deterministic,
        survives_a_checkpoint,
        exact_sparsity,
        never_empties_a_layer,
        non_negative,
        sign_ignored,
        stateless,
    )
}
"""All checks; those with the name of a claim run only where it is made."""


def _shown(criterion: Criterion) -> Iterator[Layers]:
    return batches(criterion.needs)


def _states(criterion: Criterion, evidence: list[Layers]) -> dict[str, State]:
    """Let a fresh criterion observe evidence."""
    rng = np.random.default_rng(3)
    bare = {name: Evidence(weight=one.weight) for name, one in evidence[0].items()}
    states = {name: criterion.init(one, rng) for name, one in bare.items()}
    for layers in evidence:
        states = {name: criterion.observe(states[name], one) for name, one in layers.items()}
    return states


def _scores(criterion: Criterion, evidence: list[Layers] | None = None) -> dict[str, Tensor]:
    """Score the last of the evidence that is observed."""
    evidence = evidence or list(_shown(criterion))
    states = _states(criterion, evidence)
    return {name: criterion.score(states[name], one) for name, one in evidence[-1].items()}


def _phase(criterion: Criterion, sparsity: float) -> PrunePhase:
    recipe = Recipe(criterion, Schedule(every_steps=1), sparsity=sparsity, steps=STEPS)
    return PrunePhase(recipe, layers_of(_model()), np.random.default_rng(3))


def _masks(criterion: Criterion, sparsity: float) -> list[dict[str, Tensor]]:
    """Return the masks after every batch of a prune phase."""
    phase = _phase(criterion, sparsity)
    return [phase.masks_after(layers) or {} for layers in _shown(criterion)]


def _scaled(layers: Layers, factor: float) -> Layers:
    """Multiply weights and gradients."""
    scaled = {
        name: replace(
            one,
            weight=factor * one.weight,
            gradient=None if one.gradient is None else factor * one.gradient,
        )
        for name, one in layers.items()
    }
    return with_means(scaled) if any(one.means for one in layers.values()) else scaled


def _tensors(layer: Evidence) -> dict[str, Tensor]:
    named = {name: getattr(layer, name) for name in layer.__dataclass_fields__}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str:
    """Return the names of the tensors that are not equal."""
    names = [n for n in first.keys() | second.keys() if n not in first or n not in second]
    names += [n for n in first.keys() & second.keys() if not torch.equal(first[n], second[n])]
    return ", ".join(sorted(names))


def _unequal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str | None:
    names = _differing(first, second)
    return f"they differ: {names}" if names else None


def _worst(score: Tensor) -> float:
    return float(score[~torch.isfinite(score)][0])
