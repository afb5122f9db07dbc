"""A small run in which the prune worker is real and the evaluator is played by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from learner import LearnerConfig, OnlineModel, Ports, SnapshotStore
from pruner import PrunePorts, PrunerConfig, PruneStep, PruneWorker, Rules
from pruner.masks import DiskMaskStore, ReconcilingRegistry
from pruner.triggers import Divergence
from stream import topics
from stream.batch import ClickBatch
from stream.codec import columnar_record, end_record
from stream.columnar import predictions_from_bytes
from stream.follow import read_all
from stream.log import Record
from stream.log.local import LocalLogStore
from stream.messages import (
    Decision,
    Interval,
    Judgement,
    Message,
    ModelScore,
    PredictionBatch,
    Verdict,
    Window,
    dump,
    parse,
)
from stream.ordering import open_order
from stream.schema import FeatureSchema, NumericFeature
from stream.spec import RunSpec
from stream.state import Checkpoints
from tests.learner.worlds import dense_trainer
from tests.pruner.nets import FEATURES, clicks, model

SCHEMA = FeatureSchema(
    numeric=tuple(NumericFeature(name=f"x{i}", limit=1e30) for i in range(FEATURES))
)
BATCH, WINDOW = 20, 100
RUN = RunSpec.small(
    schema=SCHEMA,
    batch_events=BATCH,
    window_events=WINDOW,
    snapshot_events=WINDOW,
    first_mask_events=400,
    rebuild_events=200,
    prune_events=100,
    judge_events=60,
    lead_events=100,
    config_json='{"seed": 3}',
    seed=3,
)
LEARNER = LearnerConfig(rate=0.02, snapshot_events=WINDOW, checkpoint_events=WINDOW)
CONFIG = PrunerConfig(
    regime="d2s",
    update_batches=1,
    first_mask_events=400,
    rebuild_events=200,
    prune_events=100,
    judge_events=60,
    lead_events=100,
    checkpoint_events=40,
    # Sixty events hardly ever show which of two models is better.
    inconclusive="lower_mean",
)
RULES = Rules(RUN, Divergence(threshold=0.002))


def rules_with(**changes: Any) -> Rules:
    """Return the rules of a run whose spec is otherwise in some of it."""
    return replace(RULES, spec=replace(RUN, **changes))


def stream(events: int, seed: int = 0) -> list[ClickBatch]:
    """Make clicks in records of one batch."""
    return clicks(events // BATCH, seed, BATCH)


def build() -> OnlineModel:
    """Build a model whose weights are to be replaced."""
    return model(8, seed=9, config=LEARNER)


def dense() -> OnlineModel:
    """Build the dense model as it is at the start."""
    return model(8, config=LEARNER)


def window(end: int, relative: float | None = None, *, size: int = WINDOW) -> Window:
    """Make a window on which the sparse model was so far behind, in percent."""
    percent = {"relative_ce": None if relative is None else relative / 100}
    return Window(
        size=size,
        number=end // size - 1,
        begin=end - size,
        end=end,
        partial=False,
        weight=size,
        clicks=1.0,
        click_rate=1 / size,
        models={"sparse": ModelScore(versions=(1,), metrics=percent)},
        bayes_ce=None,
        drift=(),
    )


def judgement(rebuild: int, end: int, percent: float) -> Judgement:
    """Make a judgement on a candidate that is so much worse than the incumbent, in percent."""
    interval = Interval(mean=percent / 100, low=percent / 100 - 0.01, high=percent / 100 + 0.01)
    return Judgement(
        rebuild=rebuild,
        begin=end - CONFIG.judge_events,
        end=end,
        candidate_ce=0.5 * (1 + percent / 100),
        incumbent_ce=0.5,
        dense_ce=0.5,
        difference=Interval(mean=0.005 * percent, low=None, high=None),
        relative=interval,
    )


@dataclass(slots=True)
class World:
    """A folder with everything that a run leaves behind."""

    folder: Path
    rules: Rules = RULES
    config: PrunerConfig = CONFIG
    versions: int = 3
    home: LocalLogStore = field(init=False)

    def __post_init__(self) -> None:
        self.home = LocalLogStore(self.folder / "log")

    @property
    def snapshots(self) -> SnapshotStore:
        return SnapshotStore(self.folder / "snapshots")

    @property
    def masks(self) -> DiskMaskStore:
        return DiskMaskStore(self.folder / "masks")

    def click(self, parts: list[ClickBatch], *, end: bool = False) -> None:
        """Append clicks, and the end of the input."""
        records = [columnar_record(part, SCHEMA) for part in parts]
        self.append(topics.CLICKS, *records, *([end_record()] if end else []))

    def append(self, name: str, *records: Record) -> None:
        """Append to a log."""
        with closing(self.home.writer(name)) as writer:
            writer.append(records)

    def find(self, *messages: Message) -> None:
        """Let the evaluator write."""
        self.append(topics.WINDOWS, *(Record(dump(message)) for message in messages))

    def dense(self, through: int) -> None:
        """Let the dense model learn that far, and leave its snapshots."""
        with (
            closing(self.home.reader(topics.CLICKS)) as reader,
            closing(self.home.writer(topics.predictions("dense"))) as writer,
        ):
            state = Checkpoints(self.folder / "state" / "dense")
            order = open_order(self.home, reader)
            ports = Ports("dense", reader, writer, state, self.snapshots, order)
            learner = dense_trainer(dense(), ports, RUN)
            step = learner.step()
            while not step.done and step.count < through:
                step = learner.step()
            if not step.done:
                learner.close()

    @contextmanager
    def ports(self) -> Iterator[PrunePorts]:
        """Open the ports of a prune worker, and close them."""
        home = self.home
        with (
            closing(home.reader(topics.CLICKS)) as reader,
            closing(home.reader(topics.WINDOWS)) as windows,
            closing(home.reader(topics.LEDGER)) as ledger,
            closing(home.reader(topics.REQUESTS)) as requests,
            closing(home.writer(topics.LEDGER)) as decisions,
            closing(home.writer(topics.predictions("candidate-1"))) as predictions,
        ):
            yield PrunePorts(
                clicks=reader,
                windows=windows,
                ledger=ledger,
                requests=requests,
                decisions=decisions,
                predictions=predictions,
                snapshots=self.snapshots,
                registry=ReconcilingRegistry(self.masks, self.snapshots),
                folder=self.folder / "state" / "pruner",
                versions=self.versions,
            )

    @contextmanager
    def worker(self) -> Iterator[PruneWorker]:
        """Open a prune worker, as a process does, and kill it."""
        with self.ports() as ports:
            yield PruneWorker(ports, self.config, self.rules, build)

    def work(self, steps: int = 1000) -> PruneStep:
        """Let a worker do what it can, at most so many steps, and kill it."""
        with self.worker() as worker:
            return run(worker, steps)

    def ledger(self) -> list[Decision | Verdict]:
        """Read all decisions and verdicts."""
        found = [parse(value) for value in self.values(topics.LEDGER)]
        return [one for one in found if isinstance(one, Decision | Verdict)]

    def verdicts(self) -> list[Verdict]:
        return [one for one in self.ledger() if isinstance(one, Verdict)]

    def values(self, name: str) -> list[bytes]:
        """Read a log."""
        with closing(self.home.reader(name)) as reader:
            return [stored.record.value for stored in read_all(reader)]

    def predicted(self) -> Mapping[tuple[str, int], PredictionBatch]:
        """Read what candidates published, by model and count; repeats must be the same."""
        found: dict[tuple[str, int], bytes] = {}
        for value in self.values(topics.predictions("candidate-1")):
            batch = predictions_from_bytes(value)
            assert found.setdefault((batch.model, batch.begin), value) == value
        return {key: predictions_from_bytes(value) for key, value in found.items()}


def run(worker: PruneWorker, steps: int = 1000) -> PruneStep:
    """Step until nothing can be done, or so many times."""
    step = PruneStep(0)
    for _ in range(steps):
        step = worker.step()
        if step.done or step.waiting_for is not None:
            break
    return step


def first_mask(
    folder: Path,
    events: int = 1600,
    *,
    end: bool = False,
    parts: list[ClickBatch] | None = None,
    **more: Any,
) -> World:
    """Make a world whose first mask was promoted at 600; dense has learned everything."""
    world = World(folder, **more)
    world.click(stream(events) if parts is None else parts, end=end)
    world.dense(events)
    world.find(*(window(count) for count in range(WINDOW, 700, WINDOW)))
    world.work()
    return world
