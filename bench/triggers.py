"""When does the trigger act? Where nothing drifts, and after an abrupt shift.

``python -m bench.triggers`` runs the dense and the first sparse model on the default stream, seeds
300 to 309: at click rates of 20, 2 and 0.5 % without drift, at 20 and 2 % with an abrupt shift. The
windows of a run are kept in ``runs/bench/triggers`` (``--cache`` names another folder), so it goes
on where it was stopped, and another trigger is measured on the same windows within seconds: until
it starts its first rebuild, a run does not depend on it. A run without drift in which a rebuild
starts is run once more, with rebuilds, to count them. It writes ``bench/results/triggers.json``.

``--tuning`` takes seeds 0 to 4 instead and writes nothing; ``--set trigger.confidence=0`` and the
like try other settings, and write nothing either. ``--part`` and ``--rate`` run some of it.
``--json`` prints the result as the last line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from bench.demo import RESULTS, Goal, machine
from pruner import Fire, TriggerConfig
from pruner.triggers import Score, Seen, build
from pruner.worker import WindowFollower
from resprout.cli.commands import changes
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import Settings, load
from resprout.spec import RunDefinition
from stream import topics

RUNS: Final = Path("runs/bench/triggers")
SEEDS, TUNING_SEEDS = range(300, 310), range(5)
Part = Literal["none", "abrupt"]
RATES: Final = (0.2, 0.02, 0.005)
QUIET_EVENTS: Final = 2_700_000
"""Events of a run without drift."""
SHIFT_AFTER: Final = 300_000
"""Events between the cut of the first mask and the abrupt shift."""
REACT_EVENTS: Final = {0.2: 150_000, 0.02: 600_000}
"""By click rate, the events within which a rebuild should start after the shift."""
MORE_EVENTS: Final = 100_000
"""Events that a run with a shift continues after that."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the bench."""

    part: Part
    click_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name its files, and it to people."""
        return f"{self.part}-{self.click_rate:g}-{self.seed}"

    def settings(self, **trigger: Any) -> Settings:
        """Return the default settings, but for what the part is about."""
        asked = load().settings
        changed: dict[str, Any] = {
            "seed": self.seed,
            # Between rebuilds the mask is fixed, so that it falls behind where there is a shift.
            "pruner.regime": "d2s",
            "stream.generator.click_rate": self.click_rate,
            "stream.generator.events": QUIET_EVENTS,
            "evaluator.windows": [asked.trigger.window_events],
            "evaluator.alarms.detectors": [],
        }
        changed |= {f"trigger.{name}": value for name, value in trigger.items()}
        if self.part == "none":
            changed |= changes(asked, drift="none")
        else:
            shift = asked.pruner.first_mask_events + SHIFT_AFTER
            changed["stream.generator.drifts"] = [{"kind": "abrupt", "begin": shift}]
            changed["stream.generator.events"] = shift + REACT_EVENTS[self.click_rate] + MORE_EVENTS
        return load(arguments=changed).settings


@dataclass(frozen=True, slots=True)
class TriggerOutcome:
    """What a trigger does in one case."""

    case: Case
    first: int | None
    """The end of the window at which its first rebuild is decided; None: there is none."""
    cause: str | None
    promoted: int | None = None
    """Rebuilds after the first mask that were promoted; None where it was not run with them."""
    rebuilds: int = 0
    """Rebuilds decided after the first mask, where it was run with them."""

    @property
    def after_shift(self) -> int | None:
        """Events from the shift to the first rebuild; None where there is none after a shift."""
        settings = self.case.settings()
        shift = settings.pruner.first_mask_events + SHIFT_AFTER
        if self.case.part != "abrupt" or self.first is None or self.first <= shift:
            return None
        return self.first - shift

    @property
    def is_met(self) -> bool:
        """Say whether it did what it should."""
        if self.case.part == "none":
            return self.first is None
        return (self.after_shift or float("inf")) <= REACT_EVENTS[self.case.click_rate]


def windows_of(case: Case, cache: Path) -> list[Score]:
    """Run a case without any rebuild after the first mask, or read what came of it before."""
    settings = case.settings(budget=0)
    kept = cache / f"{case.name}-{_digest(settings)}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            state = Path(folder) / "run"
            execute(RunDefinition.generated(settings), state)
            reader = RunFolder(state).home.reader(topics.WINDOWS)
            windows = WindowFollower(reader, settings.trigger.window_events)
            while windows.closed < (settings.stream.generator.events or 0):
                windows.poll()
            reader.close()
        kept.write_text(json.dumps([astuple(one) for one in windows.scores]))
    return [Score(*one) for one in json.loads(kept.read_text())]


def _digest(settings: Settings) -> str:
    """Name what a run without rebuilds depends on: not on the trigger, but for its windows."""
    known = settings.model_dump(mode="json", exclude={"trigger"})
    known["window_events"] = settings.trigger.window_events
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def outcome_of(case: Case, scores: Sequence[Score], config: TriggerConfig) -> TriggerOutcome:
    """Decide on one window after the other until a rebuild starts, as the prune worker does."""
    pruner, trigger = case.settings().pruner, build(config)
    first_end = pruner.first_mask_events + pruner.rebuild_events
    since = [score for score in scores if score.begin >= first_end]
    for k in range(1, len(since) + 1):
        seen = Seen(tuple(since[:k]), first_end, pruner.first_mask_events, first_end, rebuilds=0)
        if isinstance(answer := trigger.decide(seen), Fire):
            return TriggerOutcome(case, seen.count, answer.cause)
    return TriggerOutcome(case, None, None)


def counted(outcome: TriggerOutcome, config: TriggerConfig, cache: Path) -> TriggerOutcome:
    """Run a case with rebuilds, and count them, or read how many there were before."""
    settings = outcome.case.settings(**config.model_dump(exclude_defaults=True))
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]
    kept = cache / f"{outcome.case.name}-{digest}-rebuilds.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            result = execute(RunDefinition.generated(settings), Path(folder) / "run")
        ends = [one.verdict for one in result.summary.rebuilds if one.reason != "first"]
        kept.write_text(json.dumps(ends))
    ends = json.loads(kept.read_text())
    return TriggerOutcome(
        outcome.case, outcome.first, outcome.cause, ends.count("promoted"), len(ends)
    )


def goals(outcomes: Sequence[TriggerOutcome]) -> Iterator[Goal]:
    """Hold the trigger to what is promised of it."""
    for rate in RATES:
        quiet = [one for one in outcomes if one.case.part == "none" and one.case.click_rate == rate]
        if quiet:
            started = sum(one.rebuilds or one.first is not None for one in quiet)
            name = f"{rate:.1%} clicks, no drift: rebuilds started in {len(quiet)} runs"
            yield Goal(name, started, "<= 1", started <= 1)
    for rate, limit in REACT_EVENTS.items():
        shifted = [
            one for one in outcomes if one.case.part == "abrupt" and one.case.click_rate == rate
        ]
        if shifted:
            soon, least = sum(one.is_met for one in shifted), 0.9 * len(shifted)
            name = f"{rate:.1%} clicks: of {len(shifted)} shifts, a rebuild within {limit:,} events"
            yield Goal(name, soon, f">= {least:g}", soon >= least)


def row(outcome: TriggerOutcome) -> dict[str, Any]:
    """Return the figures of one case."""
    return {**asdict(outcome.case), **asdict(outcome), "after_shift": outcome.after_shift} | {
        "case": outcome.case.name
    }


def _values(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``trigger.threshold=0.002`` and the like."""
    found = {}
    for pair in pairs:
        name, _, value = pair.removeprefix("trigger.").partition("=")
        found[name] = tomllib.loads(f"value = {value}")["value"]
    return found


