"""Grafting: the mask of the served model follows the dense model while both learn."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from learner import UPDATER, ForwardPass, Gradients, LearnerState, OnlineModel, with_prefix
from pruner.config import PrunerConfig
from pruner.criterion import CriterionFailedError, CriterionRun
from pruner.evidence import Evidence, Need, gather, layers_of
from pruner.masks import content_hash, pack
from pruner.updaters.prune_phase import Recipe
from stream.messages import MaskChange

log = logging.getLogger(__name__)


_SCORE = "score/"
"""Prefix of the names of scores in the state of evidence."""
_FAILED = "failed"
"""The name in that state of the batch at which the criterion failed."""


class DenseEvidence:
    """Lets a criterion observe the dense model while that learns; the model stays whole.

    What it has observed is part of the model's checkpoints and snapshots, as ``updater.*``.

    Parameters
    ----------
    recipe
        How to prune.
    model
        The dense model.
    rng
        For criteria that draw.
    """

    def __init__(self, recipe: Recipe, model: OnlineModel, rng: np.random.Generator) -> None:
        self.run = CriterionRun(recipe.criterion, layers_of(model), rng)
        self._recipe = recipe
        self._last: Mapping[str, Evidence] = {}
        self._scores: dict[str, Tensor] = {}
        self._failure: str | None = None

    @property
    def needs_inputs(self) -> bool:
        """Whether its criterion needs the inputs of the layers."""
        return Need.INPUT_SQ in self._recipe.criterion.needs

    def observe(self, model: OnlineModel, gradients: Gradients, forward: ForwardPass) -> None:
        """Take in one batch; where the criterion fails, this and all after it are passed over."""
        if self._failure is not None:
            return
        needs = self._recipe.criterion.needs
        try:
            self._last = self.run.observe(gather(model, needs, gradients, forward))
        except CriterionFailedError as error:
            self._fail(error)

    def update(self, model: OnlineModel, count: int) -> None:
        """Change nothing."""

    def scores(self) -> dict[str, Tensor]:
        """Return the criterion's scores at the last batch, shape (out, in) by layer.

        Raises :class:`~pruner.criterion.CriterionFailedError` where the criterion has failed, or
        nothing was observed.
        """
        if self._last and self._failure is None:
            try:
                self._scores, self._last = self.run.scores(self._last), {}
            except CriterionFailedError as error:
                self._fail(error)
        if self._failure is not None:
            raise CriterionFailedError(self._failure)
        if not self._scores:
            raise CriterionFailedError("there is no evidence of the dense model: it has no batch")
        return self._scores

    def masks(self) -> dict[str, Tensor]:
        """Return the masks that the scores lead to, at exactly the target sparsity."""
        return self._recipe.masks(self.scores(), self._recipe.sparsity)

    def state(self) -> dict[str, Tensor]:
        """Return everything that it continues from, and its scores, as named tensors."""
        with suppress(CriterionFailedError):
            scores = self.scores()
            named = {_SCORE + n: one.detach().to("cpu", copy=True) for n, one in scores.items()}
            return self.run.state() | named
        return {} if self._failure is None else {_FAILED: torch.tensor(self.run.step)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state, bit for bit; an empty one changes nothing.

        Raises ``ValueError`` where it is of another criterion or model.
        """
        self._last, self._scores = {}, with_prefix(state, _SCORE)
        if _FAILED in state:
            self._failure = (
                f"criterion {self._recipe.criterion.name!r} has failed on the dense model, at "
                f"batch {int(state[_FAILED])}"
            )
            return
        own = {name: tensor for name, tensor in state.items() if not name.startswith(_SCORE)}
        if own and not self.run.load(own):
            raise ValueError(
                f"the evidence beside the dense model is not that of criterion "
                f"{self._recipe.criterion.name!r} on this model: {', '.join(sorted(state))}"
            )

    def _fail(self, error: CriterionFailedError) -> None:
        self._failure, self._last = str(error), {}
        log.error("no evidence of the dense model any more, its masks stay as they are: %s", error)


def pruned_by_evidence(
    dense: LearnerState, recipe: Recipe, model: OnlineModel, rng: np.random.Generator
) -> LearnerState:
    """Prune a dense model in one shot, by the evidence in its snapshot.

    Parameters
    ----------
    dense
        The snapshot.
    recipe
        How to prune.
    model
        Of the same kind, with the weights of the snapshot; it is pruned.
    rng
        For criteria that draw.
    """
    evidence = DenseEvidence(recipe, model, rng)
    evidence.load(with_prefix(dense.tensors, UPDATER))
    model.set_masks(evidence.masks())
    return replace(dense, tensors=model.state())


class Graft:
    r"""Selects the mask anew from the dense model's evidence, at a steady cadence, for ever.

    At every multiple of ``pruner.graft_events``, with :math:`m'` the mask that the evidence leads
    to, :math:`m` the one before, :math:`\theta` and :math:`A` the dense model's weights and Adagrad
    sums, and :math:`c` = ``pruner.graft_pull``:

    - a weight that enters, :math:`m' = 1, m = 0`, takes the dense one's value and sum,
      :math:`w = \theta`;
    - one that stays keeps its sum, and moves a little to the dense one's value,
      :math:`w \leftarrow w + c \, (\theta - w)`; biases do so, too;
    - one that leaves is dropped.

    It is a pure function of both models at that count, so the same bits come again. It costs no
    events: nobody learns for it.

    Parameters
    ----------
    name
        Of the model that it changes, for the record.
    config
        Cadence and pull.
    evidence
        What was observed of the dense model, as of the same count.
    dense
        The dense model, as of the same count.
    """

    needs_inputs = False

    def __init__(
        self, name: str, config: PrunerConfig, evidence: DenseEvidence, dense: OnlineModel
    ) -> None:
        self._name = name
        self._every, self._pull = config.graft_events, config.graft_pull
        self._evidence, self._dense = evidence, dense

    def observe(self, model: OnlineModel, gradients: Gradients, forward: ForwardPass) -> None:
        """Learn nothing: only the dense model's gradients tell which weights are missing."""

    def update(self, model: OnlineModel, count: int) -> MaskChange | None:
        """Graft, if it is time and there is evidence; return what to record of it.

        The model's ``learner.masking`` has returning weights and sums given with the masks.
        """
        if count % self._every:
            return None
        dense, before = self._dense, model.masks
        try:
            masks = self._evidence.masks()
        except CriterionFailedError:
            # It has been said; the trigger rebuilds where that goes on for too long.
            return None
        # Where nothing was pruned, nothing enters.
        entered = {n: int((mask & ~before.get(n, mask)).sum()) for n, mask in masks.items()}
        weights = {name: dense.theta(name) for name in masks}
        model.set_masks(masks, weights, {name: dense.accumulator(name) for name in masks})
        if self._pull:
            model.pull(dense, self._pull)
        return MaskChange(
            model=self._name,
            count=count,
            source_count=count,
            mask=content_hash(pack({name: mask.cpu() for name, mask in masks.items()})),
            kept={name: int(mask.sum()) for name, mask in masks.items()},
            entered=entered,
        )

    def state(self) -> dict[str, Tensor]:
        """Return nothing: all that it knows is the dense model's."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Ignore what another kind of updater left."""
