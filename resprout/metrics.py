"""What Prometheus sees: the name of every metric, and how the workers' reports become its values.

No other file of the code names a metric. Each process has a registry of its own, with the metrics
of the workers that it runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from typing import Literal, Self, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from evaluator.worker import EvaluatorStep
from pruner.ledger import FIRST, REQUEST
from pruner.trigger import TRIGGERS
from pruner.worker import PruneStep
from resprout.lag import Behind
from resprout.plan import decisive
from resprout.runner import Step, Worker
from resprout.settings import EVALUATOR, NEVER_REBUILT, PRUNER, SPARSE, WORKERS, Settings
from stream.events import Reason
from stream.messages import Decision, DetectorName, Layer, Verdict, VerdictName, Window

EVERY = "every worker"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, and what it says."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str
    told_by: str = EVERY
    """The worker whose process exports it."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""


EVENTS = Family(
    "resprout_events_total",
    "counter",
    ("worker",),
    "Events that the worker has learned from; of the evaluator, those it has scored",
)
STEP_DURATION = Family(
    "resprout_step_duration_seconds",
    "histogram",
    ("worker",),
    "Time that one step took, of those that did not merely wait",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LAG_EVENTS = Family(
    "resprout_log_lag_events",
    "gauge",
    ("worker",),
    "Events that are there for the worker and that it has not come through",
)
LAG_SECONDS = Family(
    "resprout_log_lag_seconds",
    "gauge",
    ("worker",),
    "Time since there were as many events as the worker has come through",
)
LAST_PROGRESS = Family(
    "resprout_worker_last_progress_timestamp_seconds",
    "gauge",
    ("worker",),
    "Unix time of the worker's last step that did not merely wait; at first, of its start",
)
BUILD_INFO = Family(
    "resprout_build_info",
    "gauge",
    ("version", "config"),
    "Always 1; which program runs, and a hash of the settings that the run depends on",
)
OBSERVED_CLICKS = Family(
    "resprout_observed_clicks_total",
    "counter",
    (),
    "Clicks in the events scored, weighted",
    EVALUATOR,
)
PREDICTED_CLICKS = Family(
    "resprout_predicted_clicks_total",
    "counter",
    ("model",),
    "Clicks that the model expected in the events it was scored on, weighted",
    EVALUATOR,
)
NORMALIZED_ENTROPY = Family(
    "resprout_normalized_entropy_ratio",
    "gauge",
    ("model", "window"),
    "Cross entropy over the entropy of the click rate, on the last full window",
    EVALUATOR,
)
CROSS_ENTROPY = Family(
    "resprout_cross_entropy_nats",
    "gauge",
    ("model", "window"),
    "Cross entropy per event, on the last full window",
    EVALUATOR,
)
DRIFT_ALARMS = Family(
    "resprout_drift_alarms_total", "counter", ("detector",), "Drift alarms raised", EVALUATOR
)
DEAD_LETTERS = Family(
    "resprout_dead_letters_total",
    "counter",
    ("reason",),
    "Events that did not validate, each counted by the process that wrote its dead letter",
    EVALUATOR,
)
REBUILDS = Family(
    "resprout_rebuilds_total", "counter", ("reason", "outcome"), "Rebuilds that have ended", PRUNER
)
REBUILD_DURATION = Family(
    "resprout_rebuild_duration_seconds",
    "histogram",
    (),
    "Time from the decision on a rebuild to its verdict, of those that no restart fell into",
    PRUNER,
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 10_800),
)
REBUILD_LAST_SUCCESS = Family(
    "resprout_rebuild_last_success_timestamp_seconds",
    "gauge",
    (),
    "Unix time of the last promotion of a candidate; not there before the process has seen one",
    PRUNER,
)
LAYER_SPARSITY = Family(
    "resprout_layer_sparsity_ratio",
    "gauge",
    ("model", "layer"),
    "Share of the layer's weights that the mask in force removes",
    PRUNER,
)
LAYER_OVERLAP = Family(
    "resprout_layer_mask_overlap_ratio",
    "gauge",
    ("layer",),
    "Share of the weights kept that the mask before kept too",
    PRUNER,
)

FAMILIES = (
    EVENTS,
    STEP_DURATION,
    LAG_EVENTS,
    LAG_SECONDS,
    LAST_PROGRESS,
    BUILD_INFO,
    OBSERVED_CLICKS,
    PREDICTED_CLICKS,
    NORMALIZED_ENTROPY,
    CROSS_ENTROPY,
    DRIFT_ALARMS,
    DEAD_LETTERS,
    REBUILDS,
    REBUILD_DURATION,
    REBUILD_LAST_SUCCESS,
    LAYER_SPARSITY,
    LAYER_OVERLAP,
)
"""All of them."""

