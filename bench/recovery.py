"""Does a run that is killed again and again lose anything? How soon it continues, and the answer.

``python -m bench.recovery --kills 200`` lets the small demo of the golden hashes (120 000 events,
all workers in one process) run once undisturbed, and once in processes of which each but the last
is killed with ``SIGKILL``: from outside, at moments drawn from ``--seed`` over the whole run, and
every fifth while it starts. What both have left is compared by its hashes: clicks, truth,
predictions, windows, ledger, dead letters, weights, optimiser sums and masks. Every model must have
predicted each event once; records that are in a log again must have the same bytes, and are
counted. With ``--kafka HOST:PORT`` the run that is killed has its logs on a broker, and with
``--redis URL`` its masks on a server; what that holds is compared as well.

The time to continue is from the end of the imports of a process to the first event that the
evaluator scores beyond those that were scored before the kill; a process that is killed earlier has
none. So that many kills fit into minutes, most processes are forked from one that has imported
everything; every twentieth is a fresh Python, and tells what the imports take. It writes
``bench/results/recovery.json`` and ``recovery.md``, where what was measured on the other logs is
left; ``--json`` prints the result as the last line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.demo import RESULTS, Goal, machine
from pruner.masks import open_store
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.runner import Step
from resprout.settings import EVALUATOR, MODELS
from resprout.spec import RunDefinition
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.config import open_logs
from stream.follow import read_all
from stream.log import LogStore
from stream.messages import Progress, parse
from tests.golden.make import digest
from tests.golden.scenarios import hashes, settings

EMBEDDED, KAFKA, MASKS = "embedded", "Kafka", ", masks in Redis"
LATEST: Final = 0.95
"""Share of the events by which the last kill is due: later, a run might end before it."""
STARTING_EVERY: Final = 5
"""Of so many kills, one comes while the process starts."""
FRESH_EVERY: Final = 20
"""Of so many processes, one is a fresh Python."""
MOST_DELAY_SECONDS, MOST_STARTING_SECONDS = 0.1, 0.6
"""From the event, or from the imports, to the kill, at most."""
LOOK_SECONDS: Final = 0.001
PREDICTING: Final = (*MODELS, "candidate-1")


@dataclass(frozen=True, slots=True)
class Kill:
    """When a process is killed."""

    count: int | None
    """Events that the evaluator has scored; None: the process has imported all, and starts."""
    delay_seconds: float
    """From then to the kill."""


@dataclass(frozen=True, slots=True)
class Life:
    """One process, from its start to its end."""

    killed: bool
    starting: bool
    """Whether the kill was to come while it started."""
    scored: int
    """Events that the evaluator had scored at its end, in this life and before."""
    import_seconds: float | None
    """From its start to the end of its imports; None where it was forked with all imported."""
    continue_seconds: float | None
    """From there to the first event beyond those scored before; None where it had none."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Records of a run's logs that are there again: readers keep the first of each key."""

    again: int
    otherwise: int
    """Of these, such that do not have the bytes of the first."""


@dataclass(frozen=True, slots=True)
class Row:
    """The run that was killed, beside the undisturbed one."""

    home: str
    events: int
    kills: int
    starting: int
    """Kills while a process started."""
    restarts: int
    continued: int
    """Restarts that came to an event beyond those scored before; the others were killed sooner."""
    median_seconds: float
    worst_seconds: float
    """To continue, of these, after the imports."""
    import_seconds: float
    """Median of what Python and the imports take before."""
    unequal: tuple[str, ...]
    """Parts whose hashes are not those of the undisturbed run."""
    gaps: int
    """Events that a model has predicted twice, or not at all after its first."""
    copies: Copies


class Watched:
    """What a process tells of itself while it lives, in memory that outlives it.

    Parameters
    ----------
    before
        Events that had been scored before it started.
    is_fresh
        Whether it is to import everything itself.
    """

    def __init__(self, before: int, *, is_fresh: bool) -> None:
        self.before, self.is_fresh = before, is_fresh
        self._figures = RawArray("d", 3)

    def imported(self) -> None:
        """Note that all is imported."""
        self._figures[0] = time.monotonic()

    def observe(self, name: str, step: Step) -> None:
        """Note how far the evaluator is."""
        if name == EVALUATOR:
            if step.count > self.before and not self._figures[1]:
                self._figures[1] = time.monotonic()
            self._figures[2] = step.count

    @property
    def imported_at(self) -> float | None:
        """When all was imported, by the monotonic clock that all processes share."""
        return self._figures[0] or None

    @property
    def continued_at(self) -> float | None:
        """When the first event was scored that had not been scored before."""
        return self._figures[1] or None

    @property
    def scored(self) -> int:
        """Events that have been scored, in this life and before."""
        return max(int(self._figures[2]), self.before)

    def is_due(self, kill: Kill) -> bool:
        """Say whether the time until the kill begins."""
        if kill.count is None:
            return self.imported_at is not None
        return bool(self._figures[2] >= kill.count)


