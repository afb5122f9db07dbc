"""SNIP with momentum: prune the weights that mattered least, recent batches counting most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pruner.criterion import Claim, State
from pruner.evidence import Evidence, Need


class SnipMomentumOptions(BaseModel):
    """The options of SNIP with momentum."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    decay: float = Field(default=0.9, ge=0, lt=1)
    """Share of the score that one batch leaves; 0.9 is that of Intel Neural Compressor."""


_DEFAULTS = SnipMomentumOptions()


@dataclass(frozen=True, slots=True)
class SnipMomentum:
    r"""Score each weight by the decaying sum of its connection sensitivities.

    .. math:: s \leftarrow b \, s + |g \theta|

    with :math:`\theta` the weight as stored, :math:`g` the gradient of the loss by the effective
    weight, and :math:`s = 0` at the start. SNIP is the sensitivity of one batch at initialisation;
    the sum is what Intel Neural Compressor calls ``snip_momentum`` (``SnipMomentumCriterion`` in
    ``neural_compressor/compression/pruner/criteria.py``: 0.9 of the score, then 1.0 times the new
    sensitivity). It takes the sensitivity of the pruned weight, 0, so what it prunes only fades.
    Here a pruned weight keeps its value and goes on gathering.

    The sum is 1 / (1 - b) times the average of ``taylor_ema`` with the same decay, so both rank
    alike; what differs is the default, a memory ten times as short.

    Examples
    --------
    >>> snip = SnipMomentum()
    >>> layer = Evidence(weight=torch.tensor([[3.0, -1.0]]), gradient=torch.tensor([[2.0, 4.0]]))
    >>> state = snip.observe(snip.init(layer, np.random.default_rng(0)), layer)
    >>> snip.score(snip.observe(state, layer), layer)
    tensor([[11.4000,  7.6000]])

    References
    ----------
    Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity,
    arXiv 1810.02340, 2018.
    """

    options: SnipMomentumOptions = _DEFAULTS

    Options = SnipMomentumOptions
    name = "snip_momentum"
    needs = frozenset({Need.GRADIENT})
    claims = frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED})

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Begin with a sum of zero."""
        return {"total": torch.zeros_like(layer.weight)}

    def observe(self, state: State, layer: Evidence) -> State:
        """Let the sum decay and add the batch, in place."""
        state["total"].mul_(self.options.decay).add_(layer.saliency)
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return the sum, shape (out, in)."""
        return state["total"]
