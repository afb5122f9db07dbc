"""Makes Grafana's dashboard: ``python docker/dashboard.py`` writes it beside this file.

Our own page has the stream's events on its axis; this one has the wall clock, for whoever operates
the workers. Needs nothing but Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "grafana" / "dashboards" / "resprout.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH = 24
"""Columns of Grafana's grid."""

BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#8A8F98"
COLOURS = {"dense": BLUE, "sparse": VERMILLION, "never_rebuilt": GREY}
"""Everything else differs by its label: no other series has a colour of its own."""

WINDOW = 'window="$window"'
SPAN = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    """One query and how its series are called."""

    expr: str
    legend: str = ""
    instant: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel; where it stands follows from those before it."""

    title: str
    kind: str
    queries: tuple[Query, ...]
    text: str
    unit: str = "short"
    width: int = 12
    height: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    custom: dict[str, Any] = field(default_factory=dict)
    """How lines are drawn."""
    defaults: dict[str, Any] = field(default_factory=dict)


def relative(model: str) -> str:
    """Return the relative cross entropy of the models that a matcher picks."""
    return (
        f"resprout_cross_entropy_nats{{model{model}, {WINDOW}}} / on (window) group_left () "
        f'resprout_cross_entropy_nats{{model="dense", {WINDOW}}} - 1'
    )


def stat(title: str, expr: str, unit: str, text: str, **defaults: Any) -> Panel:
    """Return a panel with one number."""
    options = {
        "colorMode": "none",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    query = Query(expr)
    return Panel(title, "stat", (query,), text, unit, 4, 4, options, defaults=defaults)


def lines(title: str, queries: Sequence[Query], unit: str, text: str, **rest: Any) -> Panel:
    """Return a panel of lines over time, with gaps where nothing is known."""
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    custom = {"drawStyle": "line", "fillOpacity": 0, "lineWidth": 1, "spanNulls": False}
    rest = {"options": options, "custom": custom | rest.pop("custom", {}), **rest}
    return Panel(title, "timeseries", tuple(queries), text, unit, **rest)


def map_of_layers(title: str, expr: str, legend: str, text: str) -> Panel:
    """Return a row per layer, coloured in one hue by a ratio."""
    defaults = {"color": {"mode": "continuous-blues"}, "min": 0, "max": 1, "decimals": 2}
    options = {"showValue": "auto", "rowHeight": 0.9, "legend": {"showLegend": False}}
    query = Query(expr, legend)
    return Panel(
        title, "status-history", (query,), text, "percentunit", options=options, defaults=defaults
    )


PANELS = (
    stat(
        "Sparse against dense",
        relative('="sparse"'),
        "percentunit",
        "Relative cross entropy on the last full window; below 0 the sparse model is better.",
        decimals=2,
    ),
    stat(
        "NE sparse",
        f'resprout_normalized_entropy_ratio{{model="sparse", {WINDOW}}}',
        "none",
        "1 is no better than predicting the click rate.",
        decimals=4,
    ),
    stat(
        "Events/s scored",
        f'sum(rate(resprout_events_total{{worker="evaluator"}}{SPAN}))',
        "short",
        "What has been predicted by every model, and scored.",
        decimals=0,
    ),
    stat(
        "Largest lag",
        "max(resprout_log_lag_seconds)",
        "s",
        "Of the worker furthest behind.",
    ),
    stat(
        "Last promotion",
        "time() - max(resprout_rebuild_last_success_timestamp_seconds)",
        "s",
        "Since a candidate last took over.",
    ),
    stat(
        "Dead letters, last hour",
        "sum(increase(resprout_dead_letters_total[1h]))",
        "short",
        "Events that did not validate.",
        decimals=0,
    ),
    lines(
        "Relative cross entropy to dense",
        [Query(relative('!="dense"'), "{{model}}")],
        "percentunit",
        "The panel to look at: the stream's difficulty moves all models, this is what is left.",
        width=24,
        height=10,
        custom={"axisCenteredZero": True},
        defaults={"decimals": 2},
    ),
    lines(
        "Normalized entropy",
        [Query(f"resprout_normalized_entropy_ratio{{{WINDOW}}}", "{{model}}")],
        "none",
        "1 is no better than predicting the click rate.",
        defaults={"decimals": 3},
    ),
    lines(
        "Cross entropy",
        [Query(f"resprout_cross_entropy_nats{{{WINDOW}}}", "{{model}}")],
        "none",
        "Nats per event.",
        defaults={"decimals": 4},
    ),
    lines(
        "Calibration",
        [
            Query(
                f"rate(resprout_predicted_clicks_total{SPAN}) / on () group_left () "
                f"rate(resprout_observed_clicks_total{SPAN})",
                "{{model}}",
            )
        ],
        "none",
        "Predicted over observed clicks; above 1 the model promises too many.",
        defaults={"decimals": 3},
    ),
    lines(
        "Click rate, observed",
        [
            Query(
                f"rate(resprout_observed_clicks_total{SPAN}) / on () "
                f'rate(resprout_events_total{{worker="evaluator"}}{SPAN})',
                "clicks per event",
            )
        ],
        "percentunit",
        "Tells a drift of the base rate from a model that fails. Clicks are weighted, events not.",
    ),
    map_of_layers(
        "Sparsity per layer",
        'resprout_layer_sparsity_ratio{model="sparse"}',
        "{{layer}}",
        "Share of each layer's weights that the mask in force removes.",
    ),
    map_of_layers(
        "Mask overlap per layer",
        "resprout_layer_mask_overlap_ratio",
        "{{layer}}",
        "Share of the weights kept that the mask before kept too.",
    ),
    lines(
        "Events/s",
        [Query(f"sum by (worker) (rate(resprout_events_total{SPAN}))", "{{worker}}")],
        "short",
        "Throughput of each worker.",
        width=8,
    ),
    lines(
        "Lag in events",
        [Query("resprout_log_lag_events", "{{worker}}")],
        "short",
        "Events that are there and that the worker has not come through.",
        width=8,
    ),
    lines(
        "Lag in seconds",
        [Query("resprout_log_lag_seconds", "{{worker}}")],
        "s",
        "For how long those events have been there.",
        width=8,
    ),
    lines(
        "Step duration, 9 of 10 are shorter",
        [
            Query(
                "histogram_quantile(0.9, sum by (worker, le) "
                f"(rate(resprout_step_duration_seconds_bucket{SPAN})))",
                "{{worker}}",
            )
        ],
        "s",
        "One batch, or less.",
        width=8,
    ),
    lines(
        "Since the last progress",
        [Query("time() - resprout_worker_last_progress_timestamp_seconds", "{{worker}}")],
        "s",
        "A worker that waits makes none; the pruner decides once a window.",
        width=8,
    ),
    lines(
        "Rebuild duration",
        [
            Query(
                "sum(rate(resprout_rebuild_duration_seconds_sum[1h])) / "
                "sum(rate(resprout_rebuild_duration_seconds_count[1h]))",
                "mean of the last hour",
            )
        ],
        "s",
        "From the decision to the verdict.",
        width=8,
    ),
    lines(
        "Rebuilds that ended",
        [
            Query(
                "sum by (reason, outcome) (increase(resprout_rebuilds_total[5m])) > 0",
                "{{outcome}}: {{reason}}",
            ),
            Query("sum(increase(resprout_grafts_total[5m])) > 0", "grafts"),
        ],
        "short",
        "In 5 minutes, by outcome and reason; and grafts, which move the mask without one.",
        width=8,
        custom={"drawStyle": "points", "pointSize": 8},
    ),
    lines(
        "Drift alarms",
        [Query("sum by (detector) (increase(resprout_drift_alarms_total[5m]))", "{{detector}}")],
        "short",
        "In 5 minutes, by what the detector listens to.",
        width=8,
    ),
    lines(
        "Dead letters",
        [Query("sum by (reason) (increase(resprout_dead_letters_total[5m])) > 0", "{{reason}}")],
        "short",
        "In 5 minutes, by reason.",
        width=8,
        custom={"drawStyle": "points", "pointSize": 8},
    ),
    Panel(
        "Which program, which settings",
        "table",
        (Query("count by (version, config, job) (resprout_build_info)", instant=True),),
        "All processes of one run should stand in one line of each job.",
        width=24,
        height=4,
    ),
)

ANNOTATIONS = (
    ("Rebuilds promoted", VERMILLION, 'increase(resprout_rebuilds_total{outcome="promoted"}[30s])'),
    ("Rebuilds not promoted", GREY, 'increase(resprout_rebuilds_total{outcome!="promoted"}[30s])'),
    ("Drift alarms", BLUE, "increase(resprout_drift_alarms_total[30s])"),
)


def annotation(name: str, colour: str, expr: str) -> dict[str, Any]:
    """Return marks over all panels, wherever a counter rises."""
    return {
        "datasource": SOURCE,
        "enable": True,
        "expr": f"{expr} > 0",
        "iconColor": colour,
        "name": name,
        "step": "10s",
        "tagKeys": "reason,outcome,detector",
        "textFormat": "{{reason}} {{detector}}",
        "titleFormat": name,
    }


def panel(number: int, one: Panel, x: int, y: int) -> dict[str, Any]:
    """Return a panel as Grafana wants it."""
    targets = [
        {
            "datasource": SOURCE,
            "expr": query.expr,
            "format": "table" if query.instant else "time_series",
            "instant": query.instant,
            "legendFormat": query.legend,
            "range": not query.instant,
            "refId": chr(ord("A") + index),
        }
        for index, query in enumerate(one.queries)
    ]
    overrides = [override(model, colour) for model, colour in COLOURS.items()]
    return {
        "datasource": SOURCE,
        "description": one.text,
        "fieldConfig": {
            "defaults": {"unit": one.unit, "custom": one.custom, **one.defaults},
            "overrides": overrides if one.kind == "timeseries" else [],
        },
        "gridPos": {"h": one.height, "w": one.width, "x": x, "y": y},
        "id": number,
        "options": one.options,
        "targets": targets,
        "title": one.title,
        "type": one.kind,
    }


def override(model: str, colour: str) -> dict[str, Any]:
    """Give a model its colour, and the one that is never rebuilt its dashes."""
    properties: list[dict[str, Any]] = [
        {"id": "color", "value": {"fixedColor": colour, "mode": "fixed"}}
    ]
    if model == "never_rebuilt":
        dashes = {"dash": [6, 6], "fill": "dash"}
        properties.append({"id": "custom.lineStyle", "value": dashes})
    return {"matcher": {"id": "byName", "options": model}, "properties": properties}


def laid_out(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Put panels into rows, from left to right and from top to bottom."""
    made: list[dict[str, Any]] = []
    x = y = tallest = 0
    for number, one in enumerate(panels, start=1):
        if x + one.width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        made.append(panel(number, one, x, y))
        x, tallest = x + one.width, max(tallest, one.height)
    return made


def window_variable() -> dict[str, Any]:
    """Return the choice of the window's size, over those that there are."""
    query = "label_values(resprout_cross_entropy_nats, window)"
    return {
        "current": {"selected": True, "text": "100000", "value": "100000"},
        "datasource": SOURCE,
        "definition": query,
        "label": "window (events)",
        "name": "window",
        "query": {"query": query, "refId": "window"},
        "refresh": 2,
        "sort": 3,
        "type": "query",
    }


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard."""
    return {
        "annotations": {"list": [annotation(*one) for one in ANNOTATIONS]},
        "description": "Dense, sparse and never-rebuilt models on one stream, by the wall clock.",
        "editable": True,
        "graphTooltip": 1,
        "panels": laid_out(PANELS),
        "refresh": "5s",
        "schemaVersion": 39,
        "tags": ["resprout"],
        "templating": {"list": [window_variable()]},
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "title": "Resprout",
        "uid": "resprout",
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), "utf-8")
