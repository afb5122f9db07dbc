r"""MoP: rank weights by their size and by the average of their gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pruner.criterion import Average, Claim, State
from pruner.evidence import Evidence, Need


class MopOptions(BaseModel):
    """The options of MoP; the paper has (0.5, 0.5), (0.2, 0.8) and (0.8, 0.2) as weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    w1: float = Field(default=0.5, ge=0)
    """Weight of the magnitude term."""
    w2: float = Field(default=0.5, ge=0)
    """Weight of the gradient term."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """Share of the average that one batch leaves as it is."""


_DEFAULTS = MopOptions()


@dataclass(frozen=True, slots=True)
class Mop(Average):
    r"""Score each weight by its shares of the sizes and of the average gradients in its layer.

    .. math::

        I = w_1 \frac{|\theta|}{\lVert \theta \rVert_1} + w_2 \frac{|s|}{\lVert s \rVert_1},
        \qquad s \leftarrow 0.99 \, s + 0.01 \, g

    with :math:`g` the gradient of the effective weight, which a pruned weight has too, and sums of
    sizes over all stored weights of the layer. The scores of every layer add up to
    :math:`w_1 + w_2`, so ranked over all layers together the large layers lose most; with
    ``pruner.allocation = "uniform"`` each is ranked by itself.

    Examples
    --------
    >>> import numpy as np
    >>> mop = Mop(MopOptions(decay=0.0))
    >>> layer = Evidence(weight=torch.tensor([[3.0, -1.0]]), gradient=torch.tensor([[0.0, 5.0]]))
    >>> state = mop.observe(mop.init(layer, np.random.default_rng(0)), layer)
    >>> mop.score(state, layer)
    tensor([[0.3750, 0.6250]])

    References
    ----------
    Ye et al., Adaptive Dense-to-Sparse Paradigm for Pruning Online Recommendation System with
    Non-Stationary Data, arXiv 2010.08655, 2020.
    """

    options: MopOptions = _DEFAULTS

    Options = MopOptions
    name = "mop"
    needs = frozenset({Need.GRADIENT})
    claims = frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED})

    def term(self, layer: Evidence) -> Tensor:
        """Return the gradient, shape (out, in)."""
        return layer.need(Need.GRADIENT)

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return the importance, shape (out, in)."""
        options = self.options
        size, pull = _shares(layer.weight), _shares(state["average"])
        return options.w1 * size + options.w2 * pull


def _shares(values: Tensor) -> Tensor:
    """Divide sizes by their sum; all zero where that is zero."""
    sizes = values.abs()
    return sizes / sizes.sum().clamp_min(torch.finfo(sizes.dtype).tiny)
