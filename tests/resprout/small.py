"""A run so small that it takes a second: all workers, a first mask and rebuilds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resprout.settings import Settings, load

SMALL: dict[str, Any] = {
    # Tests read whole logs.
    "stream.retention.clicks": "all",
    "stream.retention.predictions": "all",
    "stream.retention.truth": "all",
    "stream.generator.events": 16_000,
    "stream.generator.fields": 4,
    "stream.generator.items": 20,
    "stream.generator.numeric": 2,
    "stream.generator.active_pairs": 3,
    "stream.generator.active_numeric": 1,
    "stream.generator.block_events": 1_000,
    "stream.generator.drifts": [{"kind": "abrupt", "begin": 7_000}],
    "model.options": {"embedding_dim": 4, "bottom": [8], "top": [16]},
    # Rebuilds are what most tests are about; those of grafting ask for it.
    "pruner.regime": "d2s",
    "learner.checkpoint_events": 2_000,
    "learner.snapshot_events": 2_000,
    "pruner.first_mask_events": 4_000,
    "pruner.rebuild_events": 2_000,
    "pruner.prune_events": 1_000,
    "pruner.judge_events": 500,
    "pruner.lead_events": 1_000,
    "pruner.checkpoint_events": 1_000,
    # So few events hardly ever show which of two models is better.
    "pruner.inconclusive": "lower_mean",
    "trigger.name": "periodic",
    "trigger.every_events": 2_000,
    "trigger.window_events": 2_000,
    "trigger.cooldown_events": 0,
    "evaluator.windows": [1_000, 2_000],
    "evaluator.models": ["dense", "sparse", "never_rebuilt"],
    "evaluator.checkpoint_events": 2_000,
}


def small(**more: Any) -> Settings:
    """Return the settings, with more of them by dotted name, dots written as ``__``."""
    changed = {name.replace("__", "."): value for name, value in more.items()}
    return load(arguments=SMALL | changed).settings


def write_toml(path: Path, values: dict[str, Any]) -> Path:
    """Write settings as a TOML file: lists and scalars are written as in JSON."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{name}.{key} = {json.dumps(one)}" for key, one in value.items()]
        elif name != "stream.generator.drifts":
            lines.append(f"{name} = {json.dumps(value)}")
    path.write_text("\n".join(lines) + "\nstream.generator.drifts = []\n")
    return path