OTHER = "other"
"""Stands for a value that is none of a fixed set, so that no set ever grows."""
DETECTORS: tuple[str, ...] = get_args(DetectorName)
"""What drift alarms listen to."""
REBUILD_REASONS = (FIRST, *TRIGGERS, REQUEST, OTHER)
DEAD_REASONS = (*(reason.value for reason in Reason), OTHER)
OUTCOMES: tuple[str, ...] = get_args(VerdictName)

LABELS = {
    "worker": ", ".join(f"`{one}`" for one in WORKERS),
    "model": "those of `evaluator.models`",
    "window": "events a window: those of `evaluator.windows`",
    "layer": "the model's prunable layers, by name",
    "detector": ", ".join(f"`{one}`" for one in DETECTORS),
    "reason": f"of a rebuild {', '.join(f'`{one}`' for one in REBUILD_REASONS)}; "
    f"of a dead letter {', '.join(f'`{one}`' for one in DEAD_REASONS)}",
    "outcome": ", ".join(f"`{one}`" for one in OUTCOMES),
    "version": "of the program",
    "config": "the first twelve digits of a SHA-256",
}
"""Every label, and the values that it can have."""


def markdown() -> str:
    """Write the tables of ``docs/metrics.md``."""
    rows = ["| metric | type | labels | exported by | what it says |", "|---|---|---|---|---|"]
    for one in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.name}` | {one.kind} | {labels} | {one.told_by} | {one.text} |")
    rows += ["", "| label | values |", "|---|---|"]
    rows += [f"| `{label}` | {values} |" for label, values in LABELS.items()]
    return "\n".join(rows)


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


LOOK_SECONDS = 5.0
"""Pause between two looks for how many events there are."""


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
    >>> [line for line in page.splitlines() if line.startswith(EVENTS.name)]
    ['resprout_events_total{worker="dense"} 500.0']
    """

    def __init__(self, known: Known, clock: Callable[[], float] = time.time) -> None:
        self._known, self._clock = known, clock
        self._counts: dict[str, int | None] = dict.fromkeys(known.workers)
        self._behind = {worker: Behind() for worker in known.workers}
        self._ahead: dict[str, Callable[[], int | None]] = {}
        self._looked = dict.fromkeys(known.workers, -math.inf)
        self._looking = threading.Lock()
        self._decided: float | None = None
        self._layers: dict[int, dict[str, Layer]] = {}
        self._registry = CollectorRegistry()
        families = [f for f in FAMILIES if f.told_by in (EVERY, *known.workers)]
        self._counters = {
            f: Counter(f.name, f.text, f.labels, registry=self._registry)
            for f in families
            if f.kind == "counter"
        }
        self._gauges = {
            f: Gauge(f.name, f.text, f.labels, registry=self._registry)
            for f in families
            if f.kind == "gauge" and f != REBUILD_LAST_SUCCESS
        }
        self._histograms = {
            f: Histogram(f.name, f.text, f.labels, buckets=f.buckets, registry=self._registry)
            for f in families
            if f.kind == "histogram"
        }
        self._begin()

    def _begin(self) -> None:
        """Let every counter start at 0, for all values that its labels can have."""
        workers = [(worker,) for worker in self._known.workers]
        values: dict[Family, Iterable[tuple[str, ...]]] = {
            EVENTS: workers,
            PREDICTED_CLICKS: [(model,) for model in self._known.models],
            DRIFT_ALARMS: [(detector,) for detector in DETECTORS],
            DEAD_LETTERS: [(reason,) for reason in DEAD_REASONS],
            REBUILDS: product(REBUILD_REASONS, OUTCOMES),
        }
        for family, counter in self._counters.items():
            for labels in values.get(family, ()):
                counter.labels(*labels)
        for worker in self._known.workers:
            self._histograms[STEP_DURATION].labels(worker)
            self._gauges[LAST_PROGRESS].labels(worker).set(self._clock())
        self._gauges[BUILD_INFO].labels(version("resprout"), self._known.config).set(1)

    def timed(self, worker: Worker, timer: Callable[[], float] = time.perf_counter) -> Worker:
        """Return the same worker, with its steps timed."""
        durations = self._histograms[STEP_DURATION].labels(worker.name)

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
        self._ahead[worker] = ahead

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        if name not in self._counts:
            known = ", ".join(self._known.workers)
            raise ValueError(f"metrics know no worker {name!r}; they were made for: {known}")
        now = self._clock()
        self._counts[name] = step.count
        if step.waiting_for is None:
            self._gauges[LAST_PROGRESS].labels(name).set(now)
        if name in self._ahead and now >= self._looked[name] + LOOK_SECONDS:
            self._looked[name] = now
            self._look(name, self._ahead[name]())
        events = step.events
        if isinstance(step, EvaluatorStep):
            events = step.sums.on.events if step.sums else 0
            self._scored(step)
        elif isinstance(step, PruneStep):
            self._pruned(step)
        self._counters[EVENTS].labels(name).inc(events)

    def lag(self, worker: str) -> tuple[int, float] | None:
        """Tell how far a worker is behind, in events and in seconds.

        None where that is not known, and before it has begun.
        """
        count = self._counts.get(worker)
        if not count:
            return None
        self._compare(worker)
        with self._looking:
            behind = self._behind[worker]
            if behind.there is None:
                return None
            return max(behind.there - count, 0), behind.seconds(count, self._clock())

    def remember(self, ledger: Iterable[Decision | Verdict]) -> None:
        """Show the masks in force of a run that goes on; what came before is not counted again.

        Parameters
        ----------
        ledger
            What it holds so far, oldest first.
        """
        for message in ledger:
            self._show(message)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write all values down, and name the format.

        Parameters
        ----------
        accept
            The formats that the reader takes, as HTTP says it.
        """
        counts = {name: count for name, count in self._counts.items() if count is not None}
        for name in counts:
            self._compare(name)
        with self._looking:
            for name, count in counts.items():
                self._measure(name, count)
        encode, content_type = choose_encoder(accept)
        return encode(_Collected(self._registry)), content_type

    def _compare(self, worker: str) -> None:
        """Look how far the others of this process have come, where nobody else says it."""
        if worker not in self._ahead and len(self._counts) > 1:
            self._look(worker, max(count or 0 for count in self._counts.values()))

    def _look(self, worker: str, there: int | None) -> None:
        if there is not None:
            with self._looking:
                self._behind[worker].look(there, self._clock())

    def _measure(self, worker: str, count: int) -> None:
        """Say how far a worker is behind, if that is known."""
        behind = self._behind[worker]
        if behind.there is not None:
            self._gauges[LAG_EVENTS].labels(worker).set(max(behind.there - count, 0))
            self._gauges[LAG_SECONDS].labels(worker).set(behind.seconds(count, self._clock()))

    def _scored(self, step: EvaluatorStep) -> None:
        if step.sums is not None:
            self._counters[OBSERVED_CLICKS].inc(step.sums.on.clicks)
            for model, sums in step.sums.models.items():
                self._counters[PREDICTED_CLICKS].labels(model).inc(sums.predicted)
        for window in step.windows:
            if not window.partial:
                self._closed(window)
        for alarm in step.alarms:
            self._counters[DRIFT_ALARMS].labels(alarm.detector).inc()
        for letter in step.dead_letters:
            self._counters[DEAD_LETTERS].labels(_one_of(DEAD_REASONS, letter.reason)).inc()

    def _closed(self, window: Window) -> None:
        """Show the last window of a size; what it does not know is not exported."""
        for model, score in window.models.items():
            labels = (model, str(window.size))
            _set(self._gauges[CROSS_ENTROPY], labels, score.ce if score else None)
            _set(self._gauges[NORMALIZED_ENTROPY], labels, score.ne if score else None)

    def _pruned(self, step: PruneStep) -> None:
        if step.decided is not None:
            self._show(step.decided)
            self._decided = self._clock() if step.decided.rebuild else self._decided
        if step.verdict is not None:
            self._show(step.verdict)
            self._ended(step.verdict)

    def _ended(self, verdict: Verdict) -> None:
        reason = _one_of(REBUILD_REASONS, verdict.rebuild.reason)
        self._counters[REBUILDS].labels(reason, verdict.verdict).inc()
        if self._decided is not None:
            self._histograms[REBUILD_DURATION].observe(self._clock() - self._decided)
            self._decided = None
        if verdict.verdict == "promoted":
            self._succeeded()

    def _succeeded(self) -> None:
        """Note the time of a promotion; a metric without labels would be 0 before the first."""
        if REBUILD_LAST_SUCCESS not in self._gauges:
            family = REBUILD_LAST_SUCCESS
            self._gauges[family] = Gauge(family.name, family.text, registry=self._registry)
        self._gauges[REBUILD_LAST_SUCCESS].set(self._clock())

    def _show(self, message: Decision | Verdict) -> None:
        """Show the mask of the version that a promotion or a rollback puts in force, if it does."""
        if isinstance(message, Verdict) and message.version is not None:
            self._layers[message.version] = message.layers
            self._show_mask(SPARSE, message.layers)
            if message.rebuild.reason == FIRST and NEVER_REBUILT in self._known.models:
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
            self._gauges[LAYER_SPARSITY].labels(model, name).set(layer.sparsity)
            if model == SPARSE:
                _set(self._gauges[LAYER_OVERLAP], (name,), layer.overlap)


def _one_of(known: Sequence[str], value: str) -> str:
    """Keep to a fixed set of values.

    >>> _one_of(REBUILD_REASONS, "periodic"), _one_of(REBUILD_REASONS, "full moon")
    ('periodic', 'other')
    """
    return value if value in known else OTHER


def _set(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    """Set a gauge, or take it away where there is no value."""
    if value is None:
        # Old versions of the client object where there was no value before either.
        with suppress(KeyError):
            gauge.remove(*labels)
    else:
        gauge.labels(*labels).set(value)


class _Collected(Collector):
    """A registry without the times at which its counters were made: nobody asks for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric
