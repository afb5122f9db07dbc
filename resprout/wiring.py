"""The wiring: the workers of all rooms over one state folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from evaluator.worker import Evaluator
from learner.dense import DenseLearner
from learner.online import OnlineModel
from learner.prequential import Ports
from learner.regime import Head
from learner.sparse import SparseLearner
from pruner.ending import InputEnd
from pruner.regime import LedgerRegime, NeverRebuiltRegime
from pruner.worker import PrunePorts, PruneWorker
from resprout.folder import RunFolder
from resprout.pace import Pace
from resprout.plan import Plan
from resprout.runner import Worker
from resprout.settings import DENSE, NEVER_REBUILT, SPARSE
from stream import topics
from stream.log import LogReader, LogWriter

SOURCE, PRUNER, EVALUATOR = "source", "pruner", "evaluator"


class Wiring:
    """Opens logs and stores, and makes the workers that use them; closing it closes the logs.

    Every worker runs in a thread of its own, so each has its own readers.

    Parameters
    ----------
    plan
        What to do.
    folder
        Where everything that outlives the process stands; locked by the caller.

    Attributes
    ----------
    workers
        All workers, the source first.
    """

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        self._plan, self._folder = plan, folder
        self._head = folder.masks(plan.settings.store.kind)
        self._learners: dict[str, DenseLearner | SparseLearner] = {}
        self._opened = ExitStack()
        with self._opened:
            self.workers = tuple(self._make())
            self._opened = self._opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    @property
    def models(self) -> dict[str, OnlineModel]:
        """The models that have begun to learn, by name."""
        return {
            name: learner.online
            for name, learner in self._learners.items()
            if isinstance(learner, DenseLearner) or learner.version > 0
        }

    def _make(self) -> Iterator[Worker]:
        dense = DenseLearner(self._plan.model(), self._ports(DENSE), self._plan.learners)
        self._learners[DENSE] = dense
        feed = self._plan.source.attach(self._folder.home)
        self._opened.callback(feed.close)
        pace = Pace(feed, dense, self._plan.settings.stream.ahead_events)
        yield Worker(SOURCE, pace.feed, feed.flush)
        yield Worker(DENSE, pace.learn, dense.close)
        yield self._sparse(SPARSE, self._head)
        if NEVER_REBUILT in self._plan.settings.evaluator.models:
            yield self._sparse(NEVER_REBUILT, None)
        yield self._pruner()
        yield self._evaluator()

    def _sparse(self, name: str, head: Head | None) -> Worker:
        plan, snapshots = self._plan, self._folder.snapshots
        end = InputEnd(self._reader(topics.CLICKS), snapshots, plan.source.schema)
        ledger = LedgerRegime(self._reader(topics.LEDGER), plan.leash, end.total)
        regime = ledger if name == SPARSE else NeverRebuiltRegime(ledger)
        learner = SparseLearner(plan.model(), self._ports(name), plan.learners, regime, head)
        self._learners[name] = learner
        return Worker(name, learner.step, learner.close)

    def _pruner(self) -> Worker:
        plan, settings = self._plan, self._plan.settings
        ports = PrunePorts(
            clicks=self._reader(topics.CLICKS),
            windows=self._reader(topics.WINDOWS),
            ledger=self._reader(topics.LEDGER),
            decisions=self._writer(topics.LEDGER),
            predictions=self._writer(topics.predictions("candidate-1")),
            snapshots=self._folder.snapshots,
            masks=self._head,
            folder=self._folder.checkpoints(PRUNER).folder,
            versions=settings.store.versions,
        )
        pruner = PruneWorker(ports, plan.learners, settings.pruner, plan.rules, plan.model)
        return Worker(PRUNER, pruner.step, pruner.close)

    def _evaluator(self) -> Worker:
        plan, folder = self._plan, self._folder
        evaluator = Evaluator(
            folder.home,
            plan.source.schema,
            plan.settings.evaluator,
            plan.agreement,
            folder.checkpoints(EVALUATOR),
        )
        return Worker(EVALUATOR, evaluator.step, evaluator.close)

    def _ports(self, model: str) -> Ports:
        return Ports(
            model=model,
            clicks=self._reader(topics.CLICKS),
            predictions=self._writer(topics.predictions(model)),
            checkpoints=self._folder.checkpoints(model),
            snapshots=self._folder.snapshots,
        )

    def _reader(self, name: str) -> LogReader:
        reader = self._folder.home.reader(name)
        self._opened.callback(reader.close)
        return reader

    def _writer(self, name: str) -> LogWriter:
        writer = self._folder.home.writer(name)
        self._opened.callback(writer.close)
        return writer
