"""Fixed: the masks stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from learner import ForwardPass, OnlineModel


class FixedMask:
    """Keeps the masks of the snapshot that a model begins as.

    Dense learns under it too: it has no masks.

    >>> FixedMask().state()
    {}
    """

    needs_inputs = False

    def observe(
        self, model: OnlineModel, gradients: Mapping[str, Tensor], forward: ForwardPass
    ) -> None:
        """Learn nothing."""

    def update(self, model: OnlineModel, count: int) -> None:
        """Change nothing."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Ignore what another kind of updater left."""
