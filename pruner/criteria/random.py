"""Random: the control that every criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pruner.criterion import Claim, NoOptions, State
from pruner.evidence import Evidence, Need


@dataclass(frozen=True, slots=True)
class Random:
    """Score each weight by a number drawn once, when the prune phase begins.

    Examples
    --------
    >>> layer = Evidence(weight=torch.zeros(1, 3))
    >>> random = Random()
    >>> random.score(random.init(layer, np.random.default_rng(0)), layer)
    tensor([[0.6370, 0.2698, 0.0410]])
    """

    options: NoOptions = field(default_factory=NoOptions)

    Options = NoOptions
    name = "random"
    needs = frozenset[Need]()
    claims = frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED})

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Draw the scores, uniform over [0, 1)."""
        drawn = rng.random(tuple(layer.weight.shape))
        return {"score": torch.from_numpy(drawn).to(layer.weight)}

    def observe(self, state: State, layer: Evidence) -> State:
        """Learn nothing."""
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return what was drawn."""
        return state["score"]
