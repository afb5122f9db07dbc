"""What is following the dense model worth? The default demo with drift and without.

``python -m bench.demo`` runs seeds 0 to 4 of the default demo and the same without drift; about 25
minutes on two cores. What is done is kept in ``runs/bench``, so it goes on where it was stopped. It
writes README's table (``bench/results/demo.md``), every run's figures (``demo.json``) and the plot
of seed 0. ``--regime d2s`` prunes by rebuilds alone, as Ye et al. 2020 do, and ``--held-out`` takes
seeds 100 to 104, which nothing was tuned on: the names of what they write say so. ``--json`` prints
the result as the last line. When the trigger acts is measured by ``bench.triggers``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy import stats

from evaluator.run import RunHistory
from evaluator.run.plot import save
from resprout.cli.commands import LAYER, changes
from resprout.folder import RunFolder
from resprout.run import ModelSummary, Summary, execute
from resprout.settings import Settings, load
from resprout.spec import RunDefinition

RUNS = Path("runs/bench/demo")
RESULTS = Path(__file__).parent / "results"
SEEDS, HELD_OUT_SEEDS = range(5), range(100, 105)
PARTS = ("drift", "none")
"""The demo with drift and without."""
Regime = Literal["graft", "d2s"]


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the bench."""

    part: str
    """One of :data:`PARTS`."""
    seed: int
    regime: Regime

    @property
    def name(self) -> str:
        """Name its files."""
        return f"{self.part}-{self.seed}"

    @property
    def settings(self) -> Settings:
        """The default settings, but for what the part is about."""
        changed: dict[str, Any] = {"seed": self.seed, "pruner.regime": self.regime}
        if self.part == "none":
            changed |= changes(load(LAYER).settings, drift="none")
        return load(LAYER, arguments=changed).settings


@dataclass(frozen=True, slots=True)
class Goal:
    """What is promised, and what came of it."""

    name: str
    value: float
    goal: str
    met: bool


def summary_of(case: Case) -> Summary:
    """Run a case, or read what came of it before."""
    settings = case.settings
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]
    kept = RUNS / f"{case.name}-{digest}.json"
    if not kept.exists():
        state = RUNS / "state"
        RunFolder(state).clear()
        result = execute(RunDefinition.generated(settings), state)
        if case == Case("drift", 0, "graft"):
            save(RunHistory.of([*result.ledger, *result.windows]), RESULTS, "demo")
        kept.write_text(result.summary.model_dump_json())
        RunFolder(state).clear()
    summary = Summary.model_validate_json(kept.read_text())
    print(f"{case.name}: {_brief(summary)}", flush=True)
    return summary


def _brief(summary: Summary) -> str:
    ends = ", ".join(f"{r.reason} {r.decided:,} {r.verdict}" for r in summary.rebuilds)
    scores = [f"{s.relative_ce:+.3%}" for s in summary.last_half.values() if s and s.relative_ce]
    return f"{summary.events_per_second:,.0f} events/s; {' / '.join(scores)}; {ends}"


def promoted_after_first(summary: Summary) -> int:
    """Count promoted rebuilds."""
    return sum(r.verdict == "promoted" and r.reason != "first" for r in summary.rebuilds)


def _half(summary: Summary, model: str) -> ModelSummary:
    """Return how a model did over the last half."""
    score = summary.last_half[model]
    if score is None:
        raise ValueError("a demo ended before its sparse models began; run more events")
    return score


def _relative(summary: Summary, model: str) -> float | None:
    """Return what a model lost over the last half, if it ran."""
    score = summary.last_half[model]
    return score.relative_ce if score else None


