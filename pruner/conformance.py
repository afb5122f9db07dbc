"""What every criterion must fulfil: checks that run on any of them.

They are run by ``resprout criteria check NAME`` and, over all built-in criteria, by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from learner import LearnerConfig, OnlineModel, dump_tensors, load_tensors
from pruner.criterion import Claim, Criterion, State
from pruner.evidence import Evidence, Need, gather, layers_of, with_means
from pruner.sparsity import Schedule, kept_of
from pruner.updaters import PrunePhase, Recipe
from stream import ClickBatch
from stream.plugins import Check, run_checks

__all__ = ["CHECKS", "check"]

STEPS = 6
"""Batches of evidence that a check shows a criterion."""
SHAPES = {"bottom": (8, 5), "top": (4, 8), "logit": (1, 4)}
"""The layers of the model that the evidence is of, (out, in)."""

Layers = dict[str, Evidence]


def check(criterion: Criterion) -> list[Check]:
    """Run all checks that apply.

    A claim that a criterion does not make is not checked.

    Examples
    --------
    >>> from pruner import criteria
    >>> all(result.passed for result in check(criteria.build("aux")))
    True
    """
    asked = {n: one for n, one in CHECKS.items() if n not in set(Claim) - criterion.claims}
    return run_checks(asked, criterion)


class _Net(nn.Module):
    """Layers of the shapes in a row."""

    def __init__(self) -> None:
        super().__init__()
        for name, (out, inputs) in SHAPES.items():
            self.add_module(name, nn.Linear(inputs, out))

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        for layer in self.children():
            dense = layer(dense.tanh())
        return dense.squeeze(1)


def _model() -> OnlineModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return OnlineModel(_Net(), LearnerConfig(rate=0.1))


def _shown(criterion: Criterion) -> list[Layers]:
    """Return the evidence of a small model that learns, with nothing in it but what is needed."""
    needs, rng, model, shown = criterion.needs, np.random.default_rng(7), _model(), []
    for _ in range(STEPS):
        clicks = ClickBatch(
            numeric=rng.standard_normal((32, SHAPES["bottom"][1]), dtype=np.float32),
            label=rng.integers(0, 2, 32).astype(np.float32),
            weight=np.ones(32, np.float32),
            time_ms=np.zeros(32, np.int64),
            categorical=np.empty((32, 0), np.int32),
        )
        forward = model.forward(clicks, inputs=Need.INPUT_SQ in needs)
        layers = gather(model, needs, model.gradients(clicks), forward)
        for name, one in layers.items():
            gradient = one.gradient if needs & {Need.GRADIENT, Need.MEANS} else None
            # The sums change as the model learns.
            sums = None if one.accumulator is None else one.accumulator.clone()
            layers[name] = replace(one, gradient=gradient, accumulator=sums)
        shown.append(with_means(layers) if Need.MEANS in needs else layers)
        model.learn(clicks)
    return shown


def shape_and_dtype(criterion: Criterion) -> str | None:
    """Scores have the shape and the dtype of the weights."""
    for name, score in _scores(criterion).items():
        found, wanted = (tuple(score.shape), score.dtype), (SHAPES[name], torch.float32)
        if found != wanted:
            return f"scores are {found[1]} of shape {found[0]} for weights {wanted}"
    return None


def finite(criterion: Criterion) -> str | None:
    """Scores are finite, for weights and gradients of zero too."""
    shown = _shown(criterion)
    for evidence in (shown, [_scaled(layers, 0.0) for layers in shown]):
        for name, score in _scores(criterion, evidence).items():
            bad = score[~torch.isfinite(score)]
            if len(bad):
                return f"scores of {name!r} hold {float(bad[0])}"
    return None


def inputs_unchanged(criterion: Criterion) -> str | None:
    """Neither evidence nor, by scoring, the state is changed."""
    shown, untouched = _shown(criterion), _shown(criterion)
    for name, state in _states(criterion, shown).items():
        before = {key: tensor.clone() for key, tensor in state.items()}
        criterion.score(state, shown[-1][name])
        if changed := _differing(before, state):
            return f"scoring changes the state: {changed}"
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
    shown = _shown(criterion)
    through = _phase(criterion, 0.5)
    whole = [through.masks_after(layers) or {} for layers in shown][-1]
    scores = through.run.scores(shown[-1])
    before = _phase(criterion, 0.5)
    for layers in shown[: STEPS // 2]:
        before.masks_after(layers)
    after = _phase(criterion, 0.5)
    after.load(load_tensors(dump_tensors(before.state())))
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
    shown = _shown(criterion)
    return _unequal(_scores(criterion, shown), _scores(criterion, shown[-1:]))


_OF_ALL = [shape_and_dtype, finite, inputs_unchanged, deterministic, survives_a_checkpoint]
_OF_ALL += [exact_sparsity, never_empties_a_layer]
_OF_CLAIMS = [non_negative, sign_ignored, stateless]
CHECKS: dict[str, Callable[[Criterion], str | None]] = {
    function.__name__: function for function in (*_OF_ALL, *_OF_CLAIMS)
}
"""All checks; those with the name of a claim run only where it is made."""


def _states(criterion: Criterion, evidence: list[Layers]) -> dict[str, State]:
    """Let a fresh criterion observe evidence."""
    rng = np.random.default_rng(3)
    states = {n: criterion.init(Evidence(weight=e.weight), rng) for n, e in evidence[0].items()}
    for layers in evidence:
        states = {name: criterion.observe(states[name], one) for name, one in layers.items()}
    return states


def _scores(criterion: Criterion, evidence: list[Layers] | None = None) -> dict[str, Tensor]:
    """Score the last of the evidence that is observed."""
    evidence = evidence or _shown(criterion)
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
