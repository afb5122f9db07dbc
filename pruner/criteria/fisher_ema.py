"""Fisher average: prune the weights whose removal would change the loss least, as seen lately."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pruner.criterion import Average, Claim
from pruner.evidence import Evidence, Need


class FisherEmaOptions(BaseModel):
    """The options of the Fisher average."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    decay: float = Field(default=0.98, ge=0, lt=1)
    """b: share of the average that one batch leaves as it is. 0.98 is chosen for batches of 500
    events, where half of what a batch adds is gone after 17 000 events; for batches of n events
    0.98^(n / 500) remembers as long.
    """


_DEFAULTS = FisherEmaOptions()


@dataclass(frozen=True, slots=True)
class FisherEma(Average):
    r"""Score each weight by the average square of its first-order effect on the loss.

    .. math:: s_{ij} = e_{ij}, \qquad e \leftarrow b \, e + (1 - b) \, (g \theta)^2

    with :math:`\theta` the weight as stored, :math:`g` the gradient of the loss by the *effective*
    weight, which a pruned weight has too, and :math:`e = 0` at the start. All weights have seen the
    same number of batches, so the start changes no ranking.

    It is the second-order saliency :math:`\theta^2 H_{ii} / 2` of Optimal Brain Damage, less the
    factor, with :math:`H_{ii}` replaced by the square of the gradient of a whole batch. The square
    falls as the batch grows, so scores can be compared among batches of one size only.

    The sizes of scores differ from layer to layer by orders of magnitude; ``pruner.allocation =
    "global_layer_mean"`` ranks them over all layers by how far they exceed their layer's mean.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> fisher = FisherEma(FisherEmaOptions(decay=0.75))
    >>> layer = Evidence(weight=torch.tensor([[3.0, -1.0]]), gradient=torch.tensor([[2.0, 4.0]]))
    >>> state = fisher.observe(fisher.init(layer, np.random.default_rng(0)), layer)
    >>> fisher.score(state, layer)
    tensor([[9., 4.]])

    References
    ----------
    LeCun, Denker and Solla, Optimal Brain Damage, NIPS 1989. Molchanov et al., Importance
    Estimation for Neural Network Pruning, arXiv 1906.10771, 2019: the square of gradient times
    weight (their Eq. 8).
    """

    options: FisherEmaOptions = _DEFAULTS

    Options = FisherEmaOptions
    name = "fisher_ema"
    needs = frozenset({Need.GRADIENT})
    claims = frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED})

    def term(self, layer: Evidence) -> Tensor:
        """Return the square of the first-order effect, shape (out, in)."""
        return layer.saliency.square_()
