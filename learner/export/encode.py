"""Turn events into what score.py takes. Needs numpy and xxhash, and nothing of Resprout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

CONFIG = Path(__file__).with_name("config.json")


@cache
def features() -> dict[str, list[dict[str, Any]]]:
    """Return the schema of the model."""
    found: dict[str, list[dict[str, Any]]] = json.loads(CONFIG.read_text("utf-8"))["schema"]
    return found


def bucket(feature: dict[str, Any], value: object) -> int:
    """Return the bucket of a value of a categorical feature; 1 where it is missing."""
    if value is None:
        return 1
    buckets: int = feature["buckets"]
    return 2 + xxhash.xxh3_64_intdigest(f"{feature['name']}={value}".encode()) % (buckets - 2)


def encode(events: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Encode n events: (n, d) float32 and (n, c) int32.

    An event has ``numeric`` and ``categorical``, values by feature; what is absent or null is
    missing. Raises ``ValueError`` for an event that the learner would not have taken.
    """
    schema = features()
    known = {kind: {one["name"] for one in schema[kind]} for kind in ("numeric", "categorical")}
    for row, event in enumerate(events):
        for kind, names in known.items():
            if unknown := sorted(set(event.get(kind) or {}) - names):
                raise ValueError(f"event {row}: the model has no {kind} feature {unknown[0]!r}")
    return _numeric(events, schema["numeric"]), _categorical(events, schema["categorical"])


def _numeric(events: list[dict[str, Any]], schema: list[dict[str, Any]]) -> Any:
    """Standardise each feature; one that is missing is 0."""
    found = np.zeros((len(events), len(schema)), np.float32)
    for column, feature in enumerate(schema):
        given = [event.get("numeric", {}).get(feature["name"]) for event in events]
        values = np.array(given, np.float64)
        with np.errstate(all="ignore"):
            if feature["log1p"] == "signed":
                changed = np.sign(values) * np.log1p(np.abs(values))
            else:
                changed = np.log1p(values) if feature["log1p"] else values
            scaled = ((changed - feature["mean"]) / feature["scale"]).astype(np.float32)
        there = np.array([one is not None for one in given], bool)
        if not np.isfinite(scaled[there]).all():
            raise ValueError(f"a value of {feature['name']!r} is not finite once standardised")
        if (np.abs(scaled[there]) > feature["limit"]).any():
            raise ValueError(
                f"a value of {feature['name']!r} is above {feature['limit']:g} in size"
            )
        found[there, column] = scaled[there]
    return found


def _categorical(events: list[dict[str, Any]], schema: list[dict[str, Any]]) -> Any:
    """Hash each feature into its columns; those that an event leaves unused are 0."""
    found = np.zeros((len(events), sum(one["max_values"] for one in schema)), np.int32)
    start = 0
    for feature in schema:
        width = feature["max_values"]
        for row, event in enumerate(events):
            value = event.get("categorical", {}).get(feature["name"])
            values = (value or [None]) if isinstance(value, list) else [value]
            if len(values) > width:
                raise ValueError(f"event {row}: {feature['name']!r} has more than {width} values")
            found[row, start : start + len(values)] = [bucket(feature, one) for one in values]
        start += width
    return found
