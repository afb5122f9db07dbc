"""A batch of events with all that was predicted about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.batch import ClickBatch

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predicted:
    """One model's predictions for one batch."""

    version: int
    probability: Floats
    """Shape (n,), from 0 to 1."""


@dataclass(frozen=True, slots=True)
class JoinedBatch:
    """The events number ``begin + 1`` to ``end``: what happened, and who predicted what."""

    begin: int
    label: Floats
    """Shape (n,), 0 or 1."""
    weight: Floats
    """Shape (n,), positive."""
    models: dict[str, Predicted]
    bayes: Floats | None = None
    """Shape (n,), the true chance of a click, where it is known."""
    drift: tuple[str, ...] = ()
    """The true drifts that run here, where they are known; sorted."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Events that are not valid since the batch before, by reason."""
    clicks: ClickBatch = field(default_factory=lambda: ClickBatch.empty(numeric=0, columns=0))
    """The events as they were read; of no events where nobody looks at features."""

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.label)


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth about one batch."""

    probability: Floats
    """Shape (n,), the true chance of a click."""
    drift: tuple[str, ...] = ()
    """The drifts that run there; sorted."""
