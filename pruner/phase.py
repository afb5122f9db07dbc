"""How far a prune phase has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a prune phase.

    Examples
    --------
    >>> Phase(step=50, steps=200, sparsity=0.8).progress
    0.25
    """

    step: int
    """Batches of evidence so far."""
    steps: int
    """K: batches of evidence in all; then the mask is frozen."""
    sparsity: float
    """The share of weights to remove by its end."""

    def __post_init__(self) -> None:
        if not 0 <= self.step <= self.steps or self.steps < 1:
            raise ValueError(
                f"step {self.step} of {self.steps}: a phase has at least 1 and ends at the last"
            )
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity is {self.sparsity}; it must be at least 0 and below 1")

    @property
    def progress(self) -> float:
        """How much of the phase is over, 0 to 1."""
        return self.step / self.steps
