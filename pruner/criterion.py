"""How important a weight is: what a criterion must offer, and how it is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pruner.evidence import Evidence, Need, with_means
from pruner.sparsity import Phase

State = dict[str, Tensor]
"""What a criterion remembers of one layer: tensors only, so that it can be checkpointed."""

Score = Callable[[Evidence], Tensor]
"""A criterion that remembers nothing: scores of shape (out, in); bigger means keep."""


class CriterionFailedError(Exception):
    """A criterion raised, or returned what it must not."""


class Claim(StrEnum):
    """What a criterion promises of itself; the conformance checks hold it to that."""

    NON_NEGATIVE = "non_negative"
    """No score is below 0."""
    SIGN_IGNORED = "sign_ignored"
    """Scores stay as they are when a layer's weights and gradients all change their sign."""
    STATELESS = "stateless"
    """Scores depend on the evidence alone, not on what was observed before."""


class NoOptions(BaseModel):
    """The options of something that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Criterion(Protocol):
    """Scores the weights of a layer, learning from the evidence of one batch after the other."""

    @property
    def name(self) -> str:
        """The name used in the configuration."""

    @property
    def needs(self) -> frozenset[str]:
        """The kinds of evidence to gather, beside weight and mask.

        Those of :class:`~pruner.evidence.Need`, and others by the names of their providers.
        """

    @property
    def claims(self) -> frozenset[Claim]:
        """What it promises of itself."""

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Begin with a layer; only the weight and the mask are sure to be there.

        The tensors that it returns keep their names and shapes.
        """

    def observe(self, state: State, layer: Evidence) -> State:
        """Take in one batch; cheap, and free to change ``state`` in place and return it."""

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return finite scores of shape (out, in), bigger means keep; changes nothing."""


@runtime_checkable
class LearnsMask(Protocol):
    """A criterion that learns a mask rather than ranks weights.

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
    >>> criterion = Stateless("magnitude", lambda layer: layer.weight.abs())
    >>> criterion.score({}, Evidence(weight=torch.tensor([[2.0, -1.0]])))
    tensor([[2., 1.]])
    """

    name: str
    function: Score
    needs: frozenset[str] = frozenset(Need)
    claims: frozenset[Claim] = frozenset({Claim.STATELESS})

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Remember nothing."""
        return {}

    def observe(self, state: State, layer: Evidence) -> State:
        """Remember nothing."""
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Call the function."""
        return self.function(layer)


class HasDecay(Protocol):
    """The options of a criterion that averages over batches."""

    @property
    def decay(self) -> float:
        """The share of the average that one batch leaves as it is."""


class Average(ABC):
    r"""The part that criteria share which average something over batches.

    .. math:: e \leftarrow b \, e + (1 - b) \, x

    with :math:`x` what one batch says of each weight, :math:`b` = ``options.decay``, and
    :math:`e = 0` at the start: all weights have seen the same number of batches, so the start
    changes no ranking. Unless a criterion says otherwise, :math:`e` is its score.
    """

    __slots__ = ()
    options: HasDecay

    @abstractmethod
    def term(self, layer: Evidence) -> Tensor:
        """Return x, shape (out, in)."""

    def init(self, layer: Evidence, rng: np.random.Generator) -> State:
        """Begin with an average of zero."""
        return {"average": torch.zeros_like(layer.weight)}

    def observe(self, state: State, layer: Evidence) -> State:
        """Move the average, in place."""
        decay = self.options.decay
        state["average"].mul_(decay).add_(self.term(layer), alpha=1 - decay)
        return state

    def score(self, state: State, layer: Evidence) -> Tensor:
        """Return the average, shape (out, in)."""
        return state["average"]


class CriterionRun:
    """A criterion at work on all layers of one model, batch after batch.

    Whatever the criterion raises is raised as a :class:`CriterionFailedError` that names it and the
    batch.

    Parameters
    ----------
    criterion
        The criterion.
    layers
        The prunable layers at the start, by name.
    rng
        For criteria that draw.

    Attributes
    ----------
    step
        Batches observed.
    states
        What the criterion remembers, by layer.
    """

    def __init__(
        self, criterion: Criterion, layers: Mapping[str, Evidence], rng: np.random.Generator
    ) -> None:
        self.criterion = criterion
        self.step = 0
        with self.named_failures():
            self.states = {name: criterion.init(one, rng) for name, one in layers.items()}

    def observe(self, layers: Mapping[str, Evidence]) -> Mapping[str, Evidence]:
        """Take in the evidence of one batch; return it with all that the criterion needs."""
        if Need.MEANS in self.criterion.needs:
            layers = with_means(layers)
        self.step += 1
        with self.named_failures():
            observe = self.criterion.observe
            self.states = {name: observe(self.states[name], one) for name, one in layers.items()}
        return layers

    def scores(self, layers: Mapping[str, Evidence]) -> dict[str, Tensor]:
        """Return the criterion's scores of all layers, checked."""
        with self.named_failures():
            score = self.criterion.score
            found = {name: score(self.states[name], one) for name, one in layers.items()}
            for name, scores in found.items():
                wanted = tuple(layers[name].weight.shape)
                if tuple(scores.shape) != wanted:
                    raise ValueError(
                        f"scores of {name!r} have shape {tuple(scores.shape)}, its weights {wanted}"
                    )
                if not bool(torch.isfinite(scores).all()):
                    raise ValueError(f"scores of {name!r} are not all finite")
            return found

    def state(self) -> dict[str, Tensor]:
        """Return everything that it continues from: ``step``, and ``<criterion>/<layer>/<key>``."""
        named = {
            f"{self.criterion.name}/{layer}/{key}": tensor.detach()
            .to("cpu", copy=True)
            .contiguous()
            for layer, state in self.states.items()
            for key, tensor in state.items()
        }
        return named | {"step": torch.tensor(self.step)}

    def load(self, state: Mapping[str, Tensor]) -> bool:
        """Return to a state, bit for bit; False, with nothing changed, where it does not fit.

        It fits if it is of a criterion of this name, over layers of these names and shapes.
        """
        known = {name: tensor.shape for name, tensor in self.state().items()}
        if known != {name: tensor.shape for name, tensor in state.items()}:
            return False
        self.step = int(state["step"])
        for layer, own in self.states.items():
            for key, like in own.items():
                found = state[f"{self.criterion.name}/{layer}/{key}"]
                own[key] = found.to(like.device, copy=True)
        return True

    @contextmanager
    def named_failures(self) -> Iterator[None]:
        """Raise any exception inside as the criterion's failure."""
        try:
            yield
        except Exception as error:
            raise CriterionFailedError(
                f"criterion {self.criterion.name!r} failed at batch {self.step}: "
                f"{type(error).__name__}: {error}"
            ) from error
