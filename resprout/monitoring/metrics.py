"""What Prometheus sees: every metric, and how the workers' reports become its values.

Each process has a registry of its own, with the metrics of the workers that it runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from typing import Self, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from evaluator import EvaluatorStep
from evaluator.metrics import ScoredEvents
from pruner import FIRST, PruneStep
from resprout.monitoring.families import (
    BUILD_INFO,
    DEAD_LETTERS,
    DEAD_REASONS,
    DETECTORS,
    DRIFT_ALARMS,
    EVENTS,
    EVERY,
    FAMILIES,
    GAUGES,
    LABELS,
    LAG_EVENTS,
    LAG_SECONDS,
    LAST_PROGRESS,
    LAYER_OVERLAP,
    LAYER_SPARSITY,
    OBSERVED_CLICKS,
    OUTCOMES,
    REBUILD_DURATION,
    REBUILD_LAST_SUCCESS,
    REBUILD_REASONS,
    REBUILDS,
    STEP_DURATION,
    TOTALS,
    Family,
    markdown,
    one_of,
)
from resprout.monitoring.progress import LagClock
from resprout.runner import Step, Worker
from resprout.settings import NEVER_REBUILT, SPARSE, Settings
from resprout.spec import decisive
from stream.messages import Decision, Layer, Verdict, Window

__all__ = ["DETECTORS", "FAMILIES", "LABELS", "OUTCOMES", "Known", "Metrics", "markdown"]


_Wrapped = TypeVar("_Wrapped", bound=MetricWrapperBase)


class Registry:
    """Holds the values of some families.

    A gauge without a value is not exported. The client shows one without labels as 0, so that is
    made with its first value.

    Parameters
    ----------
    families
        Those that it holds.

    Examples
    --------
    >>> from resprout.monitoring.families import DRIFT_ALARMS
    >>> registry = Registry([DRIFT_ALARMS])
    >>> registry.count(DRIFT_ALARMS, "input", by=2)
    >>> registry.render()[0].decode().splitlines()[-1].removeprefix(DRIFT_ALARMS.name)
    '{detector="input"} 2.0'
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self._registry = CollectorRegistry()
        self._counters = {
            f: Counter(f.name, f.text, f.labels, registry=self._registry)
            for f in families
            if f.kind == "counter"
        }
        self._gauges = {
            f: Gauge(f.name, f.text, f.labels, registry=self._registry)
            for f in families
            if f.kind == "gauge" and f.labels
        }
        self._histograms = {
            f: Histogram(f.name, f.text, f.labels, buckets=f.buckets, registry=self._registry)
            for f in families
            if f.kind == "histogram"
        }

    def count(self, family: Family, *labels: str, by: float = 1) -> None:
        """Raise a counter; by 0 it is there from now on."""
        _child(self._counters[family], labels).inc(by)

    def histogram(self, family: Family, *labels: str) -> Histogram:
        """Return a histogram, which is there from now on."""
        return _child(self._histograms[family], labels)

    def show(self, family: Family, labels: tuple[str, ...], value: float | None) -> None:
        """Set a gauge, or take it away where there is no value."""
        if family not in self._gauges:
            self._gauges[family] = Gauge(family.name, family.text, registry=self._registry)
        gauge = self._gauges[family]
        if value is None:
            # Old versions of the client object where there was no value before either.
            with suppress(KeyError):
                gauge.remove(*labels)
        else:
            _child(gauge, labels).set(value)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write all values down, and name the format.

        Parameters
        ----------
        accept
            The formats that the reader takes, as HTTP says it.
        """
        encode, content_type = choose_encoder(accept)
        return encode(_Collected(self._registry)), content_type


def _child(metric: _Wrapped, labels: tuple[str, ...]) -> _Wrapped:
    """Pick the one with these labels; one that knows no labels is its own only child."""
    return metric.labels(*labels) if labels else metric


class _Collected(Collector):
    """A registry without the times at which its counters were made: nobody asks for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


def scored(step: EvaluatorStep, registry: Registry) -> None:
    """Take a step of the evaluator in."""
    if step.sums is not None:
        registry.count(OBSERVED_CLICKS, by=step.sums.on.clicks)
        for model, sums in step.sums.models.items():
            for metric, family in TOTALS:
                total = metric.value(ScoredEvents(step.sums.on, sums.terms))
                registry.count(family, model, by=total if isinstance(total, float) else 0)
    for window in step.windows:
        if not window.partial:
            _closed(window, registry)
    for alarm in step.alarms:
        registry.count(DRIFT_ALARMS, alarm.detector)
    for letter in step.dead_letters:
        registry.count(DEAD_LETTERS, one_of(DEAD_REASONS, letter.reason))


