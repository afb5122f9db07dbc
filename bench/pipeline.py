"""What does the pipeline cost beside the learning? Events/s in memory, embedded and over Kafka.

``python -m bench.pipeline --kafka HOST:PORT`` times, in one run and in turns, (a) the bare training
loop on arrays in memory, and the same learning over (b) the embedded log, (c) Kafka with columnar
records and (d) Kafka with one JSON event a record: for the dense model alone and for the whole
loop; and the reading alone, from the log to arrays. Figures are medians, ratios are taken against
the bare loops right before and right after: a machine that others use too is a tenth faster or
slower from one second to the next. Over Kafka with JSON, where decoding takes the most, the whole
loop is also compared with the dense model alone over the same log, right before and right after:
a process decodes each event once, whoever learns from it. The dense model alone, whose ratio is a
goal, takes several turns a round, but over JSON. It writes ``bench/results/pipeline.json`` and
``pipeline.md``; ``--json`` prints the result as the last line.

The whole loop is threads on all cores (dense, sparse, prune worker, evaluator); its bare rival is
one thread that does the same learning, one model after the other, and scores nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.demo import RESULTS, Goal, machine
from learner import OnlineModel, Ports, SnapshotStore, StreamTrainer, TrainerOptions
from pruner.updaters import FixedMask
from resprout.run import execute
from resprout.settings import DENSE, Settings, load
from resprout.spec import ExternalSource, RunDefinition
from stream import topics
from stream.batch import ClickBatch
from stream.log import KafkaConfig, LogReader, LogStore
from stream.log.kafka.store import KafkaLogStore
from stream.log.local import LocalLogStore
from stream.reader import ClickReader
from stream.sources.generator import GeneratorSource
from stream.state import Checkpoints

BARE, EMBEDDED, COLUMNAR, JSON = "in memory", "embedded", "Kafka, columnar", "Kafka, JSON"
WAYS = (BARE, EMBEDDED, COLUMNAR, JSON)
CODECS = {EMBEDDED: "columnar", COLUMNAR: "columnar", JSON: "json"}
DENSE_ALONE, WHOLE, READING = "dense alone", "whole loop", "reading alone"


class Timed:
    """A log, read or written, that notes the seconds its reads and writes take.

    Parameters
    ----------
    log
        A reader or a writer.
    """

    def __init__(self, log: Any) -> None:
        self.seconds = 0.0
        self._log = log
        for name in ("read", "append", "flush"):
            if hasattr(log, name):
                setattr(self, name, self._timed(getattr(log, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


@dataclass(frozen=True, slots=True)
class Took:
    """One way of one kind, in one round."""

    kind: str
    way: str
    events: int
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the whole that went where."""
    bare: float | None = None
    """Seconds of the bare loop, the mean of those before and after."""
    alone: float | None = None
    """Seconds of the dense model alone over the same log, the mean of those before and after."""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