def drawn(kills: int, events: int, seed: int) -> list[Kill]:
    """Draw the moments of the kills, in their order."""
    rng = random.Random(seed)
    counts = sorted(rng.randrange(1, int(LATEST * events)) for _ in range(kills))
    return [
        Kill(None, rng.uniform(0, MOST_STARTING_SECONDS))
        if number % STARTING_EVERY == 0
        else Kill(count, rng.uniform(0, MOST_DELAY_SECONDS))
        for number, count in enumerate(counts, 1)
    ]


def disturbed(plan: RunDefinition, state: Path, kills: Sequence[Kill]) -> Iterator[Life]:
    """Let a run come to its end in processes of which each but the last is killed.

    Raises :class:`RuntimeError` where a process ends by a fault of its own.
    """
    before = 0
    for number, kill in enumerate((*kills, None)):
        life = lived(plan, state, kill, Watched(before, is_fresh=number % FRESH_EVERY == 1))
        yield life
        if not life.killed:
            return
        before = life.scored


def lived(plan: RunDefinition, state: Path, kill: Kill | None, watched: Watched) -> Life:
    """Start a process that continues a run, and kill it when its time has come."""
    process = _process(plan, state, watched)
    started = time.monotonic()
    process.start()
    if kill is not None:
        _end(process, watched, kill)
    process.join()
    code = process.exitcode
    process.close()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a process of the run in {state} ended with exit code {code}")
    imported, continued = watched.imported_at, watched.continued_at
    return Life(
        killed=code != 0,
        starting=kill is not None and kill.count is None,
        scored=watched.scored,
        import_seconds=imported - started if imported and watched.is_fresh else None,
        continue_seconds=continued - imported if imported and continued else None,
    )


def _process(plan: RunDefinition, state: Path, watched: Watched) -> BaseProcess:
    """Prepare a process: a fresh Python, or one to be forked where everything is imported."""
    if watched.is_fresh:
        spawn = multiprocessing.get_context("spawn")
        return spawn.Process(target=_live, args=(plan, state, watched))
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["tests.golden.scenarios"])
    return forkserver.Process(target=_live, args=(plan, state, watched))


def _live(plan: RunDefinition, state: Path, watched: Watched) -> None:
    """Continue the run, to its end or the kill."""
    watched.imported()
    execute(plan, state, watched.observe)


def _end(process: BaseProcess, watched: Watched, kill: Kill) -> None:
    """Wait for the moment, and kill the process if it is still there."""
    while process.is_alive() and not watched.is_due(kill):
        time.sleep(LOOK_SECONDS)
    process.join(kill.delay_seconds)
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)


def left(plan: RunDefinition, state: Path) -> dict[str, str]:
    """Hash by part what a run has left."""
    found, folder = hashes(plan, state), RunFolder(state)
    with open_logs(plan.settings.stream, folder.home.folder) as logs:
        for name in (topics.CLICKS, topics.TRUTH):
            found[name] = digest(_values(logs, name))
        with closing(logs.reader(topics.LEDGER)) as ledger:
            store = open_store(plan.settings.store, folder.masks, ledger.identity)
    with closing(store):
        found["mask store"] = digest([*store.names(), str(store.head())])
    return found


def gaps(logs: LogStore, events: int) -> int:
    """Count events that a model has predicted more than once, or not at all after its first."""
    found = 0
    for model in MODELS:
        batches = {}
        for value in _values(logs, topics.predictions(model)):
            batch = predictions_from_bytes(value)
            batches[batch.begin] = len(batch.probability)
        reached = min(batches, default=events)
        for begin, size in sorted(batches.items()):
            found += abs(begin - reached)
            reached = begin + size
        found += abs(events - reached)
    return found


def copies(logs: LogStore) -> Copies:
    """Count what stands in the logs again; the progress of processes is not of the run."""
    again = otherwise = 0
    keyed = (_predictions(logs), *(_messages(logs, name) for name in _TOLD))
    for log in keyed:
        first: dict[str, bytes] = {}
        for key, value in log:
            if key in first:
                again += 1
                otherwise += first[key] != value
            first.setdefault(key, value)
    return Copies(again, otherwise)


_TOLD: Final = (topics.WINDOWS, topics.LEDGER, topics.DEAD_LETTERS)


def _values(logs: LogStore, name: str) -> Iterator[bytes]:
    with closing(logs.reader(name)) as reader:
        for stored in read_all(reader):
            yield stored.record.value


def _messages(logs: LogStore, name: str) -> Iterator[tuple[str, bytes]]:
    for value in _values(logs, name):
        if not isinstance(message := parse(value), Progress):
            yield message.key, value


