"""A small network on made-up clicks, and prune phases of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from learner import UPDATER, LearnerConfig, MaskUpdater, OnlineModel
from learner.online import with_prefix
from pruner import Criterion
from pruner.criteria.aux import Aux, AuxOptions
from pruner.evidence import Evidence, layers_of
from pruner.masks import sparsity as sparsity_of
from pruner.sparsity import Phase, Schedule
from pruner.updaters import PrunePhase, Recipe
from stream.batch import ClickBatch
from stream.messages import MaskChange

FEATURES = 12


class Net(nn.Module):
    """Three linear layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.top = nn.Sequential(
            nn.Linear(FEATURES, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        del categorical
        logits: Tensor = self.top(dense)
        return logits.squeeze(1)


def random_evidence(shapes: Mapping[str, tuple[int, int]], seed: int) -> dict[str, Evidence]:
    """Make weights, gradients and squares of inputs of layers of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    others = torch.Generator().manual_seed(seed + 1_000)
    return {
        name: Evidence(
            torch.randn(shape, generator=generator),
            torch.randn(shape, generator=generator),
            torch.rand(shape[1], generator=others),
        )
        for name, shape in shapes.items()
    }


def clicks(count: int, seed: int = 0, events: int = 64) -> list[ClickBatch]:
    """Make batches whose clicks depend on products of features."""
    rng = np.random.default_rng(seed)
    return [_batch(rng, events) for _ in range(count)]


def _batch(rng: np.random.Generator, events: int) -> ClickBatch:
    numeric = rng.standard_normal((events, FEATURES)).astype(np.float32)
    logit = 2 * numeric[:, 0] * numeric[:, 1] + numeric[:, 2] - numeric[:, 3] * numeric[:, 4] - 0.5
    label = (rng.random(events) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return ClickBatch(
        label,
        np.ones(events, np.float32),
        np.zeros(events, np.int64),
        numeric,
        np.empty((events, 0), np.int32),
    )


def model(width: int = 32, seed: int = 0, config: LearnerConfig | None = None) -> OnlineModel:
    """Build a network that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OnlineModel(Net(width), config or LearnerConfig(rate=0.02))


@cache
def _ripe(width: int) -> OnlineModel:
    online = model(width)
    for batch in clicks(600, seed=1):
        online.learn(batch)
    return online


def ripe(width: int = 32) -> OnlineModel:
    """Return a network that has learned from 600 batches."""
    return deepcopy(_ripe(width))


def learn(online: OnlineModel, updater: MaskUpdater, batch: ClickBatch) -> None:
    """Learn a batch as a trainer does, without any log."""
    forward = online.forward(batch, inputs=updater.needs_inputs)
    online.learn_from(forward, lambda found: updater.observe(online, found, forward))
    masks = updater.update(online, 0)
    if masks is not None and not isinstance(masks, MaskChange):
        online.set_masks(masks)


@dataclass(slots=True)
class Job:
    """A model in its prune phase and after it."""

    model: OnlineModel
    phase: PrunePhase

    @classmethod
    def of(cls, model: OnlineModel, recipe: Recipe, seed: int = 0) -> Job:
        """Begin to prune a model."""
        return cls(model, PrunePhase(recipe, layers_of(model), np.random.default_rng(seed)))

    def learn(self, batch: ClickBatch) -> None:
        learn(self.model, self.phase, batch)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that a checkpoint holds."""
        phase = {UPDATER + name: tensor for name, tensor in self.phase.state().items()}
        return self.model.state() | phase

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.model.load(state)
        self.phase.load(with_prefix(state, UPDATER))


def job(criterion: Criterion, steps: int, sparsity: float = 0.8, width: int = 32) -> Job:
    """Begin to prune a ripe network."""
    recipe = Recipe(criterion, Schedule(every_steps=1), sparsity=sparsity, steps=steps)
    return Job.of(ripe(width), recipe)


def open_end(options: AuxOptions, steps: int, width: int = 32) -> float:
    """Return the sparsity that AUX has of itself at the end of a phase, before the freeze."""
    aux = Aux(options)
    running = job(aux, steps, width=width)
    for batch in clicks(steps, seed=2):
        running.learn(batch)
    moment = Phase(steps, steps, running.phase.recipe.sparsity)
    return sparsity_of(aux.select(running.phase.run.states, {}, moment))
