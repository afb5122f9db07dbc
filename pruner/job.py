"""A candidate in the making: a copy of the dense model, pruned batch by batch, then fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from learner.online import Ahead, OnlineModel
from pruner.evidence import Evidence, Need
from pruner.pruning import Pruning, Recipe
from stream.batch import ClickBatch

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


class PruneJob:
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

    def ahead(self, batch: ClickBatch) -> Ahead:
        """Predict a batch that is about to be learned."""
        inputs = Need.INPUT_SQ in self.pruning.recipe.criterion.needs and not self.frozen
        return self.model.ahead(batch, inputs=inputs)

    def learn_from(self, ahead: Ahead) -> None:
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
