"""A small run laid out by hand: clicks, predictions and decisions, with no model behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluator.config import EvaluatorConfig
from evaluator.worker import Evaluator, EvaluatorStep
from stream.batch import ClickBatch
from stream.codec import columnar_record, end_record
from stream.columnar import TruthBatch, predictions_to_bytes, truth_to_bytes
from stream.follow import read_all
from stream.log import LogWriter, Record
from stream.log.local import LocalLogStore
from stream.messages import (
    Decision,
    DriftSpan,
    Message,
    Position,
    PredictionBatch,
    RebuildPlan,
    Rollback,
    Verdict,
    VerdictName,
    dump,
    parse,
)
from stream.reader import ClickReader, CountedBatch
from stream.schema import FeatureSchema, NumericFeature
from stream.spec import RunSpec
from stream.state import Checkpoints
from stream.topics import CLICKS, LEDGER, TRUTH, predictions

Floats = NDArray[np.float64]

SCHEMA = FeatureSchema(numeric=(NumericFeature(name="x"),))
SPEC = RunSpec.small(
    schema=SCHEMA, batch_events=10, window_events=40, rebuild_events=80, judge_events=20
)
CONFIG = EvaluatorConfig(
    windows=(20, 40, 100), models=("dense", "sparse"), min_clicks=2, checkpoint_events=30
)


def drawn(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Draw labels and weights."""
    rng = np.random.default_rng([seed, n])
    return (rng.random(n) < 0.3).astype(float), rng.choice([1.0, 2.5, 4.0], n)


def chance(model: str, n: int) -> Floats:
    """Draw what a model predicts for the first ``n`` events."""
    return np.random.default_rng([n, *model.encode()]).uniform(0.05, 0.6, n)


def click_batch(label: Floats, weight: Floats, x: float = 0.0) -> ClickBatch:
    n = len(label)
    return ClickBatch(
        label=label.astype(np.float32),
        weight=weight.astype(np.float32),
        time_ms=np.arange(n, dtype=np.int64),
        numeric=np.full((n, 1), x, np.float32),
        categorical=np.empty((n, 0), np.int32),
    )


def plan(number: int, decided: int, reason: str = "divergence") -> RebuildPlan:
    return RebuildPlan(
        number=number,
        reason="first" if number == 1 else reason,
        cause="as laid out",
        begin=decided,
        decided=decided,
        end=decided + SPEC.rebuild_events,
    )


def verdict(rebuild: RebuildPlan, name: VerdictName, version: int | None = None) -> Verdict:
    return Verdict(
        count=rebuild.end,
        rebuild=rebuild,
        verdict=name,
        reason="as laid out",
        version=version,
        snapshot=None,
        mask=None,
        sparsity=None,
        layers={},
        judgement=None,
        cost_events=0,
    )


