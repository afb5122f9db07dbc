"""The columnar batch that learners work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClickBatch:
    """Events as columns, encoded by a feature schema.

    ``n`` events, ``d`` numeric features, ``c`` categorical columns (a feature with up to ``k``
    values takes ``k`` columns, padded with bucket 0).

    Examples
    --------
    >>> batch = ClickBatch.empty(numeric=2, columns=3)
    >>> len(batch), batch.numeric.shape, batch.categorical.shape
    (0, (0, 2), (0, 3))
    """

    label: NDArray[np.float32]
    """Shape (n,), 0 or 1."""
    weight: NDArray[np.float32]
    """Shape (n,), positive; 1 / sampling rate of down-sampled negatives."""
    time_ms: NDArray[np.int64]
    """Shape (n,), event time in milliseconds since 1970-01-01 UTC."""
    numeric: NDArray[np.float32]
    """Shape (n, d), standardised by the schema."""
    categorical: NDArray[np.int32]
    """Shape (n, c), bucket of each column, counted inside its own feature."""

    def __post_init__(self) -> None:
        n = len(self.label)
        for name in ("weight", "time_ms", "numeric", "categorical"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, label has {n}")

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> ClickBatch:
        """Take some rows, as a view where numpy can."""
        return ClickBatch(
            self.label[rows],
            self.weight[rows],
            self.time_ms[rows],
            self.numeric[rows],
            self.categorical[rows],
        )

    @classmethod
    def empty(cls, numeric: int, columns: int) -> ClickBatch:
        """Make a batch of no events."""
        return cls(
            np.empty(0, np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.int64),
            np.empty((0, numeric), np.float32),
            np.empty((0, columns), np.int32),
        )

    @classmethod
    def concat(cls, parts: Sequence[ClickBatch]) -> ClickBatch:
        """Join batches of one schema, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([p.label for p in parts]),
            np.concatenate([p.weight for p in parts]),
            np.concatenate([p.time_ms for p in parts]),
            np.concatenate([p.numeric for p in parts]),
            np.concatenate([p.categorical for p in parts]),
        )
