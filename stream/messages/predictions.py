"""What models predict, and which events that is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Place(NamedTuple):
    """Where an event stands inside a partition: the record, and the row in a columnar record."""

    offset: int
    row: int


class Span(NamedTuple):
    """Consecutive valid events of one partition, first and last included."""

    partition: int
    first: Place
    last: Place
    events: int


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """One model's predictions for one batch, made before the model learned from it."""

    model: str
    """``dense``, ``sparse``, ``never_rebuilt`` or ``candidate-n``."""
    version: int
    begin: int
    """Valid events before this batch."""
    spans: tuple[Span, ...]
    """Which events, in the order of ``probability``."""
    trained_through: dict[int, Place]
    """For each partition the last place the model or any ancestor of it has learned from."""
    probability: NDArray[np.float64]
    """Shape (n,), the predicted chance of a click."""

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.probability)
