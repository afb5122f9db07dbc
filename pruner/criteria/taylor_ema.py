"""Taylor average: prune the weights whose removal would have changed the loss least lately."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pruner.criterion import Average, Claim
from pruner.evidence import Evidence, Need


class TaylorEmaOptions(BaseModel):
    """The options of the Taylor average."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    decay: float = Field(default=0.99, ge=0, lt=1)
    """b: share of the average that one batch leaves as it is. 0.99 is chosen for batches of 500
    events, where half of what a batch adds is gone after 34 500 events; for batches of n events
    0.99^(n / 500) remembers as long.
    """


_DEFAULTS = TaylorEmaOptions()


@dataclass(frozen=True, slots=True)
class TaylorEma(Average):
    r"""Score each weight by the average of its first-order effect on the loss.

    .. math:: s_{ij} = e_{ij}, \qquad e \leftarrow b \, e + (1 - b) \, |g \theta|

    with :math:`\theta` the weight as stored, :math:`g` the gradient of the loss by the *effective*
    weight, which a pruned weight has too, and :math:`e = 0` at the start. All weights have seen the
    same number of batches, so the start changes no ranking. Effects of both signs do not cancel, as
    they do in the average of gradients of ``mop``.

    It is ``taylor`` averaged; ``pruner.allocation = "global_layer_mean"`` ranks its scores over all
    layers by how far they exceed their layer's mean.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> average = TaylorEma(TaylorEmaOptions(decay=0.75))
    >>> layer = Evidence(weight=torch.tensor([[3.0, -1.0]]), gradient=torch.tensor([[2.0, 4.0]]))
    >>> state = average.observe(average.init(layer, np.random.default_rng(0)), layer)
    >>> average.score(state, layer)
    tensor([[1.5000, 1.0000]])
    """

    options: TaylorEmaOptions = _DEFAULTS

    Options = TaylorEmaOptions
    name = "taylor_ema"
    needs = frozenset({Need.GRADIENT})
    claims = frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED})

    def term(self, layer: Evidence) -> Tensor:
        """Return the size of the first-order effect, shape (out, in)."""
        return layer.saliency