@dataclass(frozen=True, slots=True)
class Column:
    """The demo over all seeds, with one kind of drift."""

    summaries: tuple[Summary, ...]

    def relative(self, model: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """CE / CE(dense) − 1 of the last half, by seed."""
        return np.array([_half(s, model).relative_ce for s in self.summaries], float)

    def ne(self, model: str) -> float:
        """Mean NE of the last half."""
        return float(np.mean([_half(s, model).ne for s in self.summaries]))

    def worth(self) -> str:
        """Relative CE of the twin that was never rebuilt less that of the sparse model."""
        return interval((self.relative("never_rebuilt") - self.relative("sparse")).tolist())

    def rebuilds(self) -> list[int]:
        """Promoted rebuilds after the first mask, by seed."""
        return [promoted_after_first(s) for s in self.summaries]

    def cost(self) -> float:
        """Events of the prune worker an event of the stream, the first mask included."""
        spent = sum(r.cost_events for s in self.summaries for r in s.rebuilds)
        return spent / sum(s.events for s in self.summaries)

    def lost(self) -> float:
        """(CE sparse − CE dense) / (H − CE dense): the share of what dense knows that is lost."""
        shares = []
        for one in self.summaries:
            dense, sparse = _half(one, "dense"), _half(one, "sparse")
            if dense.ne:
                shares.append((sparse.ce - dense.ce) / (dense.ce / dense.ne - dense.ce))
        return float(np.mean(shares))

    def over_bayes(self) -> float:
        """CE dense / CE Bayes − 1 over the events after the first mask."""
        known = [(s.models["dense"], s.bayes_ce) for s in self.summaries]
        return float(np.mean([dense.ce / bayes - 1 for dense, bayes in known if dense and bayes]))


def interval(values: Sequence[float]) -> str:
    """Write a mean and its 95 % t interval, the seed being the unit."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = error * float(stats.t.ppf(0.975, len(values) - 1)) if len(values) > 1 else float("nan")
    return f"{mean:+.2%} ± {half:.2%}"


def table(drift: Column, none: Column) -> list[str]:
    """Write the table of README."""
    rows = ["| last half of the events | drift | no drift |", "|---|---|---|"]
    columns = (drift, none)
    for model in ("dense", "sparse", "never_rebuilt"):
        label = model.replace("_", " ")
        rows.append(_row(f"NE, {label}", [f"{c.ne(model):.4f}" for c in columns]))
    for model in ("sparse", "never_rebuilt"):
        label = f"cross entropy of {model.replace('_', ' ')} against dense"
        rows.append(_row(label, [interval(c.relative(model).tolist()) for c in columns]))
    label = "**what following the dense model is worth**: the difference"
    rows.append(_row(label, [c.worth() for c in columns]))
    rows.append(
        _row("rebuilds promoted, whole run, by seed", [str(c.rebuilds())[1:-1] for c in columns])
    )
    label = "events that pruning learned from, for each event of the run"
    rows.append(_row(label, [f"{c.cost():.2f}" for c in columns]))
    label = "share of dense's gain over the click rate that sparse loses"
    rows.append(_row(label, [f"{c.lost():.2%}" for c in columns]))
    rows.append(
        _row(
            "cross entropy of dense over that of the true chances, since the first mask",
            [f"{c.over_bayes():+.2%}" for c in columns],
        )
    )
    return rows


def _row(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def demo_goals(drift: Column, none: Column) -> list[Goal]:
    """Hold the demo to what is promised of it."""
    never, sparse = drift.relative("never_rebuilt"), drift.relative("sparse")
    quiet = np.abs(none.relative("never_rebuilt") - none.relative("sparse"))
    ratio = float(sparse.mean() / never.mean())
    worst, lowest = float(quiet.max()), float(never.min())
    gap = float((never - sparse).min())
    return [
        Goal("no drift: |never rebuilt - sparse|, worst seed", worst, "< 0.001", worst < 0.001),
        Goal("drift: never rebuilt, best seed", lowest, ">= 0.003", lowest >= 0.003),
        Goal("drift: never rebuilt - sparse, worst seed", gap, "> 0", gap > 0),
        Goal("drift: mean sparse / mean never rebuilt", ratio, "<= 0.5", ratio <= 0.5),
    ]


def machine() -> str:
    """Name the machine that the figures are of."""
    cores = f"{os.cpu_count()} cores {platform.machine()}"
    return f"{cores}, {platform.system()}, Python {platform.python_version()}"


def row(case: Case, summary: Summary) -> dict[str, Any]:
    """Return the figures of one run."""
    dense = summary.last_half["dense"]
    return {
        "part": case.part,
        "seed": case.seed,
        "events": summary.events,
        "events_per_second": round(summary.events_per_second),
        "dense_ne": dense.ne if dense else None,
        "sparse_relative_ce": _relative(summary, "sparse"),
        "never_rebuilt_relative_ce": _relative(summary, "never_rebuilt"),
        "rebuilds": [[r.reason, r.decided, r.verdict] for r in summary.rebuilds],
    }


def report(found: dict[Case, Summary], name: str) -> dict[str, Any]:
    """Write the table and every run's figures, and return the result."""
    drift, none = (
        Column(tuple(s for case, s in found.items() if case.part == part)) for part in PARTS
    )
    result = {
        "bench": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": sorted({case.seed for case in found}),
        "rows": [row(case, summary) for case, summary in found.items()],
        "goals": [asdict(goal) for goal in demo_goals(drift, none)],
    }
    (RESULTS / f"{name}.md").write_text("\n".join(table(drift, none)) + "\n")
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    """Run what was not run yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regime", choices=get_args(Regime), default="graft")
    parser.add_argument("--held-out", action="store_true", help="seeds nothing was tuned on")
    parser.add_argument("--json", action="store_true", help="the result as the last line")
    asked = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    name = "demo" if asked.regime == "graft" else f"demo-{asked.regime}"
    name += "-held-out" if asked.held_out else ""
    seeds = HELD_OUT_SEEDS if asked.held_out else SEEDS
    found = {
        case: summary_of(case)
        for case in (Case(part, seed, asked.regime) for part in PARTS for seed in seeds)
    }
    result = report(found, name)
    print("", (RESULTS / f"{name}.md").read_text(), sep="\n")
    for goal in result["goals"]:
        met = "met    " if goal["met"] else "NOT MET"
        print(f"{met} {goal['name']}: {goal['value']:.4g} {goal['goal']}")
    if asked.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
