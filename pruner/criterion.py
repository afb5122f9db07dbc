"""How important a weight is: what a criterion must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pruner.evidence import Evidence, Need
from pruner.schedule import Phase

State = dict[str, Tensor]
"""What a criterion remembers of one layer: tensors only, so that it can be checkpointed."""

Score = Callable[[Evidence], Tensor]
"""A criterion that remembers nothing: scores of shape (out, in); bigger means keep."""


class Claim(StrEnum):
    """What a criterion promises of itself; the conformance checks hold it to that."""

    NON_NEGATIVE = "non_negative"
    """No score is below 0."""
    SIGN_IGNORED = "sign_ignored"
    """Scores stay as they are when a layer's weights and gradients all change their sign."""
    STATELESS = "stateless"
    """Scores depend on the evidence alone, not on what was observed before."""


class NoOptions(BaseModel):
    """The options of a criterion that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Criterion(Protocol):
    """Scores the weights of a layer, learning from the evidence of one batch after the other."""

    @property
    def name(self) -> str:
        """As it stands in the configuration."""

    @property
    def needs(self) -> frozenset[Need]:
        """The kinds of evidence to gather, beside weight and mask."""

    @property
    def claims(self) -> frozenset[Claim]:
        """What it promises of itself."""

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Begin with a layer; only the weight and the mask are sure to be there."""

    def observe(self, state: State, layer: Evidence) -> State:
        """Take in one batch; cheap, and free to change ``state`` in place and return it."""

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return finite scores of shape (out, in), bigger means keep; changes nothing."""


@runtime_checkable
class LearnsMask(Protocol):
    """A criterion that learns a mask, rather than to rank.

    It then brings its own selection for the prune phase. At the freeze all are ranked by score.
    """

    def select(
        self, states: Mapping[str, State], layers: Mapping[str, Evidence], phase: Phase
    ) -> dict[str, Tensor]:
        """Return the mask of each layer at this moment, bool, shape (out, in)."""


@dataclass(frozen=True, slots=True)
class Stateless:
    """A plain function as a full criterion.

    Examples
    --------
    >>> import torch
    >>> criterion = Stateless("magnitude", lambda layer: layer.weight.abs())
    >>> criterion.score({}, Evidence(weight=torch.tensor([[2.0, -1.0]])))
    tensor([[2., 1.]])
    """

    name: str
    function: Score
    needs: frozenset[Need] = frozenset(Need)
    claims: frozenset[Claim] = frozenset({Claim.STATELESS})

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Remember nothing."""
        del layer, rng
        return {}

    def observe(self, state: State, layer: Evidence) -> State:
        """Remember nothing."""
        del layer
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Ask the function."""
        del state
        return self.function(layer)
