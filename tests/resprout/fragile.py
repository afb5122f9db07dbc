"""A criterion of another package that raises, once, in the middle of one rebuild."""

from __future__ import annotations

from pathlib import Path

import torch

from pruner import Evidence, PruneStep
from resprout.runner import Step

SCORES = 5
"""How many scores of that rebuild it gives before."""


class Fragile:
    """Magnitude, until it is to raise.

    Attributes
    ----------
    rebuild
        The number of the rebuild that it spoils.
    """

    def __init__(self) -> None:
        self.rebuild = 0
        self._left: int | None = None

    def watch(self, _: str, step: Step) -> None:
        """Observe the run, to know when that rebuild begins."""
        plan = step.decided.rebuild if isinstance(step, PruneStep) and step.decided else None
        if plan is not None:
            self._left = SCORES if plan.number == self.rebuild else None

    def score(self, layer: Evidence) -> torch.Tensor:
        if self._left == 0:
            self._left = None
            raise ArithmeticError("division by hope")
        if self._left is not None:
            self._left -= 1
        return layer.weight.abs()


FRAGILE = Fragile()
score = FRAGILE.score


def install(folder: Path) -> None:
    """Make a folder that, on the path, offers the criterion as an installed package does."""
    about = folder / "fragile-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[resprout.criteria]\nfragile = {__name__}:score\n")
