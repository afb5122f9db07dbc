"""The prune phase of a rebuild: evidence in, masks out, until the mask is frozen.

Composes the questions that pruning consists of: the criterion (how important is a weight?), the
schedule (how sparse now?), the allocation (how much of which layer?) and the selection (which
entries, and in what pattern?). Whatever they are, the mask at the end of the phase has exactly the
target sparsity, or where whole blocks are pruned the nearest to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from learner import ForwardPass, Gradients, OnlineModel
from pruner import criteria
from pruner.config import PrunerConfig
from pruner.criterion import Criterion, CriterionRun, LearnsMask
from pruner.evidence import Evidence, Need, gather, provider
from pruner.sparsity import (
    Groups,
    Pattern,
    Phase,
    Schedule,
    keep_exactly,
    pattern_of,
    top_k,
    unstructured,
)
from stream import RunSpec

_ROUNDING = 1e-9
"""By how much a sparsity that was written in decimals may miss a fraction."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to prune."""

    criterion: Criterion
    schedule: Schedule = field(default_factory=Schedule)
    allocation: str = "global"
    """One of :data:`pruner.sparsity.ALLOCATIONS`."""
    sparsity: float = 0.8
    steps: int = 200
    """K: batches of the prune phase."""
    pattern: Pattern = unstructured
    """Which weights may be kept beside each other."""

    def __post_init__(self) -> None:
        for kind in self.criterion.needs - frozenset(Need):
            provider(kind)
        if isinstance(self.pattern, Groups):
            n, m = self.pattern.n, self.pattern.m
            if self.sparsity < 1 - n / m - _ROUNDING:
                raise ValueError(
                    f"pruner.sparsity = {self.sparsity} keeps more weights than pruner.pattern = "
                    f"'{n}:{m}' allows: set the sparsity to {1 - n / m:.6g} or more, or choose "
                    "another pattern"
                )

    def masks(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Select the weights to keep at a sparsity, by their scores, all of shape (out, in)."""
        return keep_exactly(scores, sparsity, self.allocation, self.pattern)

    def check(self, model: OnlineModel) -> None:
        """Raise ``ValueError`` if a layer of a model cannot be pruned so."""
        tables = [n for n, one in model.masking.layers.items() if isinstance(one, nn.Embedding)]
        if tables and Need.INPUT_SQ in self.criterion.needs:
            raise ValueError(
                f"criterion {self.criterion.name!r} needs the inputs of a layer, and the "
                f"embeddings {', '.join(tables)} have none: choose another criterion, or set "
                "learner.masking.embeddings = false"
            )


def recipe(config: PrunerConfig, spec: RunSpec) -> Recipe:
    """Read a recipe from the configuration.

    Raises ``ValueError`` for an unknown criterion, options that it does not have, and a pattern
    that is unknown or does not go with the sparsity.

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
        pattern=pattern_of(config.pattern),
    )


@dataclass(frozen=True, slots=True)
class UpdaterContext:
    """What an updater of a model in service is made with."""

    model: OnlineModel
    """Its weights may be replaced before it learns."""
    recipe: Recipe
    """How a rebuild prunes, for updaters that score and select as it does."""
    spec: RunSpec
    rng: np.random.Generator
    """For criteria that draw."""


class PrunePhase:
    """One prune phase of one model, batch after batch; afterwards the mask stays.

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
    >>> phase = PrunePhase(how, one, np.random.default_rng(0))
    >>> phase.masks_after(one), phase.frozen
    ({'top': tensor([[ True,  True,  True, False]])}, False)
    >>> phase.masks_after(one), phase.frozen
    ({'top': tensor([[ True, False,  True, False]])}, True)
    """

    def __init__(
        self, recipe: Recipe, layers: Mapping[str, Evidence], rng: np.random.Generator
    ) -> None:
        self.recipe = recipe
        self.run = CriterionRun(recipe.criterion, layers, rng)
        self._masks: dict[str, Tensor] | None = None

    @property
    def frozen(self) -> bool:
        """The mask does not change any more."""
        return self.run.step == self.recipe.steps

    @property
    def needs_inputs(self) -> bool:
        """Whether its criterion needs the inputs of the layers, while the mask is not frozen."""
        return Need.INPUT_SQ in self.recipe.criterion.needs and not self.frozen

    def observe(self, model: OnlineModel, gradients: Gradients, forward: ForwardPass) -> None:
        """Take in one batch, while the mask is not frozen.

        Raises :class:`~pruner.criterion.CriterionFailedError` where the criterion does.
        """
        if not self.frozen:
            needs = self.recipe.criterion.needs
            self._masks = self.masks_after(gather(model, needs, gradients, forward))

    def update(self, model: OnlineModel, count: int) -> dict[str, Tensor] | None:
        """Return the masks that the last batch led to, None where it changed none."""
        masks, self._masks = self._masks, None
        return masks

    def masks_after(self, layers: Mapping[str, Evidence]) -> dict[str, Tensor] | None:
        """Take in the evidence of one batch; return the masks from now on, None for no change.

        The masks after the last batch are the frozen ones: of exactly the target sparsity.

        Raises :class:`~pruner.criterion.CriterionFailedError` where the criterion does.
        """
        if self.frozen:
            raise ValueError(
                f"the mask is frozen since step {self.run.step}; nothing more to observe"
            )
        layers, recipe, criterion = self.run.observe(layers), self.recipe, self.recipe.criterion
        phase = Phase(self.run.step, recipe.steps, recipe.sparsity)
        sparsity = phase.sparsity if self.frozen else recipe.schedule(phase)
        if sparsity is None:
            return None
        if self.frozen or not isinstance(criterion, LearnsMask):
            return recipe.masks(self.run.scores(layers), sparsity)
        with self.run.named_failures():
            masks = criterion.select(self.run.states, layers, phase)
            if unknown := masks.keys() - layers.keys():
                raise ValueError(f"there are no layers {', '.join(sorted(unknown))} to mask")
            for name, layer in layers.items():
                mask, shape = masks.get(name), tuple(layer.weight.shape)
                if mask is None or mask.dtype != torch.bool or tuple(mask.shape) != shape:
                    found = None if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
                    raise ValueError(
                        f"mask of {name!r} is {found}; it must be torch.bool of shape {shape}"
                    )
        empty = [name for name, mask in masks.items() if not mask.any()]
        scores = self.run.scores(layers) if empty else {}
        return {**masks, **{name: top_k(scores[name], 1) for name in empty}}

    def state(self) -> dict[str, Tensor]:
        """Return everything that it continues from, as named tensors."""
        return self.run.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state, bit for bit; an empty one changes nothing.

        Raises ``ValueError`` where it is of another criterion or model.
        """
        if state and not self.run.load(state):
            raise ValueError(
                f"the state of the prune phase is not that of criterion "
                f"{self.recipe.criterion.name!r} on this model: {', '.join(sorted(state))}"
            )