@dataclass
class Stage:
    """Writes the logs that the evaluator reads."""

    folder: Path
    spec: RunSpec = SPEC
    config: EvaluatorConfig = CONFIG
    _writers: dict[str, LogWriter] = field(default_factory=dict)

    @property
    def home(self) -> LocalLogStore:
        return LocalLogStore(self.folder / "logs")

    def evaluator(self) -> Evaluator:
        checkpoints = Checkpoints(self.folder / "state")
        return Evaluator(self.home, self.config, self.spec, checkpoints)

    def moved(self, folder: Path) -> Stage:
        """Return the same stage on a copy of its folder."""
        return Stage(folder, self.spec, self.config)

    def append(self, log: str, *records: Record) -> None:
        if log not in self._writers:
            self._writers[log] = self.home.writer(log)
        self._writers[log].append(records)

    def clicks(self, label: Floats, weight: Floats, record_events: int = 7) -> None:
        """Write clicks in records that fit no batch; x jumps behind 120 of them."""
        for begin in range(0, len(label), record_events):
            rows = slice(begin, begin + record_events)
            batch = click_batch(label[rows], weight[rows], x=float(begin >= 120))
            self.append(CLICKS, columnar_record(batch, SCHEMA))

    def end(self) -> None:
        self.append(CLICKS, end_record())

    def batches(self) -> list[CountedBatch]:
        reader = ClickReader(self.home.reader(CLICKS), SCHEMA, self.spec.batch_events)
        return list(iter(reader.next, None))

    def predict(
        self, model: str, probability: Floats, begin: int = 0, end: int | None = None
    ) -> None:
        """Publish honest predictions from ``probability``, which holds one for every event."""
        for record in self.records(model, probability, begin, end):
            self.append(predictions(model), record)

    def records(
        self, model: str, probability: Floats, begin: int = 0, end: int | None = None
    ) -> list[Record]:
        """Make the records of predictions of the batches between two counts."""
        through: dict[int, Position] = {}
        found = []
        for batch in self.batches():
            if begin <= batch.begin < (end or len(probability)):
                rows = probability[batch.begin : batch.end]
                version = 1 if batch.begin < 280 else 2
                made = PredictionBatch(model, version, batch.begin, batch.spans, through, rows)
                found.append(Record(predictions_to_bytes(made)))
            through = {0: batch.spans[-1].last}
        return found

    def truth(self, probability: Floats, *drift: DriftSpan, record_events: int = 13) -> None:
        for begin in range(0, len(probability), record_events):
            rows = probability[begin : begin + record_events]
            here = tuple(s for s in drift if begin <= s.begin < begin + record_events)
            self.append(TRUTH, Record(truth_to_bytes(TruthBatch(begin, rows, here))))

    def decide(self, *messages: Decision | Verdict) -> None:
        self.append(LEDGER, *(Record(dump(message)) for message in messages))

    def decisions(self, end: int, *plans: RebuildPlan) -> None:
        """Decide every window up to ``end``."""
        wanted = {one.decided: one for one in plans}
        step = self.spec.window_events
        for count in range(step, end + 1, step):
            rebuild = wanted.get(count)
            why_not = None if rebuild else "as laid out"
            self.decide(Decision(count=count, rebuild=rebuild, why_not=why_not))

    def messages(self, log: str) -> list[Message]:
        return [parse(stored.record.value) for stored in read_all(self.home.reader(log))]

    def values(self, log: str, kind: str) -> list[bytes]:
        """Read the bytes of the messages of one kind."""
        stored = [record.record.value for record in read_all(self.home.reader(log))]
        return [value for value in stored if f'"kind":"{kind}"'.encode() in value]


def run(evaluator: Evaluator, count: int | None = None) -> list[EvaluatorStep]:
    """Step until nothing is left to do, or until ``count`` events have been scored."""
    steps = [evaluator.step()]
    while not (steps[-1].waiting_for or steps[-1].done or steps[-1].count == count):
        steps.append(evaluator.step())
    return steps


def rollback(count: int, version: int = 3, lead: int = 40) -> Decision:
    """Decide on the window ending at ``count`` to go back to version 1."""
    back = Rollback(to_version=1, version=version, snapshot="x", mask=None, count=count + lead)
    return Decision(count=count, why_not="back to version 1", rollback=back)


FIRST, SECOND, THIRD = plan(1, 80), plan(2, 200), plan(3, 320)
EVENTS = 407


def full_run(folder: Path) -> Stage:
    """Lay out 407 events: the first mask at 160, a rebuild promoted at 280, one rejected at 400."""
    stage = Stage(folder)
    stage.clicks(*drawn(EVENTS))
    stage.end()
    stage.predict("dense", chance("dense", EVENTS))
    stage.predict("sparse", chance("sparse", EVENTS), FIRST.end)
    for one in (SECOND, THIRD):
        stage.predict(one.candidate, chance(one.candidate, EVENTS), one.end - 20, one.end)
    stage.decisions(400, FIRST, SECOND, THIRD)
    stage.decide(verdict(FIRST, "promoted", 1), verdict(SECOND, "promoted", 2))
    stage.decide(verdict(THIRD, "rejected"))
    return stage


def with_models(stage: Stage, models: Sequence[str]) -> Stage:
    """Return the stage with other models to wait for."""
    return replace(stage, config=stage.config.model_copy(update={"models": tuple(models)}))
