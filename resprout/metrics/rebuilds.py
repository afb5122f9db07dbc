"""What the pruner's steps say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from pruner.ledger import FIRST
from pruner.worker import PruneStep
from resprout.metrics.families import (
    LAYER_OVERLAP,
    LAYER_SPARSITY,
    REBUILD_DURATION,
    REBUILD_LAST_SUCCESS,
    REBUILD_REASONS,
    REBUILDS,
    one_of,
)
from resprout.metrics.registry import Registry
from resprout.settings import NEVER_REBUILT, SPARSE
from stream.messages import Decision, Layer, Verdict


class Rebuilds:
    """Follows rebuilds from the decision to the verdict, and the masks that they put in force.

    Parameters
    ----------
    registry
        Where the figures go.
    models
        Those that run, by name.
    clock
        Unix time.
    """

    def __init__(
        self, registry: Registry, models: Collection[str], clock: Callable[[], float]
    ) -> None:
        self._registry, self._models, self._clock = registry, models, clock
        self._decided: float | None = None
        self._layers: dict[int, dict[str, Layer]] = {}

    def take(self, step: PruneStep) -> None:
        """Take a step of the pruner in."""
        if step.decided is not None:
            self._show(step.decided)
            self._decided = self._clock() if step.decided.rebuild else self._decided
        if step.verdict is not None:
            self._show(step.verdict)
            self._ended(step.verdict)

    def remember(self, ledger: Iterable[Decision | Verdict]) -> None:
        """Show the masks in force; what the ledger holds is not counted again."""
        for message in ledger:
            self._show(message)

    def _ended(self, verdict: Verdict) -> None:
        reason = one_of(REBUILD_REASONS, verdict.rebuild.reason)
        self._registry.count(REBUILDS, reason, verdict.verdict)
        if self._decided is not None:
            self._registry.histogram(REBUILD_DURATION).observe(self._clock() - self._decided)
            self._decided = None
        if verdict.verdict == "promoted":
            self._registry.show(REBUILD_LAST_SUCCESS, (), self._clock())

    def _show(self, message: Decision | Verdict) -> None:
        """Show the mask of the version that a promotion or a rollback puts in force, if it does."""
        if isinstance(message, Verdict) and message.version is not None:
            self._layers[message.version] = message.layers
            self._show_mask(SPARSE, message.layers)
            if message.rebuild.reason == FIRST and NEVER_REBUILT in self._models:
                self._show_mask(NEVER_REBUILT, message.layers)
        elif isinstance(message, Decision) and message.rollback is not None:
            # What it has in common with the mask that it takes over from, nobody has counted.
            layers = {
                name: layer.model_copy(update={"overlap": None})
                for name, layer in self._layers.get(message.rollback.to_version, {}).items()
            }
            self._layers[message.rollback.version] = layers
            self._show_mask(SPARSE, layers)

    def _show_mask(self, model: str, layers: Mapping[str, Layer]) -> None:
        for name, layer in layers.items():
            self._registry.show(LAYER_SPARSITY, (model, name), layer.sparsity)
            if model == SPARSE:
                self._registry.show(LAYER_OVERLAP, (name,), layer.overlap)
