"""What a learner reports of one step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LearnerStep:
    """One ``step()`` of a dense or a sparse learner: at most one batch."""

    count: int
    """Events learned since the start of the run; for a sparse model its ancestors' included."""
    events: int = 0
    """Events learned in this step."""
    waiting_for: str | None = None
    """What must come before the next batch, where nothing could be done."""
    done: bool = False
    """The input has ended and everything is written; further steps do nothing."""