def settings_for(events: int, codec: str) -> Settings:
    """Take the defaults, with an early first mask so that every worker has work."""
    return load(
        arguments={
            "stream.generator.events": events,
            "stream.generator.codec": codec,
            "stream.generator.drifts": [{"kind": "gradual", "begin": events // 4}],
            "pruner.first_mask_events": events // 4,
            "trigger.name": "periodic",
        }
    ).settings


class Stage:
    """The same clicks in one home of logs for each way; closing it closes them.

    Parameters
    ----------
    events
        How many.
    folder
        For all that is written to disk.
    bootstrap
        Of a broker; None leaves the ways over Kafka out.
    """

    def __init__(self, events: int, folder: Path, bootstrap: str | None) -> None:
        self.folder, self._opened, self._turns = folder, ExitStack(), 0
        self.homes: dict[str, LogStore] = {EMBEDDED: LocalLogStore(folder / "embedded")}
        self.kafka: dict[str, KafkaConfig] = {}
        for way in (COLUMNAR, JSON) if bootstrap else ():
            prefix = f"bench-{uuid.uuid4().hex[:8]}-"
            self.kafka[way] = KafkaConfig(bootstrap=bootstrap or "", prefix=prefix)
            self.homes[way] = self._opened.enter_context(closing(KafkaLogStore(self.kafka[way])))
        self.settings = {way: settings_for(events, CODECS[way]) for way in self.homes}
        self.schema = self.settings[EMBEDDED].stream.generator.features
        for way, home in self.homes.items():
            self.fill(home, self.settings[way])
        self.batches = list(self.read(self.homes[EMBEDDED].reader(topics.CLICKS)))

    def fill(self, home: LogStore, settings: Settings) -> None:
        """Write the clicks; that is not timed."""
        source = GeneratorSource(settings.stream.generator, settings.seed)
        with closing(source.attach(home)) as feed:
            while feed.step() is not None:
                pass

    def read(self, clicks: LogReader) -> Iterator[ClickBatch]:
        """Read a log from its beginning to its end."""
        with closing(clicks):
            reader = ClickReader(clicks, self.schema, self.settings[EMBEDDED].stream.batch_events)
            while (counted := reader.next()) is not None:
                yield counted.batch

    def model(self) -> OnlineModel:
        """Make a model as it is before its first event."""
        return self.plan(EMBEDDED).model()

    def plan(self, way: str) -> RunDefinition:
        """Plan to learn from clicks that are there already."""
        return RunDefinition(self.settings[way], ExternalSource(self.schema))

    def empty(self) -> Path:
        """Name a folder that is not there yet."""
        self._turns += 1
        return self.folder / f"turn-{self._turns}"

    def close(self) -> None:
        """Release the homes."""
        self._opened.close()


def bare_dense(stage: Stage) -> Took:
    """Predict and learn from arrays in memory, and nothing else."""
    model = stage.model()
    started = time.perf_counter()
    for batch in stage.batches:
        model.learn_from(model.forward(batch))
    seconds = time.perf_counter() - started
    return Took(DENSE_ALONE, BARE, count(stage.batches), seconds, {"learn": seconds})


def bare_whole(stage: Stage) -> Took:
    """Do the same for all models of the loop in one thread: dense, sparse and the candidates."""
    pruner = stage.settings[EMBEDDED].pruner
    first, rebuild = pruner.first_mask_events, pruner.rebuild_events
    every = stage.settings[EMBEDDED].trigger.every_events
    dense, sparse, candidate = stage.model(), stage.model(), stage.model()
    generator = torch.Generator().manual_seed(0)
    sparse.set_masks(
        {
            n: torch.rand(sparse.theta(n).shape, generator=generator) > pruner.sparsity
            for n in sparse.prunable
        }
    )
    seen, started = 0, time.perf_counter()
    for batch in stage.batches:
        dense.learn_from(dense.forward(batch))
        if seen >= first + rebuild:
            sparse.learn_from(sparse.forward(batch))
        if seen >= first and (seen - first) % every < rebuild:
            candidate.learn_from(candidate.forward(batch))
        seen += len(batch)
    seconds = time.perf_counter() - started
    return Took(WHOLE, BARE, seen, seconds, {"learn": seconds})


def count(batches: list[ClickBatch]) -> int:
    """Count events."""
    return sum(len(batch) for batch in batches)


def connect(clicks: Timed) -> None:
    """Connect to the broker: that takes as long for many events as for few, and is not timed."""
    clicks.end(0)


def dense_alone(stage: Stage, way: str) -> Took:
    """Let the dense learner go through a log: read, predict, publish, learn, keep."""
    home, folder, plan = stage.homes[way], stage.empty(), stage.plan(way)
    clicks = Timed(home.reader(topics.CLICKS))
    predictions = Timed(home.writer(topics.predictions(f"bench{folder.name}")))
    with ThreadPoolExecutor(1) as pool:
        ports = Ports(
            DENSE,
            clicks,
            predictions,
            Checkpoints(folder / "kept"),
            SnapshotStore(folder / "left"),
            writer_pool=pool,
        )
        options = TrainerOptions(leads=True, snapshot_events=plan.spec.snapshot_events)
        learner = StreamTrainer(plan.model(), ports, plan.spec, FixedMask(), options=options)
        connect(clicks)
        started = time.perf_counter()
        while not (step := learner.step()).done:
            pass
        seconds = time.perf_counter() - started
    clicks.close()
    predictions.close()
    parts = {"read the log": clicks.seconds, "publish": predictions.seconds}
    return Took(DENSE_ALONE, way, step.count, seconds, parts)


def whole(stage: Stage, way: str) -> Took:
    """Run all workers over clicks that are there already."""
    folder, settings = stage.empty(), stage.settings[way]
    if way == EMBEDDED:
        stage.fill(LocalLogStore(folder / "logs"), settings)
        changed: dict[str, Any] = {}
    else:
        prefix = f"{stage.kafka[way].prefix}{folder.name}-"
        config = stage.kafka[way].model_copy(update={"prefix": prefix})
        with closing(KafkaLogStore(config)) as home:
            stage.fill(home, settings)
        changed = {"home": "kafka", "kafka": config}
    stream = settings.stream.model_copy(update=changed)
    plan = RunDefinition(
        settings.model_copy(update={"stream": stream}), ExternalSource(stage.schema)
    )
    result = execute(plan, folder)
    return Took(WHOLE, way, result.summary.events, result.summary.call_seconds)


def reading(stage: Stage, way: str) -> Took:
    """Read a log down to arrays, hashed and checked."""
    clicks = Timed(stage.homes[way].reader(topics.CLICKS))
    connect(clicks)
    started = time.perf_counter()
    events = sum(len(batch) for batch in stage.read(clicks))
    seconds = time.perf_counter() - started
    parts = {"read the log": clicks.seconds, "decode": seconds - clicks.seconds}
    return Took(READING, way, events, seconds, parts)


def measure(stage: Stage, rounds: int, turns: int) -> Iterator[Took]:
    """Time every way of every kind, one after the other."""
    for number in range(rounds):
        fast = [way for way in stage.homes if way != JSON]
        for one in chain(
            against(bare_dense, dense_alone, stage, fast * turns),
            (reading(stage, way) for way in stage.homes),
            against(bare_whole, whole, stage, fast),
            over_json(stage) if JSON in stage.homes else (),
        ):
            print(f"round {number + 1}  {one.kind:<14}{one.way:<16}{one.rate:>12,.0f}", flush=True)
            yield one


def against(
    bare: Callable[[Stage], Took],
    timed: Callable[[Stage, str], Took],
    stage: Stage,
    ways: Iterable[str],
) -> Iterator[Took]:
    """Time ways, each between two bare loops."""
    before = bare(stage)
    yield before
    for way in ways:
        took, after = timed(stage, way), bare(stage)
        yield replace(took, bare=(before.seconds + after.seconds) / 2)
        yield after
        before = after


def over_json(stage: Stage) -> Iterator[Took]:
    """Time the whole loop over JSON between two turns of the dense model alone."""
    before = list(against(bare_dense, dense_alone, stage, [JSON]))
    first, took, last = against(bare_whole, whole, stage, [JSON])
    after = list(against(bare_dense, dense_alone, stage, [JSON]))
    took = replace(took, alone=(before[1].seconds + after[1].seconds) / 2)
    yield from (*before, first, took, last, *after)


@dataclass(frozen=True, slots=True)
class Row:
    """One way of one kind over all its turns."""

    kind: str
    way: str
    turns: int
    events_per_second: float
    low: float
    high: float
    against_memory: float | None
    """Median over the turns of the rate over that of the bare loop around it."""
    against_dense: float | None
    """The same over that of the dense model alone over the same log."""
    microseconds: dict[str, float]
    """Of an event, and where they go."""


def rows(took: Sequence[Took]) -> list[Row]:
    """Sum all turns up."""
    found = []
    for kind, way in dict.fromkeys((one.kind, one.way) for one in took):
        turns = [one for one in took if (one.kind, one.way) == (kind, way)]
        rates = [one.rate for one in turns]
        ratios = [one.bare / one.seconds for one in turns if one.bare is not None]
        beside = [one.alone / one.seconds for one in turns if one.alone is not None]
        micro = {"whole": 1e6 / median(rates)}
        for part in turns[0].parts:
            micro[part] = median(1e6 * one.parts[part] / one.events for one in turns)
        against_memory = 1.0 if way == BARE else median(ratios) if ratios else None
        speed = median(rates), min(rates), max(rates)
        against_dense = median(beside) if beside else None
        found.append(Row(kind, way, len(turns), *speed, against_memory, against_dense, micro))
    return found


def goals(found: Sequence[Row]) -> list[Goal]:
    """Say what is promised of the ways that were run, and what came of it."""
    by = {(row.kind, row.way): row for row in found}
    made = []
    for key, goal in {
        (DENSE_ALONE, COLUMNAR): 0.9,
        (WHOLE, COLUMNAR): 0.85,
        (READING, COLUMNAR): 500_000,
        (READING, JSON): 25_000,
    }.items():
        if key in by:
            row, name = by[key], f"{key[0]}, {key[1]}"
            ratio = row.against_memory
            value = row.events_per_second if ratio is None else ratio
            unit = "events/s" if ratio is None else "of the bare loop"
            made.append(Goal(f"{name}: {unit}", value, f">= {goal:,}", value >= goal))
    beside = by[WHOLE, JSON].against_dense if (WHOLE, JSON) in by else None
    if beside is not None:
        name = f"{WHOLE}, {JSON}: of {DENSE_ALONE}"
        made.append(Goal(name, beside, ">= 0.8", beside >= 0.8))
    return made


def table(found: Sequence[Row]) -> str:
    """Write the rows as Markdown."""
    lines = [
        "| | way | turns | events/s | least to most | of the bare loop | of dense alone | "
        "µs an event, of these |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        ratios = (
            "" if one is None else f"{one:.2f}" for one in (row.against_memory, row.against_dense)
        )
        parts = ", ".join(f"{name} {value:.2f}" for name, value in row.microseconds.items())
        spread = f"{row.low:,.0f} to {row.high:,.0f}"
        lines.append(
            f"| {row.kind} | {row.way} | {row.turns} | {row.events_per_second:,.0f} | {spread} | "
            f"{' | '.join(ratios)} | {parts.removeprefix('whole ')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker; also TEST_KAFKA_BOOTSTRAP")
    parser.add_argument("--events", type=int, default=800_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--turns", type=int, default=6, help="a round, of the dense model alone")
    parser.add_argument("--json", action="store_true", help="the result as the last line")
    asked = parser.parse_args()
    bootstrap = asked.kafka or os.environ.get("TEST_KAFKA_BOOTSTRAP")
    if bootstrap is None:
        print("no broker: `docker compose up -d kafka`, then --kafka localhost:9092")
    torch.set_num_threads(1)
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        stage = opened.enter_context(closing(Stage(asked.events, folder, bootstrap)))
        found = rows(list(measure(stage, asked.rounds, asked.turns)))
    print("\n" + table(found))
    result = {
        "bench": "pipeline",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": 0,
        "events": asked.events,
        "rounds": asked.rounds,
        "turns": asked.turns,
        "rows": [asdict(row) for row in found],
        "goals": [asdict(goal) for goal in goals(found)],
    }
    if bootstrap is not None:
        (RESULTS / "pipeline.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "pipeline.md").write_text(table(found))
    if asked.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
