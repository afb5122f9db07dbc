"""The metrics of one process, fed by the steps of its workers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from typing import Self

from evaluator.worker import EvaluatorStep
from pruner.worker import PruneStep
from resprout.metrics.families import (
    BUILD_INFO,
    DEAD_LETTERS,
    DEAD_REASONS,
    DETECTORS,
    DRIFT_ALARMS,
    EVENTS,
    EVERY,
    FAMILIES,
    LAG_EVENTS,
    LAG_SECONDS,
    LAST_PROGRESS,
    OUTCOMES,
    PREDICTED_CLICKS,
    REBUILD_REASONS,
    REBUILDS,
    STEP_DURATION,
    Family,
)
from resprout.metrics.lags import Lags
from resprout.metrics.rebuilds import Rebuilds
from resprout.metrics.registry import Registry
from resprout.metrics.scores import scored
from resprout.plan import decisive
from resprout.runner import Step, Worker
from resprout.settings import Settings
from stream.messages import Decision, Verdict


@dataclass(frozen=True, slots=True)
class Known:
    """The label values of one process."""

    workers: tuple[str, ...]
    """Those that run in this process."""
    models: tuple[str, ...]
    config: str
    """Says which settings these are."""

    @classmethod
    def of(cls, settings: Settings, workers: Sequence[str]) -> Self:
        """Take them from the settings.

        >>> Known.of(Settings(), ["dense"]).models
        ('dense', 'sparse')
        """
        text = json.dumps(decisive(settings.model_dump(mode="json")), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(tuple(workers), settings.evaluator.models, digest[:12])


class Metrics:
    """The metrics of one process; called with every step of its workers, as an observer.

    Parameters
    ----------
    known
        The label values: what is counted starts at 0 for each of them.
    clock
        Unix time.

    Examples
    --------
    >>> from learner.step import LearnerStep
    >>> metrics = Metrics(Known.of(Settings(), ["dense"]))
    >>> metrics("dense", LearnerStep(count=1_500, events=500))
    >>> page = metrics.render()[0].decode()
    >>> [line.removeprefix(EVENTS.name) for line in page.splitlines() if EVENTS.name in line][-1]
    '{worker="dense"} 500.0'
    """

    def __init__(self, known: Known, clock: Callable[[], float] = time.time) -> None:
        self._known, self._clock = known, clock
        self._families = [f for f in FAMILIES if f.told_by in (EVERY, *known.workers)]
        self._registry = Registry(self._families)
        self._lags = Lags(known.workers, clock)
        self._rebuilds = Rebuilds(self._registry, known.models, clock)
        self._begin()

    def _begin(self) -> None:
        """Let every counter start at 0, for all values that its labels can have."""
        values: dict[Family, Iterable[tuple[str, ...]]] = {
            EVENTS: [(worker,) for worker in self._known.workers],
            PREDICTED_CLICKS: [(model,) for model in self._known.models],
            DRIFT_ALARMS: [(detector,) for detector in DETECTORS],
            DEAD_LETTERS: [(reason,) for reason in DEAD_REASONS],
            REBUILDS: product(REBUILD_REASONS, OUTCOMES),
        }
        for family in self._families:
            for labels in values.get(family, ()):
                self._registry.count(family, *labels, by=0)
        for worker in self._known.workers:
            self._registry.histogram(STEP_DURATION, worker)
            self._registry.show(LAST_PROGRESS, (worker,), self._clock())
        self._registry.show(BUILD_INFO, (version("resprout"), self._known.config), 1)

    def timed(self, worker: Worker, timer: Callable[[], float] = time.perf_counter) -> Worker:
        """Return the same worker, with its steps timed."""
        durations = self._registry.histogram(STEP_DURATION, worker.name)

        def step() -> Step:
            before = timer()
            done = worker.step()
            if done.waiting_for is None:
                durations.observe(timer() - before)
            return done

        return replace(worker, step=step)

    def follow(self, worker: str, ahead: Callable[[], int | None]) -> None:
        """Measure a worker's lag by how many events there are for it.

        Without this a worker is compared with that of this process that is furthest on; where it
        runs alone, its lag is not exported.

        Parameters
        ----------
        worker
            Its name.
        ahead
            Says how many events there are, None where that is not known; called every few seconds,
            in the worker's own thread.
        """
        self._lags.follow(worker, ahead)

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        if name not in self._known.workers:
            known = ", ".join(self._known.workers)
            raise ValueError(f"metrics know no worker {name!r}; they were made for: {known}")
        if step.waiting_for is None:
            self._registry.show(LAST_PROGRESS, (name,), self._clock())
        self._lags.came(name, step.count)
        if isinstance(step, EvaluatorStep):
            scored(step, self._registry)
        elif isinstance(step, PruneStep):
            self._rebuilds.take(step)
        self._registry.count(EVENTS, name, by=step.events)

    def lag(self, worker: str) -> tuple[int, float] | None:
        """Tell how far a worker is behind, in events and in seconds.

        None where that is not known, and before it has begun.
        """
        return self._lags.of(worker)

    def remember(self, ledger: Iterable[Decision | Verdict]) -> None:
        """Show the masks in force of a run that goes on; what came before is not counted again.

        Parameters
        ----------
        ledger
            What it holds so far, oldest first.
        """
        self._rebuilds.remember(ledger)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write all values down, and name the format.

        Parameters
        ----------
        accept
            The formats that the reader takes, as HTTP says it.
        """
        for worker, (events, seconds) in self._lags.known().items():
            self._registry.show(LAG_EVENTS, (worker,), events)
            self._registry.show(LAG_SECONDS, (worker,), seconds)
        return self._registry.render(accept)
