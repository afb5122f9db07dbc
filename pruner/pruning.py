"""A prune phase: evidence in, masks out.

Composes the questions that pruning consists of: the criterion (how important is a weight?), the
schedule (how sparse now?), the allocation (how much of which layer?) and the selection (which
entries?). Whatever they are, the mask at the end of the phase has exactly the target sparsity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from learner.online import ForwardPass, OnlineModel
from pruner import criteria
from pruner.allocation import ALLOCATIONS
from pruner.config import PrunerConfig
from pruner.criterion import Criterion, LearnsMask, State
from pruner.evidence import Evidence, Need, means
from pruner.schedule import Phase, Schedule
from pruner.selection import top_k
from stream.batch import ClickBatch
from stream.spec import RunSpec

_SEPARATOR = "/"
"""Between layer and key, in the names of a checkpoint's tensors."""


class CriterionFailedError(Exception):
    """A criterion raised, or returned what it must not."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to prune."""

    criterion: Criterion
    schedule: Schedule = field(default_factory=Schedule)
    allocation: str = "global"
    """One of :data:`pruner.allocation.ALLOCATIONS`."""
    sparsity: float = 0.8
    steps: int = 200
    """K: batches of the prune phase."""

    def __post_init__(self) -> None:
        Phase(0, self.steps, self.sparsity)
        if self.allocation not in ALLOCATIONS:
            known = ", ".join(sorted(ALLOCATIONS))
            raise ValueError(f"unknown allocation {self.allocation!r}; known: {known}")


def recipe(config: PrunerConfig, spec: RunSpec) -> Recipe:
    """Read a recipe from the configuration.

    Raises ``ValueError`` for an unknown criterion, or options that it does not have.

    Examples
    --------
    >>> recipe(PrunerConfig(criterion="magnitude"), RunSpec.small(prune_events=500)).steps
    10
    """
    return Recipe(
        criterion=criteria.build(config.criterion, config.options),
        schedule=Schedule(config.schedule, config.ramp_ratio, config.update_batches),
        allocation=config.allocation,
        sparsity=config.sparsity,
        steps=spec.prune_events // spec.batch_events,
    )


def keep_exactly(
    scores: Mapping[str, Tensor], sparsity: float, allocation: str = "global"
) -> dict[str, Tensor]:
    """Keep the highest scores: exactly as many as a sparsity asks, at least one a layer.

    Parameters
    ----------
    scores
        By layer, shape (out, in), finite.
    sparsity
        Share of all weights to remove, 0 to 1.
    allocation
        How much of which layer.

    Returns
    -------
    By layer, bool, shape (out, in), True is kept.

    Examples
    --------
    >>> keep_exactly({"top": torch.tensor([[3.0, 1.0, 2.0, 0.0]])}, sparsity=0.5)
    {'top': tensor([[ True, False,  True, False]])}
    """
    counts = ALLOCATIONS[allocation](scores, sparsity)
    return {name: top_k(score, counts[name]) for name, score in scores.items()}


