"""Wanda: prune the weights that are small, or whose inputs are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pruner.criterion import Claim, State
from pruner.evidence import Evidence, Need


class WandaOptions(BaseModel):
    """The options of Wanda."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    decay: float = Field(default=1.0, ge=0, le=1)
    """b: share of the mean that one batch leaves as it is, at most. 1: all batches count alike."""
    rows: bool = False
    """Rank the weights of each output by themselves, as the paper does, so that all outputs keep
    equally many. The scores of any two layers are then ranks, alike whatever their weights are."""


_DEFAULTS = WandaOptions()


@dataclass(frozen=True, slots=True)
class Wanda:
    r"""Score each weight by its size times the size of its input.

    .. math::

        s_{ij} = |\theta_{ij}| \sqrt{m_j}, \qquad
        m \leftarrow m + \max\left(\tfrac{1}{t}, 1 - b\right) (\overline{x^2} - m)

    with :math:`\overline{x_j^2}` the mean square of the j-th input over the :math:`t`-th batch. So
    :math:`m` is the plain mean over all batches, or with :math:`b < 1` one that forgets.

    The paper has the product of weight and input norm, the norm over a set of calibration
    examples, and the comparison of weights *within one output* (``rows``). It prunes once and
    trains no more. Theirs is the norm :math:`\sqrt{n \, m_j}` over n examples; the factor is the
    same for all weights. What is ours: the mean goes on over a stream, a batch cut short counts
    like any other, and the default compares all weights of a layer, or of all layers
    (``pruner.allocation``). With ``rows`` a score is the rank from 1 / in to 1; layers then lose
    equal shares under ``global`` as under ``uniform``, and where a layer's share is no whole number
    a row, the upper rows keep one weight more.

    An embedding has no inputs to measure, so it cannot be pruned by Wanda.

    Examples
    --------
    >>> wanda = Wanda()
    >>> layer = Evidence(torch.tensor([[3.0, -1.0]]), input_sq=torch.tensor([0.25, 9.0]))
    >>> state = wanda.observe(wanda.init(layer, np.random.default_rng(0)), layer)
    >>> wanda.score(state, layer), Wanda(WandaOptions(rows=True)).score(state, layer)
    (tensor([[1.5000, 3.0000]]), tensor([[0.5000, 1.0000]]))

    References
    ----------
    Sun et al., A Simple and Effective Pruning Approach for Large Language Models, arXiv
    2306.11695, 2023.
    """

    options: WandaOptions = _DEFAULTS

    Options = WandaOptions
    name = "wanda"
    needs = frozenset({Need.INPUT_SQ})
    claims = frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED})

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Begin with no inputs seen."""
        return {
            "mean_square": torch.zeros_like(layer.weight[0]),
            "steps": torch.zeros((), dtype=torch.int64),
        }

    def observe(self, state: State, layer: Evidence) -> State:
        """Move the mean of the squares of inputs, in place."""
        state["steps"] += 1
        share = max(1 / int(state["steps"]), 1 - self.options.decay)
        state["mean_square"].lerp_(layer.need(Need.INPUT_SQ), share)
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return the products, or their ranks in each row, shape (out, in)."""
        scores = layer.weight.abs() * state["mean_square"].sqrt()
        return _ranks(scores) if self.options.rows else scores


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each entry in its row, 1 / in to 1; of equals the earlier is higher."""
    columns = scores.shape[1]
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(columns, 0, -1, device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks).to(scores.dtype) / columns
