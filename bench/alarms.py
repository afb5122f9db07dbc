"""Drift alarms: how often they cry wolf, and how soon they tell of drift.

``python -m bench.alarms`` makes the default stream without drift and with each kind of drift, seeds
0 to 4, and lets the evaluator score it: a few minutes on two cores. Dense and sparse are made up
around the true probabilities, with errors in log odds of about the size and course of the real
models' (a learning curve, a transient behind the swap, a jump or a slope where the truth moves), so
that only the alarms are on trial. ``--with-models SEED`` runs the real models on the demo instead,
with drift and without, and prints their alarms. It writes ``bench/results/alarms.json``;
``--json`` prints the result as the last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.demo import RESULTS, Goal, machine
from evaluator import EvaluatorConfig, JoinedBatch, Predicted, Scoring
from evaluator.join import Join
from resprout.cli.commands import LAYER, changes
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import load
from resprout.spec import RunDefinition
from stream import topics
from stream.follow import read_all
from stream.log.local import LocalLogStore
from stream.messages import Alarm, parse
from stream.sources.generator import GeneratorSource
from stream.sources.truth import GeneratorConfig
from stream.spec import RunSpec

Floats = NDArray[np.float64]
SEEDS = range(5)
FIRST_MASK, SHIFT = 1_100_000, 1_300_000
QUIET_EVENTS, EVENTS = 3_000_000, 2_000_000
KINDS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "abrupt": {"kind": "abrupt", "begin": SHIFT},
    "gradual": {"kind": "gradual", "begin": SHIFT},
    "click-rate": {"kind": "click-rate", "begin": SHIFT},
    "churn": {"kind": "churn", "begin": SHIFT},
}
LISTENS = {
    "abrupt": ("dense_loss", "relative_loss"),
    "gradual": ("dense_loss", "relative_loss"),
    "click-rate": ("click_rate",),
    "churn": ("input",),
}
"""Which alarms each kind of drift should raise; others may."""
REACT_EVENTS = 500_000
WINDOW, BATCH = 10_000, 500


@dataclass(frozen=True, slots=True)
class Run:
    """The alarms on one stream."""

    kind: str
    seed: int
    events: int
    alarms: tuple[Alarm, ...]

    def first(self, detector: str) -> int | None:
        """Return the first alarm behind the shift."""
        counts = [one.count for one in self.alarms if one.detector == detector]
        return next((count for count in counts if count > SHIFT), None)


class Models:
    """Dense and sparse as they might predict, for one kind of drift."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind = kind
        self._rng = np.random.default_rng([seed, 1])

    def predict(self, batch: JoinedBatch) -> dict[str, Predicted]:
        """Predict a batch."""
        if batch.bayes is None:
            raise ValueError("the stream has no truth")
        true = np.log(batch.bayes / (1 - batch.bayes))
        dense = self._off(true, 0.25 + 0.7 * _fade(batch.begin, 150_000) + self._lost(batch.begin))
        found = {"dense": _chance(dense)}
        if batch.begin >= FIRST_MASK:
            since = batch.begin - FIRST_MASK
            gap = 0.1 + 0.15 * _fade(since, 50_000) + self._behind(batch.begin)
            found["sparse"] = _chance(self._off(dense, gap))
        return found

    def _lost(self, count: int) -> float:
        """Return what dense has lost by the drift and not learned again."""
        since = max(count - SHIFT, 0)
        if self._kind == "abrupt" and since:
            return 1.5 * _fade(since, 100_000)
        return 0.3 * (1 - _fade(since, 200_000)) if self._kind == "gradual" else 0.0

    def _behind(self, count: int) -> float:
        since = max(count - SHIFT, 0)
        if self._kind not in ("abrupt", "gradual"):
            return 0.0
        return 0.3 * min(since / (50_000 if self._kind == "abrupt" else 1_000_000), 1.0)

    def _off(self, log_odds: Floats, spread: float) -> Floats:
        return log_odds + spread * self._rng.standard_normal(len(log_odds))


def _fade(events: int, half_way: float) -> float:
    return float(np.exp(-events / half_way))


def _chance(log_odds: Floats) -> Predicted:
    return Predicted(1, 1 / (1 + np.exp(-log_odds)))