def _closed(window: Window, registry: Registry) -> None:
    """Show the last window of a size; what it does not know is not exported."""
    for model in window.models:
        for metric, family in GAUGES:
            registry.show(family, (model, str(window.size)), window.metric(model, metric.name))


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
        self._behind = {worker: LagClock() for worker in workers}
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
        """Return how far a worker is behind, in events and in seconds.

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


class Rebuilds:
    """Follows rebuilds from the decision to the verdict, and the masks that they put in force.

    Parameters
    ----------
    registry
        Where the figures go.
    models
        Those that run, by name.
    clock
        Unix time.
    """

    def __init__(
        self, registry: Registry, models: Collection[str], clock: Callable[[], float]
    ) -> None:
        self._registry, self._models, self._clock = registry, models, clock
        self._decided: float | None = None
        self._layers: dict[int, dict[str, Layer]] = {}

    def take(self, step: PruneStep) -> None:
        """Take a step of the pruner in."""
        if step.decided is not None:
            self._show(step.decided)
            self._decided = self._clock() if step.decided.rebuild else self._decided
        if step.verdict is not None:
            self._show(step.verdict)
            self._ended(step.verdict)

    def remember(self, ledger: Iterable[Decision | Verdict]) -> None:
        """Show the masks in force; what the ledger holds is not counted again."""
        for message in ledger:
            self._show(message)

    def _ended(self, verdict: Verdict) -> None:
        reason = one_of(REBUILD_REASONS, verdict.rebuild.reason)
        self._registry.count(REBUILDS, reason, verdict.verdict)
        if self._decided is not None:
            self._registry.histogram(REBUILD_DURATION).observe(self._clock() - self._decided)
            self._decided = None
        if verdict.verdict == "promoted":
            self._registry.show(REBUILD_LAST_SUCCESS, (), self._clock())

    def _show(self, message: Decision | Verdict) -> None:
        """Show the mask of the version that a promotion or a rollback puts in force, if it does."""
        if isinstance(message, Verdict) and message.version is not None:
            self._layers[message.version] = message.layers
            self._show_mask(SPARSE, message.layers)
            if message.rebuild.reason == FIRST and NEVER_REBUILT in self._models:
                self._show_mask(NEVER_REBUILT, message.layers)
        elif isinstance(message, Decision) and message.rollback is not None:
            # What it has in common with the mask that it takes over from, nobody has counted.
            layers = {
                name: layer.model_copy(update={"overlap": None})
                for name, layer in self._layers.get(message.rollback.to_version, {}).items()
            }
            self._layers[message.rollback.version] = layers
            self._show_mask(SPARSE, layers)

    def _show_mask(self, model: str, layers: Mapping[str, Layer]) -> None:
        for name, layer in layers.items():
            self._registry.show(LAYER_SPARSITY, (model, name), layer.sparsity)
            if model == SPARSE:
                self._registry.show(LAYER_OVERLAP, (name,), layer.overlap)


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
    >>> from learner import LearnerStep
    >>> metrics = Metrics(Known.of(Settings(), ["dense"]))
    >>> metrics("dense", LearnerStep(count=1_500, events=500))
    >>> page = metrics.render()[0].decode()
    >>> [line.removeprefix(EVENTS.name) for line in page.splitlines() if EVENTS.name in line][-1]
    '{worker="dense"} 500.0'
    """

    def __init__(self, known: Known, clock: Callable[[], float] = time.time) -> None:
        self._known, self._clock = known, clock
        self._families = [f for f in FAMILIES if f.exported_by in (EVERY, *known.workers)]
        self._registry = Registry(self._families)
        self._lags = Lags(known.workers, clock)
        self._rebuilds = Rebuilds(self._registry, known.models, clock)
        self._begin()

    def _begin(self) -> None:
        """Let every counter start at 0, for all values that its labels can have."""
        models = [(model,) for model in self._known.models]
        values: dict[Family, Iterable[tuple[str, ...]]] = {
            EVENTS: [(worker,) for worker in self._known.workers],
            **{family: models for _, family in TOTALS},
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
        """Return how far a worker is behind, in events and in seconds.

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
