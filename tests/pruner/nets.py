"""A small network on made-up clicks, and prune phases of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from learner.config import LearnerConfig
from learner.online import OnlineModel
from pruner.criteria.aux import Aux, AuxOptions
from pruner.criterion import Criterion
from pruner.masks import sparsity as sparsity_of
from pruner.pruning import PruningTrainer, Recipe
from pruner.schedule import Schedule
from stream.batch import ClickBatch

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
    return _ripe(width).clone()


def job(criterion: Criterion, steps: int, sparsity: float = 0.8, width: int = 32) -> PruningTrainer:
    """Begin to prune a ripe network."""
    recipe = Recipe(criterion, Schedule(every_steps=1), sparsity=sparsity, steps=steps)
    return PruningTrainer(ripe(width), recipe, np.random.default_rng(0))


def open_end(options: AuxOptions, steps: int, width: int = 32) -> float:
    """Return the sparsity that AUX has of itself at the end of a phase, before the freeze."""
    aux = Aux(options)
    running = job(aux, steps, width=width)
    for batch in clicks(steps, seed=2):
        running.learn(batch)
    pruning = running.pruning
    return sparsity_of(aux.select(pruning.states, {}, pruning.phase))
