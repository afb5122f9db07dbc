"""How far the workers of one process are behind."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

from resprout.lag import Behind

LOOK_SECONDS = 5.0
"""Pause between two looks for how many events there are."""


class Lags:
    """Compares how far the workers have come with how far they could.

    Parameters
    ----------
    workers
        Those of the process.
    clock
        Unix time.

    Examples
    --------
    >>> lags = Lags(["source", "dense"], clock=lambda: 1_000.0)
    >>> lags.came("source", 500)
    >>> lags.came("dense", 200)
    >>> lags.known()
    {'source': (0, 0.0), 'dense': (300, 0.0)}
    """

    def __init__(self, workers: Sequence[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[str, int | None] = dict.fromkeys(workers)
        self._behind = {worker: Behind() for worker in workers}
        self._ahead: dict[str, Callable[[], int | None]] = {}
        self._looked = dict.fromkeys(workers, -math.inf)
        self._looking = threading.Lock()

    def follow(self, worker: str, ahead: Callable[[], int | None]) -> None:
        """Compare a worker with how many events there are, rather than with the others."""
        self._ahead[worker] = ahead

    def came(self, worker: str, count: int) -> None:
        """Note how far a worker has come; called in its own thread."""
        self._counts[worker] = count
        now = self._clock()
        if worker in self._ahead and now >= self._looked[worker] + LOOK_SECONDS:
            self._looked[worker] = now
            self._look(worker, self._ahead[worker]())

    def of(self, worker: str) -> tuple[int, float] | None:
        """Tell how far a worker is behind, in events and in seconds.

        None where that is not known, and before it has begun.
        """
        count = self._counts.get(worker)
        return self._measure(worker, count) if count else None

    def known(self) -> dict[str, tuple[int, float]]:
        """Tell of all workers of which it is known."""
        counts = {name: count for name, count in self._counts.items() if count is not None}
        found = {name: self._measure(name, count) for name, count in counts.items()}
        return {name: lag for name, lag in found.items() if lag is not None}

    def _measure(self, worker: str, count: int) -> tuple[int, float] | None:
        self._compare(worker)
        with self._looking:
            behind = self._behind[worker]
            if behind.there is None:
                return None
            return max(behind.there - count, 0), behind.seconds(count, self._clock())

    def _compare(self, worker: str) -> None:
        """Look how far the others of this process have come, where nobody else says it."""
        if worker not in self._ahead and len(self._counts) > 1:
            self._look(worker, max(count or 0 for count in self._counts.values()))

    def _look(self, worker: str, there: int | None) -> None:
        if there is not None:
            with self._looking:
                self._behind[worker].look(there, self._clock())