class Pruning:
    """One prune phase of one model, batch after batch.

    Parameters
    ----------
    recipe
        How to prune.
    layers
        The prunable layers at the start, by name.
    rng
        For criteria that draw.

    Examples
    --------
    >>> one = {"top": Evidence(weight=torch.tensor([[3.0, -1.0, 2.0, 0.5]]))}
    >>> how = Recipe(criteria.build("magnitude"), sparsity=0.5, steps=2)
    >>> pruning = Pruning(how, one, np.random.default_rng(0))
    >>> pruning.observe(one), pruning.done
    ({'top': tensor([[ True,  True,  True, False]])}, False)
    >>> pruning.observe(one), pruning.done
    ({'top': tensor([[ True, False,  True, False]])}, True)
    """

    def __init__(
        self, recipe: Recipe, layers: Mapping[str, Evidence], rng: np.random.Generator
    ) -> None:
        self.recipe = recipe
        self.step = 0
        with self._blaming():
            self.states = {name: recipe.criterion.init(one, rng) for name, one in layers.items()}

    @property
    def done(self) -> bool:
        """The mask is frozen."""
        return self.step == self.recipe.steps

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        return Phase(self.step, self.recipe.steps, self.recipe.sparsity)

    def observe(self, layers: Mapping[str, Evidence]) -> dict[str, Tensor] | None:
        """Take in the evidence of one batch; return the masks from now on, None for no change.

        The masks after the last batch are the frozen ones: of exactly the target sparsity.

        Raises :class:`CriterionFailedError` where the criterion does.
        """
        if self.done:
            raise ValueError(f"the mask is frozen since step {self.step}; nothing more to observe")
        layers = with_means(layers) if Need.MEANS in self.recipe.criterion.needs else layers
        self.step += 1
        with self._blaming():
            observe = self.recipe.criterion.observe
            self.states = {name: observe(self.states[name], one) for name, one in layers.items()}
            return self._masks(layers)

    def state(self) -> dict[str, Tensor]:
        """Return all that it goes on from, as named tensors."""
        named = {
            f"{layer}{_SEPARATOR}{key}": tensor.detach().to("cpu", copy=True).contiguous()
            for layer, state in self.states.items()
            for key, tensor in state.items()
        }
        return named | {"step": torch.tensor(self.step)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state, bit for bit."""
        self.step = int(state["step"])
        found: dict[str, State] = {name: {} for name in self.states}
        for name, tensor in state.items():
            layer, separator, key = name.rpartition(_SEPARATOR)
            if separator:
                like = self.states[layer].get(key, tensor)
                found[layer][key] = tensor.to(like.device, copy=True)
        self.states = found

    def _masks(self, layers: Mapping[str, Evidence]) -> dict[str, Tensor] | None:
        criterion, phase = self.recipe.criterion, self.phase
        sparsity = phase.sparsity if self.done else self.recipe.schedule(phase)
        if sparsity is None:
            return None
        if isinstance(criterion, LearnsMask) and not self.done:
            masks = _checked_masks(criterion.select(self.states, layers, phase), layers)
            return (
                masks if all(bool(m.any()) for m in masks.values()) else self._filled(masks, layers)
            )
        return keep_exactly(self.scores(layers), sparsity, self.recipe.allocation)

    def scores(self, layers: Mapping[str, Evidence]) -> dict[str, Tensor]:
        """Return the criterion's scores of all layers, checked."""
        score = self.recipe.criterion.score
        return {
            name: _checked(name, score(self.states[name], one), one) for name, one in layers.items()
        }

    def _filled(
        self, masks: Mapping[str, Tensor], layers: Mapping[str, Evidence]
    ) -> dict[str, Tensor]:
        """Give a layer that would be empty its best weight back."""
        scores = self.scores(layers)
        return {n: m if m.any() else top_k(scores[n], 1) for n, m in masks.items()}

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """Say of any exception that the criterion raised it, and when."""
        try:
            yield
        except Exception as error:
            name, step = self.recipe.criterion.name, self.step
            raise CriterionFailedError(
                f"criterion {name!r} failed at batch {step}: {type(error).__name__}: {error}"
            ) from error


def with_means(layers: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """Add the averages over all layers to each layer's evidence."""
    found = means(layers)
    return {name: replace(one, means=found) for name, one in layers.items()}


def _checked(name: str, scores: Tensor, layer: Evidence) -> Tensor:
    if scores.shape != layer.weight.shape:
        raise ValueError(
            f"scores of {name!r} have shape {tuple(scores.shape)}, "
            f"its weights {tuple(layer.weight.shape)}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(f"scores of {name!r} are not all finite")
    return scores


def _checked_masks(masks: dict[str, Tensor], layers: Mapping[str, Evidence]) -> dict[str, Tensor]:
    for name, layer in layers.items():
        mask = masks.get(name)
        if mask is None or mask.dtype != torch.bool or mask.shape != layer.weight.shape:
            found = None if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise ValueError(
                f"mask of {name!r} is {found}; "
                f"it must be torch.bool of shape {tuple(layer.weight.shape)}"
            )
    return masks


_PRUNING = "pruning/"
"""Before the names of the tensors that are the prune phase's, not the model's."""


def evidence_of(
    model: OnlineModel,
    gradients: Mapping[str, Tensor] | None = None,
    input_sq: Mapping[str, Tensor] | None = None,
    needs: frozenset[Need] = frozenset(),
) -> dict[str, Evidence]:
    """Gather what is known of a model's prunable layers.

    Parameters
    ----------
    model
        Whose layers.
    gradients
        By layer, shape (out, in); a layer that a batch did not use has a gradient of zero.
    input_sq
        By layer, shape (in,).
    needs
        Decides whether Adagrad's sums go along.
    """
    found = {}
    for name in model.prunable:
        weight = model.theta(name)
        gradient = None if gradients is None else gradients.get(name, torch.zeros_like(weight))
        found[name] = Evidence(
            weight=weight,
            gradient=gradient,
            input_sq=None if input_sq is None else input_sq.get(name),
            accumulator=model.accumulator(name) if Need.ACCUMULATOR in needs else None,
            mask=model.masks.get(name),
        )
    return found


class PruningTrainer:
    """Takes a model through its prune phase and on.

    Parameters
    ----------
    model
        A copy of the dense model, with its accumulators; it is changed in place.
    recipe
        How to prune.
    rng
        For criteria that draw.
    """

    def __init__(self, model: OnlineModel, recipe: Recipe, rng: np.random.Generator) -> None:
        self.model = model
        self.pruning = Pruning(recipe, evidence_of(model), rng)

    @property
    def frozen(self) -> bool:
        """The mask does not change any more."""
        return self.pruning.done

    def ahead(self, batch: ClickBatch) -> ForwardPass:
        """Predict a batch that is about to be learned."""
        inputs = Need.INPUT_SQ in self.pruning.recipe.criterion.needs and not self.frozen
        return self.model.ahead(batch, inputs=inputs)

    def learn_from(self, ahead: ForwardPass) -> None:
        """Learn a batch that was predicted, and while the mask is not frozen, observe it.

        The gradients and weights observed are those before the step; a new mask holds after it.

        Raises :class:`~pruner.pruning.CriterionFailedError` where the criterion does.
        """
        if self.frozen:
            self.model.learn_from(ahead)
            return
        masks: dict[str, Tensor] = {}
        needs = self.pruning.recipe.criterion.needs

        def observe(gradients: dict[str, Tensor]) -> None:
            layers = evidence_of(self.model, gradients, ahead.input_sq, needs)
            masks.update(self.pruning.observe(layers) or {})

        self.model.learn_from(ahead, observe)
        if masks:
            self.model.set_masks(masks)

    def learn(self, batch: ClickBatch) -> None:
        """Predict and learn a batch."""
        self.learn_from(self.ahead(batch))

    def state(self) -> dict[str, Tensor]:
        """Return a copy of all that it goes on from."""
        pruning = {_PRUNING + name: tensor for name, tensor in self.pruning.state().items()}
        return self.model.state() | pruning

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state, bit for bit."""
        own = {n.removeprefix(_PRUNING): t for n, t in state.items() if n.startswith(_PRUNING)}
        self.pruning.load(own)
        self.model.load({n: t for n, t in state.items() if not n.startswith(_PRUNING)})
