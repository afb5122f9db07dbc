"""The name of every metric of Prometheus, what it says, and the values that its labels can have.

The evaluator's metrics bring their own; no other file of the code names one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from evaluator.metrics import Export, installed
from pruner import FIRST, REQUEST, TRIGGERS
from resprout.settings import EVALUATOR, PRUNER, WORKERS
from stream import Reason
from stream.messages import DetectorName, VerdictName

EVERY = "every worker"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, and what it says."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str
    exported_by: str = EVERY
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


def _family(export: Export) -> Family:
    """Describe a metric of the evaluator."""
    if export.is_total:
        return Family(export.name, "counter", ("model",), export.text, EVALUATOR)
    return Family(export.name, "gauge", ("model", "window"), export.text, EVALUATOR)


_EXPORTED = tuple((one, _family(one.export)) for one in installed() if one.export)
TOTALS = tuple(pair for pair in _EXPORTED if pair[1].kind == "counter")
"""The evaluator's metrics that are counted over all events scored."""
GAUGES = tuple(pair for pair in _EXPORTED if pair[1].kind == "gauge")
"""Those that are shown for the last full window of each size."""
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
    *(family for _, family in _EXPORTED),
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


def markdown() -> str:
    """Write the tables of ``docs/metrics.md``."""
    rows = ["| metric | type | labels | exported by | what it says |", "|---|---|---|---|---|"]
    for one in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.name}` | {one.kind} | {labels} | {one.exported_by} | {one.text} |")
    rows += ["", "| label | values |", "|---|---|"]
    rows += [f"| `{label}` | {values} |" for label, values in LABELS.items()]
    return "\n".join(rows)


def one_of(known: Sequence[str], value: str) -> str:
    """Keep to a fixed set of values.

    >>> one_of(REBUILD_REASONS, "periodic"), one_of(REBUILD_REASONS, "full moon")
    ('periodic', 'other')
    """
    return value if value in known else OTHER