def _predictions(logs: LogStore) -> Iterator[tuple[str, bytes]]:
    for name in dict.fromkeys(map(topics.predictions, PREDICTING)):
        for value in _values(logs, name):
            batch = predictions_from_bytes(value)
            yield f"{batch.model}/{batch.begin}", value


def compared(
    home: str, plan: RunDefinition, state: Path, lives: Sequence[Life], undisturbed: dict[str, str]
) -> Row:
    """Compare what a run of many lives has left with what an undisturbed one has."""
    events = plan.settings.stream.generator.events or 0
    found = left(plan, state)
    with open_logs(plan.settings.stream, RunFolder(state).home.folder) as logs:
        missed, repeated = gaps(logs, events), copies(logs)
    took = [one.continue_seconds for one in lives[1:] if one.continue_seconds is not None]
    imports = [one.import_seconds for one in lives[1:] if one.import_seconds is not None]
    return Row(
        home=home,
        events=events,
        kills=sum(one.killed for one in lives),
        starting=sum(one.killed and one.starting for one in lives),
        restarts=len(lives) - 1,
        continued=len(took),
        median_seconds=median(took),
        worst_seconds=max(took),
        import_seconds=median(imports),
        unequal=tuple(part for part in undisturbed if found[part] != undisturbed[part]),
        gaps=missed,
        copies=repeated,
    )


def goal_of(row: Mapping[str, Any]) -> Goal:
    """Say what is promised, and what came of it."""
    name = f"{row['home']}: parts, events and records that are otherwise, {row['kills']} kills"
    value = len(row["unequal"]) + row["gaps"] + row["copies"]["otherwise"]
    return Goal(name, value, "0", value == 0)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as Markdown."""
    lines = [
        "| logs | events | kills | while it starts | restarts | seconds to continue: median "
        "| worst | imports before | as an undisturbed run | records written again |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        outcome = "equal" if goal_of(row).met else f"NOT equal: {', '.join(row['unequal'])}"
        lines.append(
            f"| {row['home']} | {row['events']:,} | {row['kills']} | {row['starting']} | "
            f"{row['restarts']} | {row['median_seconds']:.2f} | {row['worst_seconds']:.2f} | "
            f"{row['import_seconds']:.1f} | {outcome} | {row['copies']['again']:,} |"
        )
    return "\n".join(lines) + "\n"


def measure(asked: argparse.Namespace, folder: Path) -> Row:
    """Run it undisturbed, and then killed."""
    quiet = RunDefinition.generated(settings())
    execute(quiet, folder / "undisturbed")
    undisturbed = left(quiet, folder / "undisturbed")
    plan = _on_servers(asked.kafka, asked.redis)
    events, lives = plan.settings.stream.generator.events or 0, []
    for life in disturbed(plan, folder / "killed", drawn(asked.kills, events, asked.seed)):
        lives.append(life)
        print(f"{len(lives):>4} {json.dumps(asdict(life))}", flush=True)
    home = (KAFKA if asked.kafka else EMBEDDED) + (MASKS if asked.redis else "")
    return compared(home, plan, folder / "killed", lives, undisturbed)


def _on_servers(kafka: str | None, redis: str | None) -> RunDefinition:
    """Plan a run with its logs on a broker, its masks on a server, or both in the state folder."""
    given: dict[str, str] = {}
    prefix = f"recovery-{uuid.uuid4().hex[:8]}"
    if kafka:
        given |= {"stream__home": "kafka", "stream__kafka__bootstrap": kafka}
        given |= {"stream__kafka__prefix": f"{prefix}-"}
    if redis:
        given |= {"store__kind": "redis", "store__url": redis, "store__prefix": prefix}
    return RunDefinition.generated(settings(**given))


def main() -> None:
    """Measure, and write the result down beside that of the other logs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker, instead of embedded logs")
    parser.add_argument("--redis", metavar="URL", help="a server for masks, instead of a folder")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="the result as the last line")
    asked = parser.parse_args()
    if asked.kills < 1:
        parser.error(f"--kills is {asked.kills}; a run that is never killed shows nothing")
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        found = measure(asked, Path(folder))
    row = {"seed": asked.seed, "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    row |= asdict(found)
    file = RESULTS / "recovery.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = [one for one in before if one["home"] != found.home] + [row]
    rows.sort(key=lambda one: (one["home"].startswith(KAFKA), one["home"]))
    goals = [asdict(goal_of(one)) for one in rows]
    result = {"bench": "recovery", "rows": rows, "goals": goals}
    file.write_text(json.dumps(result, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(rows))
    goal = goal_of(row)
    print(f"\n{table([row])}\n{'met    ' if goal.met else 'NOT MET'} {goal.name}: {goal.value:g}")
    if asked.json:
        print(json.dumps(result))
    if not goal.met:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
