"""What Prometheus sees: every metric, and how the workers' reports become its values.

Each process has metrics of its own, those of the workers that it runs. The evaluator's metrics
bring their own names; no other file of the code has one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from itertools import product
from typing import Literal, get_args

from prometheus_client import Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from evaluator import EvaluatorStep
from evaluator.metrics import Metric as ScoreMetric
from evaluator.metrics import ScoredEvents, installed
from pruner import FIRST, REQUEST, TRIGGERS, PruneStep
from resprout.monitoring.progress import Lags
from resprout.runner import Step, Worker
from resprout.settings import EVALUATOR, NEVER_REBUILT, PRUNER, SPARSE, WORKERS, Settings
from resprout.spec import decisive
from stream import Reason
from stream.messages import Decision, DetectorName, Layer, Verdict, VerdictName

EVERY = "every worker"


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric: its name, and what it says."""

    name: str
    labels: tuple[str, ...]
    text: str
    exported_by: str = EVERY
    """The worker whose process exports it."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        """The type, as Prometheus has it."""
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"


_Exported = list[tuple[ScoreMetric, Family]]
_OWN = (
    EVENTS := Family(
        "resprout_events_total",
        ("worker",),
        "Events that the worker has learned from; of the evaluator, those it has scored",
    ),
    STEP_DURATION := Family(
        "resprout_step_duration_seconds",
        ("worker",),
        "Time that one step took, of those that did not merely wait",
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    ),
    LAG_EVENTS := Family(
        "resprout_log_lag_events",
        ("worker",),
        "Events that are there for the worker and that it has not come through",
    ),
    LAG_SECONDS := Family(
        "resprout_log_lag_seconds",
        ("worker",),
        "Time since there were as many events as the worker has come through",
    ),
    LAST_PROGRESS := Family(
        "resprout_worker_last_progress_timestamp_seconds",
        ("worker",),
        "Unix time of the worker's last step that did not merely wait; at first, of its start",
    ),
    BUILD_INFO := Family(
        "resprout_build_info",
        ("version", "config"),
        "Always 1; which program runs, and a hash of the settings that the run depends on",
    ),
    OBSERVED_CLICKS := Family(
        "resprout_observed_clicks_total", (), "Clicks in the events scored, weighted", EVALUATOR
    ),
    DRIFT_ALARMS := Family(
        "resprout_drift_alarms_total", ("detector",), "Drift alarms raised", EVALUATOR
    ),
    DEAD_LETTERS := Family(
        "resprout_dead_letters_total",
        ("reason",),
        "Events that did not validate, each counted by the process that wrote its dead letter",
        EVALUATOR,
    ),
    GRAFTS := Family(
        "resprout_grafts_total",
        (),
        "Changes of the sparse model's mask that were no rebuild",
        EVALUATOR,
    ),
    REBUILDS := Family(
        "resprout_rebuilds_total", ("reason", "outcome"), "Rebuilds that have ended", PRUNER
    ),
    REBUILD_DURATION := Family(
        "resprout_rebuild_duration_seconds",
        (),
        "Time from the decision on a rebuild to its verdict, of those that no restart fell into",
        PRUNER,
        buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 10_800),
    ),
    REBUILD_LAST_SUCCESS := Family(
        "resprout_rebuild_last_success_timestamp_seconds",
        (),
        "Unix time of the last promotion of a candidate; not there before the process has seen one",
        PRUNER,
    ),
    LAYER_SPARSITY := Family(
        "resprout_layer_sparsity_ratio",
        ("model", "layer"),
        "Share of the layer's weights that the mask in force removes",
        PRUNER,
    ),
    LAYER_OVERLAP := Family(
        "resprout_layer_mask_overlap_ratio",
        ("layer",),
        "Share of the weights kept that the mask before kept too",
        PRUNER,
    ),
)
"""All of them."""

OTHER = "other"
"""Stands for a value that is none of a fixed set, so that no set ever grows."""
DETECTORS: tuple[str, ...] = get_args(DetectorName)
"""What drift alarms look at."""
REBUILD_REASONS = (FIRST, *TRIGGERS, REQUEST, OTHER)
DEAD_REASONS = (*(reason.value for reason in Reason), OTHER)
OUTCOMES: tuple[str, ...] = get_args(VerdictName)

LABELS = {
    "worker": f"{', '.join(f'`{one}`' for one in WORKERS)}, or the name of a comparison",
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


@cache
def _exported() -> tuple[_Exported, _Exported]:
    """Return the evaluator's metrics with their families.

    Those that are shown for the last full window of each size, and those counted over all events.
    """
    gauges: _Exported = []
    totals: _Exported = []
    for one in installed():
        if (export := one.export) is None:
            continue
        if export.is_total:
            name = f"{export.name.removesuffix('_total')}_total"
            totals.append((one, Family(name, ("model",), export.text, EVALUATOR)))
        else:
            gauges.append((one, Family(export.name, ("model", "window"), export.text, EVALUATOR)))
    return gauges, totals


@cache
def families() -> tuple[Family, ...]:
    """List every metric.

    Raises
    ------
    ValueError
        If a metric of another package cannot be loaded.
    """
    gauges, totals = _exported()
    at = _OWN.index(DRIFT_ALARMS)
    return (*_OWN[:at], *(family for _, family in (*gauges, *totals)), *_OWN[at:])


def markdown() -> str:
    """Write the tables of ``docs/metrics.md``."""
    rows = ["| metric | type | labels | exported by | what it says |", "|---|---|---|---|---|"]
    for one in families():
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.name}` | {one.kind} | {labels} | {one.exported_by} | {one.text} |")
    rows += ["", "| label | values |", "|---|---|"]
    rows += [f"| `{label}` | {values} |" for label, values in LABELS.items()]
    return "\n".join(rows)


def fingerprint(settings: Settings) -> str:
    """Return twelve digits that tell apart settings on which a run depends.

    >>> fingerprint(Settings()) == fingerprint(Settings(serve={"port": 8_000}))
    True
    """
    text = json.dumps(decisive(settings.model_dump(mode="json")), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Metrics(Collector):
    """The metrics of one process; called with every step of its workers, as an observer.

    Each value is changed by the thread of one worker, lags by whoever reads them.

    Parameters
    ----------
    settings
        Of the run; what is counted starts at 0 for each label value that they name.
    workers
        Those of this process.
    clock
        Unix time.

    Examples
    --------
    >>> from learner import LearnerStep
    >>> metrics = Metrics(Settings(), ["dense"])
    >>> metrics("dense", LearnerStep(count=1_500, events=500))
    >>> page = metrics.render()[0].decode()
    >>> [line.removeprefix(EVENTS.name) for line in page.splitlines() if EVENTS.name in line][-1]
    '{worker="dense"} 500.0'
    """

    def __init__(
        self, settings: Settings, workers: Sequence[str], clock: Callable[[], float] = time.time
    ) -> None:
        self.workers, self._clock = tuple(workers), clock
        self._models = settings.evaluator.models
        self._lags = Lags(workers, clock)
        self._decided: float | None = None
        """When the open rebuild was decided, if in this process."""
        self._layers: dict[int, Mapping[str, Layer]] = {}
        """Of the mask of each version."""
        self._values: dict[Family, defaultdict[tuple[str, ...], float]] = {}
        self._histograms: dict[Family, Histogram] = {}
        for family in families():
            if family.exported_by not in (EVERY, *workers):
                continue
            if family.kind == "histogram":
                self._histograms[family] = Histogram(
                    family.name, family.text, family.labels, buckets=family.buckets, registry=None
                )
                continue
            self._values[family] = defaultdict(float)
            if family.kind == "counter":
                values = {
                    "worker": self.workers,
                    "model": self._models,
                    "detector": DETECTORS,
                    "reason": DEAD_REASONS if family is DEAD_LETTERS else REBUILD_REASONS,
                    "outcome": OUTCOMES,
                }
                for labels in product(*(values[label] for label in family.labels)):
                    self._values[family][labels] = 0
        for worker in workers:
            self._histograms[STEP_DURATION].labels(worker)
            self._values[LAST_PROGRESS][worker,] = clock()
        self._values[BUILD_INFO][version("resprout"), fingerprint(settings)] = 1

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
        self._lags.follow(worker, ahead)

    def lag(self, worker: str) -> tuple[int, float] | None:
        """Return how far a worker is behind, in events and in seconds; None: not known."""
        return self._lags.of(worker)

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        if name not in self.workers:
            known = ", ".join(self.workers)
            raise ValueError(f"metrics know no worker {name!r}; they were made for: {known}")
        if step.waiting_for is None:
            self._values[LAST_PROGRESS][name,] = self._clock()
        self._lags.came(name, step.count)
        if isinstance(step, EvaluatorStep):
            self._take_scores(step)
        elif isinstance(step, PruneStep):
            self._take_rebuild(step)
        self._values[EVENTS][name,] += step.events

    def _take_scores(self, step: EvaluatorStep) -> None:
        gauges, totals = _exported()
        if step.sums is not None:
            self._values[OBSERVED_CLICKS][()] += step.sums.on.clicks
            for model, sums in step.sums.models.items():
                for metric, family in totals:
                    total = metric.value(ScoredEvents(step.sums.on, sums.terms))
                    self._values[family][model,] += total if isinstance(total, float) else 0
        for window in step.windows:
            models = () if window.partial else window.models
            for model, (metric, family) in product(models, gauges):
                self._show(family, (model, str(window.size)), window.metric(model, metric.name))
        for alarm in step.alarms:
            self._values[DRIFT_ALARMS][alarm.detector,] += 1
        self._values[GRAFTS][()] += sum(one.model == SPARSE for one in step.mask_changes)
        for letter in step.dead_letters:
            reason = letter.reason if letter.reason in DEAD_REASONS else OTHER
            self._values[DEAD_LETTERS][reason,] += 1

    def _take_rebuild(self, step: PruneStep) -> None:
        if step.decided is not None:
            self.remember([step.decided])
            self._decided = self._clock() if step.decided.rebuild else self._decided
        if step.verdict is not None:
            self.remember([step.verdict])
            asked = step.verdict.rebuild.reason
            reason = asked if asked in REBUILD_REASONS else OTHER
            self._values[REBUILDS][reason, step.verdict.verdict] += 1
            if self._decided is not None:
                self._histograms[REBUILD_DURATION].observe(self._clock() - self._decided)
                self._decided = None
            if step.verdict.verdict == "promoted":
                self._values[REBUILD_LAST_SUCCESS][()] = self._clock()

    def remember(self, ledger: Iterable[Decision | Verdict]) -> None:
        """Show the masks that a part of the ledger puts in force; nothing of it is counted.

        Of a run that is under way it is what the ledger holds so far, oldest first.
        """
        for message in ledger:
            if isinstance(message, Verdict) and message.version is not None:
                self._show_mask(message.version, message.layers)
                if message.rebuild.reason == FIRST and NEVER_REBUILT in self._models:
                    for name, layer in message.layers.items():
                        self._values[LAYER_SPARSITY][NEVER_REBUILT, name] = layer.sparsity
            elif isinstance(message, Decision) and message.rollback is not None:
                # What it has in common with the mask that it takes over from, nobody has counted.
                old = self._layers.get(message.rollback.to_version, {})
                layers = {n: one.model_copy(update={"overlap": None}) for n, one in old.items()}
                self._show_mask(message.rollback.version, layers)

    def _show_mask(self, version: int, layers: Mapping[str, Layer]) -> None:
        """Show the mask of a version of the sparse model, which is now in force."""
        self._layers[version] = layers
        for name, layer in layers.items():
            self._values[LAYER_SPARSITY][SPARSE, name] = layer.sparsity
            self._show(LAYER_OVERLAP, (name,), layer.overlap)

    def _show(self, family: Family, labels: tuple[str, ...], value: float | None) -> None:
        """Set a gauge, or take it away where there is no value."""
        if value is None:
            self._values[family].pop(labels, None)
        else:
            self._values[family][labels] = value

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics as the client library has them.

        A gauge without a value is not exported, and neither are the times at which histograms
        were made: nobody asks for them.
        """
        for histogram in self._histograms.values():
            for metric in histogram.collect():
                metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
                yield metric
        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for family, values in self._values.items():
            if values or family.labels:
                found = kinds[family.kind](family.name, family.text, labels=family.labels)
                for labels, value in values.copy().items():
                    found.add_metric(labels, value)
                yield found

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write all values down, and name the format.

        Parameters
        ----------
        accept
            The formats that the reader takes, as HTTP says it.
        """
        for worker in self.workers:
            lag = self._lags.of(worker)
            if lag is not None:
                self._values[LAG_EVENTS][worker,], self._values[LAG_SECONDS][worker,] = lag
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type
