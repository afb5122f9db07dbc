"""Adaptation: the mask is never frozen, but selected anew at a steady cadence."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from learner import ForwardPass, Gradients, OnlineModel
from pruner.criterion import CriterionRun, LearnsMask
from pruner.evidence import Need, gather, layers_of
from pruner.updaters.prune_phase import UpdaterContext


class AdaptationOptions(BaseModel):
    """The options of the updater ``adaptation``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_events: int | None = Field(default=None, gt=0)
    """Events between two selections, a multiple of the batch. None: ``pruner.update_batches``
    batches where the criterion learns a mask, as AUX does, and a window that is decided on where it
    ranks weights, as MoP does."""


class Adaptation:
    r"""Goes on observing after the prune phase, and keeps the highest scores of the moment.

    It is the *adaptation mask* of Ye et al. 2020 (arXiv 2010.08655). The sparsity is exact at every
    selection. The state continues from the candidate's prune phase where that had the same
    criterion; otherwise it begins anew, and the mask stays until as many batches were observed as a
    prune phase has.

    For AUX the score of a weight is the average of its importances. Both the start :math:`T_0`,
    that of the prune phase, and the penalty are the same for all weights, so the weights of the
    highest averages are those of the highest :math:`a`.

    Parameters
    ----------
    options
        How often.
    context
        The model, and how to prune.

    References
    ----------
    Ye et al., Adaptive Dense-to-Sparse Paradigm for Pruning Online Recommendation System with
    Non-Stationary Data, arXiv 2010.08655, 2020.
    """

    Options = AdaptationOptions

    def __init__(self, options: AdaptationOptions, context: UpdaterContext) -> None:
        self._context = context
        self._recipe = context.recipe
        spec, criterion = context.spec, context.recipe.criterion
        events = options.every_events or spec.window_events
        if options.every_events is None and isinstance(criterion, LearnsMask):
            events = context.recipe.schedule.every_steps * spec.batch_events
        if events % spec.batch_events:
            raise ValueError(
                f"every_events = {events} is not a multiple of the batch, {spec.batch_events}"
            )
        self._every = events // spec.batch_events
        self._masks: dict[str, Tensor] | None = None
        self._run = self._begin()

    @property
    def needs_inputs(self) -> bool:
        """Whether its criterion needs the inputs of the layers."""
        return Need.INPUT_SQ in self._recipe.criterion.needs

    def observe(self, model: OnlineModel, gradients: Gradients, forward: ForwardPass) -> None:
        """Take in one batch, and select the weights to keep, if it is time.

        Raises :class:`~pruner.criterion.CriterionFailedError` where the criterion does.
        """
        run, recipe = self._run, self._recipe
        layers = run.observe(gather(model, recipe.criterion.needs, gradients, forward))
        if run.step >= recipe.steps and run.step % self._every == 0:
            self._masks = recipe.masks(run.scores(layers), recipe.sparsity)

    def update(self, model: OnlineModel, count: int) -> dict[str, Tensor] | None:
        """Return the masks that the last batch led to, None where none were selected."""
        masks, self._masks = self._masks, None
        return masks

    def state(self) -> dict[str, Tensor]:
        """Return everything that it continues from, as named tensors."""
        return self._run.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state, bit for bit, or begin anew where it is of another criterion."""
        if not self._run.load(state):
            self._run = self._begin()

    def _begin(self) -> CriterionRun:
        context = self._context
        return CriterionRun(self._recipe.criterion, layers_of(context.model), context.rng)
