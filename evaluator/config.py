"""What the evaluator can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

DENSE = "dense"
"""The model that all others are compared with; it runs from the first event."""
INCUMBENT = "sparse"
"""The model that a candidate must beat."""


class EvaluatorConfig(BaseModel):
    """What is scored, and over how many events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: tuple[PositiveInt, ...] = (10_000, 50_000, 100_000, 1_000_000)
    """Sizes of the tumbling windows, in events; each a multiple of the batch."""
    models: tuple[str, ...] = (DENSE, INCUMBENT)
    """Whose predictions a window waits for, ``dense`` first. All others begin where the first mask
    takes over, and are not waited for before."""
    min_clicks: int = Field(default=10, ge=1)
    """A normalised entropy stays empty with fewer clicks than this, or fewer events without one."""
    checkpoint_events: int = Field(default=50_000, gt=0)
    """Events between two checkpoints; a multiple of the batch."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.models[:1] != (DENSE,) or len(set(self.models)) != len(self.models):
            raise ValueError(
                f"models are {', '.join(self.models) or 'empty'}; name {DENSE} first and each once"
            )
        if not self.windows or len(set(self.windows)) != len(self.windows):
            raise ValueError(f"windows are {self.windows}; name at least one size and each once")
        return self


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the evaluator and the workers whose logs it reads must hold in common, in events."""

    batch_events: int
    """Of every model's batches."""
    trigger_events: int
    """Size of the windows on which it is decided whether to rebuild."""
    rebuild_events: int
    """From the window that decides a rebuild to its end."""
    judge_events: int
    """The last ones of a rebuild, on which its candidate is judged."""
    truth: bool = False
    """The stream is synthetic: the log ``truth`` is there and will hold every event."""