def main() -> None:
    """Run what was not run yet, and print what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tuning", action="store_true", help="seeds 0 to 4; writes nothing")
    parser.add_argument("--part", choices=get_args(Part), action="append")
    parser.add_argument("--rate", type=float, choices=RATES, action="append", help="a click rate")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--cache", type=Path, default=RUNS, help="where windows are kept")
    parser.add_argument("--json", action="store_true", help="the result as the last line")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    config = TriggerConfig(**_values(asked.set))
    if config.window_events != TriggerConfig().window_events:
        parser.error("the windows that are kept are of the default size")
    cases = [
        Case(part, rate, seed)
        for seed in (TUNING_SEEDS if asked.tuning else SEEDS)
        for rate in asked.rate or RATES
        for part in asked.part or get_args(Part)
        if part == "none" or rate in REACT_EVENTS
    ]
    outcomes = []
    for case in cases:
        outcome = outcome_of(case, windows_of(case, asked.cache), config)
        if case.part == "none" and outcome.first is not None:
            outcome = counted(outcome, config, asked.cache)
        outcomes.append(outcome)
        print(json.dumps(row(outcome)), flush=True)
    found = list(goals(outcomes))
    result = {
        "bench": "triggers",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": sorted({case.seed for case in cases}),
        "settings": config.model_dump(mode="json"),
        "rows": [row(one) for one in outcomes],
        "goals": [asdict(goal) for goal in found],
    }
    if not (asked.tuning or asked.set or asked.part or asked.rate):
        (RESULTS / "triggers.json").write_text(json.dumps(result, indent=1) + "\n")
    for goal in found:
        print(f"{'met    ' if goal.met else 'NOT MET'} {goal.name}: {goal.value:g} {goal.goal}")
    if asked.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