def batches(kind: str, seed: int, events: int) -> Iterator[JoinedBatch]:
    """Make a stream and join it to its truth."""
    config = GeneratorConfig(events=events, drifts=(KINDS[kind],))
    spec = RunSpec.small(schema=config.features, batch_events=BATCH, has_truth=True)
    with tempfile.TemporaryDirectory() as folder:
        home = LocalLogStore(Path(folder))
        feed = GeneratorSource(config, seed).attach(home)
        join = Join(home, spec)
        while feed.step() is not None:
            feed.flush()
            yield from iter(lambda: join.next(()), None)
        feed.close()
        join.close()


def made_up(kind: str, seed: int) -> Run:
    """Score a stream that models are made up for."""
    events = QUIET_EVENTS if kind == "none" else EVENTS
    config = EvaluatorConfig(windows=(WINDOW,))
    scoring = Scoring(config, RunSpec.small(schema=GeneratorConfig().features))
    models, alarms = Models(kind, seed), list[Alarm]()
    for batch in batches(kind, seed, events):
        _, messages = scoring.add(replace(batch, models=models.predict(batch)))
        alarms += [one for one in messages if isinstance(one, Alarm)]
    return Run(kind, seed, events, tuple(alarms))


def with_models(kind: str, seed: int) -> Run:
    """Run the demo."""
    asked = load(LAYER, arguments={"seed": seed}).settings
    if kind == "none":
        asked = load(LAYER, arguments={"seed": seed} | changes(asked, drift="none")).settings
    with tempfile.TemporaryDirectory() as state:
        execute(RunDefinition.generated(asked), Path(state))
        reader = RunFolder(Path(state)).home.reader(topics.WINDOWS)
        told = [parse(stored.record.value) for stored in read_all(reader)]
        reader.close()
    alarms = tuple(one for one in told if isinstance(one, Alarm))
    return Run(kind, seed, asked.stream.generator.events or 0, alarms)


def goals(runs: list[Run]) -> list[Goal]:
    """Hold the alarms to what is promised of them."""
    false = sum(len(run.alarms) for run in runs if run.kind == "none")
    found = [Goal("alarms in 5 runs of 3 M events without drift", false, "0", false == 0)]
    for kind, detectors in LISTENS.items():
        for detector in detectors:
            firsts = [run.first(detector) for run in runs if run.kind == kind]
            soon = sum(one is not None and one - SHIFT <= REACT_EVENTS for one in firsts)
            name = f"{kind}: {detector} within 500 k events, of {len(firsts)} runs"
            found.append(Goal(name, soon, ">= 4", soon >= 4))
    return found


def row(run: Run) -> dict[str, Any]:
    """Return the figures of one run: how many alarms, and how long behind the shift the first."""
    names = sorted({one.detector for one in run.alarms})
    waited = {name: first - SHIFT for name in names if (first := run.first(name)) is not None}
    counts = dict(Counter(one.detector for one in run.alarms))
    return {
        "drift": run.kind,
        "seed": run.seed,
        "events": run.events,
        "alarms": counts,
        "first_alarm_after_events": waited,
    }


def main() -> None:
    """Measure, and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with-models", type=int, metavar="SEED", help="the demo, real models")
    parser.add_argument("--json", action="store_true", help="the result as the last line")
    asked = parser.parse_args()
    if asked.with_models is not None:
        for kind in ("gradual", "none"):
            run = with_models(kind, asked.with_models)
            print(f"{kind}: {len(run.alarms)} alarms in {run.events:,} events", flush=True)
            for one in run.alarms:
                print(f"  {one.count:>9,} {one.detector}: {one.reason}", flush=True)
        return
    runs = []
    for kind in KINDS:
        for seed in SEEDS:
            runs.append(made_up(kind, seed))
            print(json.dumps(row(runs[-1])), flush=True)
    result = {
        "bench": "alarms",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": list(SEEDS),
        "rows": [row(run) for run in runs],
        "goals": [asdict(goal) for goal in goals(runs)],
    }
    (RESULTS / "alarms.json").write_text(json.dumps(result, indent=1) + "\n")
    for goal in goals(runs):
        met = "met    " if goal.met else "NOT MET"
        print(f"{met} {goal.name}: {goal.value:g} {goal.goal}")
    if asked.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
