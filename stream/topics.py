"""The names of all logs, in one place."""

from __future__ import annotations

from typing import Final

__all__ = ["CLICKS", "DEAD_LETTERS", "LEDGER", "MASK_CHANGES", "REQUESTS", "SNAPSHOTS"]
__all__ += ["TRUTH", "WINDOWS", "predictions", "progress"]

CLICKS = "clicks"
TRUTH = "truth"
LEDGER = "ledger"
REQUESTS = "requests"
WINDOWS = "windows"
DEAD_LETTERS = "deadletters"
MASK_CHANGES = "maskchanges"


def predictions(model: str) -> str:
    """Name the log of one model's predictions; all candidates share one.

    >>> predictions("dense"), predictions("candidate-3")
    ('predictions.dense', 'predictions.candidate')
    """
    return f"predictions.{'candidate' if model.startswith('candidate-') else model}"


def progress(worker: str) -> str:
    """Name the log of one worker's rates, seconds and lag: all that belongs to the wall clock.

    >>> progress("dense")
    'progress.dense'
    """
    return f"progress.{worker}"


SNAPSHOTS: Final = "snapshots"
"""No log: where workers wait for a snapshot, they say so by this name."""
