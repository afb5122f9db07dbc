"""Mask updaters by name: how the masks of a model in service change.

- ``prune_phase``: what a rebuild does until its mask is frozen; it has no name in the settings.
- ``graft``: they follow the evidence of the dense model; ``pruner.regime`` asks for it.
- ``adaptation``: they are selected anew at a steady cadence, for ever.

By the name ``fixed``, here, they do not change.

An updater is offered as something that is called with its options and an
:class:`~pruner.updaters.prune_phase.UpdaterContext`, and returns a
:class:`learner.MaskUpdater`; its attribute ``Options`` is a pydantic model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from learner import ForwardPass, Gradients, MaskUpdater, OnlineModel
from pruner.config import ComparisonConfig, PrunerConfig
from pruner.criterion import NoOptions
from pruner.updaters.adaptation import Adaptation, AdaptationOptions
from pruner.updaters.graft import DenseEvidence, Graft, pruned_by_evidence
from pruner.updaters.prune_phase import PrunePhase, Recipe, UpdaterContext, recipe
from stream import RunSpec, plugins

__all__ = ["Adaptation", "AdaptationOptions", "DenseEvidence", "FixedMask", "Graft"]
__all__ += ["PrunePhase", "Recipe"]
__all__ += ["UpdaterContext", "factory", "for_comparison", "pruned_by_evidence", "recipe"]

GROUP = "resprout.updaters"
"""The entry-point group under which other packages offer updaters."""


class FixedMask:
    """Keeps the masks of the snapshot that a model begins as.

    Dense learns under it too: it has no masks.

    >>> FixedMask().state()
    {}
    """

    needs_inputs = False

    def observe(self, model: OnlineModel, gradients: Gradients, forward: ForwardPass) -> None:
        """Learn nothing."""

    def update(self, model: OnlineModel, count: int) -> None:
        """Change nothing."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Ignore what another kind of updater left."""


BUILT_IN: dict[str, Any] = {"adaptation": Adaptation, "fixed": lambda options, context: FixedMask()}


def factory(name: str, options: Mapping[str, Any]) -> Callable[[UpdaterContext], MaskUpdater]:
    """Look up an updater by the name used in the configuration, with its options.

    >>> factory("adaption", {})
    Traceback (most recent call last):
    ...
    ValueError: unknown updater 'adaption'; known: adaptation, fixed
    """
    offered = plugins.find(GROUP, BUILT_IN, name)
    return partial(offered, getattr(offered, "Options", NoOptions)(**options))


def for_comparison(
    config: ComparisonConfig,
    pruner: PrunerConfig,
    model: OnlineModel,
    spec: RunSpec,
    seed: Sequence[int],
) -> MaskUpdater:
    """Make the updater of a comparison.

    Parameters
    ----------
    config
        Of the comparison; where it names no criterion, it has the pruner's.
    pruner
        How rebuilds prune.
    model
        The comparison's own model.
    spec
        Of the run.
    seed
        For criteria that draw; another one for each comparison.
    """
    if config.criterion is not None or config.criterion_options:
        name = config.criterion or pruner.criterion
        changes = {"criterion": name, "options": config.criterion_options}
        pruner = pruner.model_copy(update=changes)
    how = recipe(pruner, spec)
    how.check(model)
    context = UpdaterContext(model, how, spec, np.random.default_rng(seed))
    return factory(config.updater, config.options)(context)
