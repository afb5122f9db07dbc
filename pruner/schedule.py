"""How far a prune phase has come."""

from __future__ import annotations

import math
from collections.abc import Callable
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


Shape = Callable[[float], float]
"""How much of the target is reached, 0 to 1, when a share of the ramp is done, 0 to 1."""


def linear(done: float) -> float:
    """Rise steadily.

    >>> linear(0.5)
    0.5
    """
    return done


def cubic(done: float) -> float:
    """Rise fast, then ever slower (Zhu and Gupta 2017, arXiv 1710.01878, Eq. 1).

    >>> cubic(0.5)
    0.875
    """
    return 1 - (1 - done) ** 3


def cosine(done: float) -> float:
    """Rise slowly, fast, slowly.

    >>> cosine(0.5), cosine(1.0)
    (0.5, 1.0)
    """
    return (1 - math.cos(math.pi * done)) / 2


def one_shot(done: float) -> float:
    """Cut nothing until the end, then everything.

    >>> one_shot(0.99), one_shot(1.0)
    (0.0, 1.0)
    """
    return float(done >= 1)


SHAPES: dict[str, Shape] = {
    "one_shot": one_shot,
    "linear": linear,
    "cubic": cubic,
    "cosine": cosine,
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the mask changes, and to what sparsity.

    Examples
    --------
    >>> schedule = Schedule("linear", every_steps=5)
    >>> schedule(Phase(step=4, steps=20, sparsity=0.8)) is None
    True
    >>> schedule(Phase(step=5, steps=20, sparsity=0.8))
    0.2
    """

    shape: str = "linear"
    """One of :data:`SHAPES`."""
    ramp_ratio: float = 1.0
    """Share of the phase after which the target is reached."""
    every_steps: int = 1
    """Batches between two changes."""

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"unknown schedule {self.shape!r}; known: {', '.join(sorted(SHAPES))}")

    def __call__(self, phase: Phase) -> float | None:
        """Return the sparsity to have now; None: leave the mask as it is."""
        if phase.step < phase.steps and phase.step % self.every_steps:
            return None
        done = min(1.0, phase.progress / self.ramp_ratio)
        return SHAPES[self.shape](done) * phase.sparsity or None
