r"""AUX: learn an auxiliary variable for every weight, and keep the weights where it is positive.

Ye et al. 2020 (arXiv 2010.08655) give each weight :math:`\theta` a variable :math:`a` and make
:math:`w = 1[a > 0] \, \theta` the effective weight. With the linear straight-through estimator and
plain SGD of rate :math:`\epsilon`, one batch does

.. math:: a \leftarrow a + \epsilon \, (w_1 G + w_2 M - \lambda)

where :math:`G` is :math:`|\partial L / \partial w \cdot \theta|` and :math:`M` is
:math:`|\theta|`, each divided by its average in the layer. Only
:math:`a / \epsilon` matters, so everything here is in units of :math:`\epsilon`: after :math:`t`
batches

.. math:: a_t = T_0 + \sum_{u \le t} I_u - \lambda t, \qquad I = w_1 G + w_2 M
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from pruner.criterion import Claim, State
from pruner.evidence import Evidence, Means, Need
from pruner.sparsity import Phase


class AuxOptions(BaseModel):
    """The options of AUX."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    w1: float = Field(default=0.5, ge=0)
    """Weight of the gradient term G."""
    w2: float = Field(default=0.5, ge=0)
    """Weight of the magnitude term M."""
    penalty: float | None = Field(default=None, ge=0)
    """λ: what a weight's importance is compared with, 1 being the average. None: whatever meets
    the target sparsity at the end of the phase, solved from the averages so far.
    """
    solve_batches: int | None = Field(default=None, gt=0)
    """Without ``penalty``: λ is solved at every change of the mask, and from the first change after
    so many batches on it stays as it is. None: it is solved anew to the end. At the freeze exactly
    the target is kept in any case, by a.
    """
    start_ratio: float = Field(default=0.02, ge=0)
    """T0 / (λ K), with K the batches of the phase."""
    start: float | None = Field(default=None, ge=0)
    """T0 itself, the same for any K; takes the place of ``start_ratio``."""
    norm: Literal["layer_mean", "layer_sum", "global_mean"] = "layer_mean"
    """What G and M are divided by. ``layer_sum`` is the printed L1 norm: no importance exceeds 1,
    so a penalty above 1 prunes everything.
    """
    literal: bool = False
    """Use G as Eq. 5 and 6 print it, with an extra θ."""
    clamp: float | None = Field(default=None, gt=0)
    """Keep a within plus and minus this. Needs ``penalty`` and ``start``."""

    @model_validator(mode="after")
    def _penalty_is_set_or_solved(self) -> Self:
        if self.penalty is not None and self.solve_batches is not None:
            raise ValueError(
                "solve_batches is for a penalty that is solved, and penalty sets it; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _clamp_has_what_it_needs(self) -> Self:
        if self.clamp is not None and (self.penalty is None or self.start is None):
            raise ValueError("clamp needs a fixed penalty and start; set both, or leave it out")
        return self


_DEFAULTS = AuxOptions()
_UNSOLVED = -1.0
"""In place of a penalty, which is never below 0."""


def importance(layer: Evidence, options: AuxOptions = _DEFAULTS) -> Tensor:
    r"""Weigh what each weight does for the loss and how big it is, at one batch.

    .. math::

        I = w_1 \frac{|g \theta|}{\overline{|g \theta|}}
          + w_2 \frac{|\theta|}{\overline{|\theta|}}

    with :math:`g` the gradient of the effective weight and averages over all stored weights of
    the layer, pruned or not. With ``w1 + w2 = 1`` it is 1 on average.

    Returns
    -------
    Shape (out, in), non-negative.

    Examples
    --------
    >>> layer = Evidence(weight=torch.tensor([[3.0, -1.0]]), gradient=torch.tensor([[0.0, 5.0]]))
    >>> importance(layer)
    tensor([[0.7500, 1.2500]])
    """
    magnitude = layer.weight.abs()
    saliency = layer.saliency
    if options.literal:
        saliency *= magnitude
    if options.norm == "global_mean":
        scale = layer.need_means()
    elif options.norm == "layer_sum":
        scale = Means(saliency.sum(), magnitude.sum())
    else:
        scale = Means(saliency.mean(), magnitude.mean())
    tiny = torch.finfo(magnitude.dtype).tiny
    saliency *= options.w1 / scale.saliency.clamp_min(tiny)
    magnitude *= options.w2 / scale.magnitude.clamp_min(tiny)
    return saliency.add_(magnitude)


def start_of(penalty: float, steps: int, options: AuxOptions = _DEFAULTS) -> float:
    """Return T0, where a begins, in units of ε.

    >>> start_of(penalty=1.75, steps=200)
    7.0
    """
    return options.start_ratio * penalty * steps if options.start is None else options.start


@dataclass(frozen=True, slots=True)
class Aux:
    """Learn the mask as Ye et al. 2020 do.

    A layer's state holds the sum of its importances and the number of batches. The start and the
    penalty are the same for all weights, so ranking by the sum is ranking by a.

    Examples
    --------
    >>> aux = Aux(AuxOptions(penalty=1.0, start=0.1))
    >>> layer = Evidence(weight=torch.tensor([[3.0, -1.0]]), gradient=torch.tensor([[0.0, 5.0]]))
    >>> state = aux.observe(aux.init(layer, np.random.default_rng(0)), layer)
    >>> aux.select({"top": state}, {"top": layer}, Phase(step=1, steps=4, sparsity=0.5))
    {'top': tensor([[False,  True]])}
    """

    options: AuxOptions = _DEFAULTS

    Options = AuxOptions
    name = "aux"
    claims = frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED})

    @property
    def needs(self) -> frozenset[Need]:
        """Gradients; averages over all layers if they are what importance is divided by."""
        needs = {Need.GRADIENT}
        return frozenset(needs | {Need.MEANS} if self.options.norm == "global_mean" else needs)

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Begin with no importance seen."""
        state = {
            "total": torch.zeros_like(layer.weight),
            "steps": torch.zeros((), dtype=torch.int64),
        }
        if self.options.solve_batches is not None:
            state["penalty"] = torch.tensor(_UNSOLVED, dtype=torch.float64)
        return state

    def observe(self, state: State, layer: Evidence) -> State:
        """Add the importance at one batch, in place; a stays inside its bounds, if it has any."""
        clamp, start, penalty = self.options.clamp, self.options.start, self.options.penalty
        state["total"] += importance(layer, self.options)
        state["steps"] += 1
        if clamp is not None and start is not None and penalty is not None:
            centre = penalty * int(state["steps"]) - start
            state["total"].clamp_(centre - clamp, centre + clamp)
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return the importance averaged over the batches so far."""
        return state["total"] / max(1, int(state["steps"]))

    def select(
        self, states: Mapping[str, State], layers: Mapping[str, Evidence], phase: Phase
    ) -> dict[str, Tensor]:
        """Keep the weights where a is positive; a penalty that stays from now on is remembered."""
        penalty = self.penalty(states, phase)
        if self.options.solve_batches is not None and phase.step >= self.options.solve_batches:
            for state in states.values():
                state["penalty"].fill_(penalty)
        start = start_of(penalty, phase.steps, self.options)
        return {name: auxiliary(s, penalty, start) > 0 for name, s in states.items()}

    def penalty(self, states: Mapping[str, State], phase: Phase) -> float:
        r"""Return λ: as it is set or stays, or as it meets the target if averages stay as they are.

        A weight is kept iff its average importance exceeds :math:`\lambda - T_0 / K`. With
        :math:`q` the largest average that is to be pruned,

        .. math:: \lambda = \frac{q}{1 - T_0 / (\lambda K)} \quad \text{or} \quad q + T_0 / K

        for a relative and an absolute start.

        Examples
        --------
        >>> state = {"total": torch.tensor([[2.94, 6.0]]), "steps": torch.tensor(2)}
        >>> phase = Phase(step=2, steps=200, sparsity=0.5)
        >>> (
        ...     Aux().penalty({"top": state}, phase),
        ...     Aux(AuxOptions(start=6.0)).penalty({"top": state}, phase),
        ... )
        (1.5, 1.5)
        """
        if self.options.penalty is not None:
            return self.options.penalty
        held = {float(state.get("penalty", _UNSOLVED)) for state in states.values()} - {_UNSOLVED}
        if held:
            return held.pop()
        averages = torch.cat([(s["total"] / s["steps"]).flatten() for s in states.values()])
        quantile = cutoff(averages, phase.sparsity)
        if self.options.start is not None:
            return quantile + self.options.start / phase.steps
        return quantile / (1 - self.options.start_ratio)


def auxiliary(state: State, penalty: float, start: float) -> Tensor:
    """Return a, in units of ε, shape (out, in).

    >>> state = {"total": torch.tensor([[4.0, 2.0]]), "steps": torch.tensor(2)}
    >>> auxiliary(state, penalty=1.5, start=0.5)
    tensor([[ 1.5000, -0.5000]])
    """
    return state["total"] + (start - penalty * int(state["steps"]))


def cutoff(importances: Tensor, sparsity: float) -> float:
    """Return the largest importance that is pruned at a sparsity, 0 if nothing is.

    >>> cutoff(torch.tensor([4.0, 1.0, 2.0, 3.0]), sparsity=0.5)
    2.0
    """
    pruned = round(importances.numel() * sparsity)
    if pruned == 0:
        return 0.0
    return float(importances.flatten().kthvalue(pruned).values)
