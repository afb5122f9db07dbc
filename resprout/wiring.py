"""The wiring: the one place that knows how each worker is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from evaluator.worker import Evaluator
from learner.dense import DenseLearner
from learner.online import OnlineModel
from learner.prequential import Ports
from learner.regime import Swap
from learner.sparse import SparseLearner
from pruner.ending import InputEnd
from pruner.projection import Projection
from pruner.regime import LedgerRegime, NeverRebuiltRegime
from pruner.store import MaskStore
from pruner.worker import PrunePorts, PruneWorker
from resprout import home
from resprout.begin import begun
from resprout.folder import RunFolder
from resprout.pace import Pace, Rated
from resprout.plan import Elsewhere, Plan
from resprout.runner import Worker
from resprout.settings import DENSE, EVALUATOR, NEVER_REBUILT, PRUNER, SOURCE, SPARSE
from stream import topics
from stream.begin import BegunHome
from stream.closing import Closing
from stream.generator import GeneratorFeed
from stream.log import LogHome, LogReader, LogWriter
from stream.order import open_order
from stream.source import Feed


class Wiring(Closing):
    """Opens logs and stores, and makes the workers that use them; closing it closes the logs.

    Every worker runs in a thread of its own or in a process of its own, so each has its own
    readers.

    Parameters
    ----------
    plan
        What to do.
    folder
        Where everything that outlives the process stands; what is made of it is locked by the
        caller.
    logs
        Where the logs live.
    """

    def __init__(self, plan: Plan, folder: RunFolder, logs: LogHome) -> None:
        self._plan, self._folder = plan, folder
        self._logs = begun(logs, plan.settings.stream.begin, folder)
        self._learners: dict[str, DenseLearner | SparseLearner] = {}
        self._projections: dict[str, Projection] = {}
        self._shared: MaskStore | None = None
        self._opened = ExitStack()

    def close(self) -> None:
        """Close the logs."""
        self._opened.close()

    @property
    def begins(self) -> Mapping[int, int]:
        """By partition the offset of the clicks with which the run begins; empty: the first."""
        return self._logs.offsets if isinstance(self._logs, BegunHome) else {}

    @property
    def models(self) -> dict[str, OnlineModel]:
        """The models that have begun to learn, by name."""
        return {
            name: learner.online
            for name, learner in self._learners.items()
            if isinstance(learner, DenseLearner) or learner.version > 0
        }

    def away(self) -> str | None:
        """Say why the mask store lacks something; None where it lacks nothing."""
        reasons = [projection.away for projection in self._projections.values()]
        return next((reason for reason in reasons if reason is not None), None)

    def every(self) -> tuple[Worker, ...]:
        """Make all workers of the plan for one process, where source and dense keep in step."""
        names = [SPARSE, PRUNER, EVALUATOR]
        if NEVER_REBUILT in self._plan.settings.evaluator.models:
            names.insert(1, NEVER_REBUILT)
        return (*self._source_and_dense(), *(self.one(name) for name in names))

    def one(self, name: str) -> Worker:
        """Make one worker, by its name."""
        if name == SOURCE:
            return self._source()
        if name == DENSE:
            dense = self._dense()
            return Worker(DENSE, dense.step, dense.close)
        if name == PRUNER:
            return self._pruner()
        if name == EVALUATOR:
            return self._evaluator()
        return self._sparse(name)

    def _source_and_dense(self) -> tuple[Worker, ...]:
        if isinstance(self._plan.source, Elsewhere):
            return (self.one(DENSE),)
        dense, feed = self._dense(), self._feed()
        pace = Pace(feed, dense, self._plan.settings.stream.ahead_events)
        return Worker(SOURCE, pace.feed, feed.flush), Worker(DENSE, pace.learn, dense.close)

    def _source(self) -> Worker:
        settings, feed = self._plan.settings, self._feed()
        if not isinstance(feed, GeneratorFeed):
            whole = Rated(feed)
            return Worker(SOURCE, whole.step, feed.flush)
        first = settings.pruner.first_mask_events + settings.pruner.rebuild_events
        generator = settings.stream.generator
        if generator.rate is not None:
            feed.step_events = generator.record_events
        rated = Rated(feed, feed.count, first, generator.rate)
        return Worker(SOURCE, rated.step, feed.flush)

    def _feed(self) -> Feed:
        source = self._plan.source
        if isinstance(source, Elsewhere):
            raise ValueError("the clicks are written by somebody else; there is nothing to feed")
        feed = source.attach(self._logs)
        self._opened.callback(feed.close)
        return feed

    def _dense(self) -> DenseLearner:
        dense = DenseLearner(self._plan.model(), self._ports(DENSE), self._plan.learners)
        self._learners[DENSE] = dense
        return dense

    def _sparse(self, name: str) -> Worker:
        plan, snapshots = self._plan, self._folder.snapshots
        end = InputEnd(self._reader(topics.CLICKS), snapshots, plan.source.schema)
        ledger = LedgerRegime(self._reader(topics.LEDGER), plan.leash, end.total)
        head = self._projection(name, ledger.swaps) if name == SPARSE else None
        regime = ledger if name == SPARSE else NeverRebuiltRegime(ledger)
        learner = SparseLearner(plan.model(), self._ports(name), plan.learners, regime, head)
        self._learners[name] = learner
        return Worker(name, learner.step, learner.close)

    def _pruner(self) -> Worker:
        plan, settings = self._plan, self._plan.settings
        clicks = self._reader(topics.CLICKS)
        ports = PrunePorts(
            clicks=clicks,
            windows=self._reader(topics.WINDOWS),
            ledger=self._reader(topics.LEDGER),
            requests=self._reader(topics.REQUESTS),
            decisions=self._writer(topics.LEDGER),
            predictions=self._writer(topics.predictions("candidate-1")),
            snapshots=self._folder.snapshots,
            masks=self._projection(PRUNER),
            folder=self._folder.checkpoints(PRUNER).folder,
            versions=settings.store.versions,
            order=self._order(clicks),
        )
        pruner = PruneWorker(ports, plan.learners, settings.pruner, plan.rules, plan.model)
        return Worker(PRUNER, pruner.step, pruner.close)

    def _evaluator(self) -> Worker:
        plan, folder = self._plan, self._folder
        evaluator = Evaluator(
            self._logs,
            plan.source.schema,
            plan.settings.evaluator,
            plan.agreement,
            folder.checkpoints(EVALUATOR),
        )
        return Worker(EVALUATOR, evaluator.step, evaluator.close)

    def _projection(self, worker: str, swaps: Callable[[], Iterable[Swap]] = tuple) -> Projection:
        """Make the view of the mask store that one worker keeps up; one thread uses it."""
        config = self._plan.settings.store
        store = self._shared or home.masks(config, self._folder, self._ledger_identity())
        if config.kind == "memory":
            self._shared = store
        made = Projection(store, self._folder.snapshots, swaps, check_seconds=config.check_seconds)
        self._opened.callback(made.close)
        self._projections[worker] = made
        return made

    def _ledger_identity(self) -> str:
        return self._reader(topics.LEDGER).identity

    def _ports(self, model: str) -> Ports:
        clicks = self._reader(topics.CLICKS)
        return Ports(
            model=model,
            clicks=clicks,
            predictions=self._writer(topics.predictions(model)),
            checkpoints=self._folder.checkpoints(model),
            snapshots=self._folder.snapshots,
            order=self._order(clicks),
            behind=self._opened.enter_context(ThreadPoolExecutor(1, f"{model}, behind")),
        )

    def _order(self, clicks: LogReader) -> LogReader | None:
        order = open_order(self._logs, clicks)
        if order is not None:
            self._opened.callback(order.close)
        return order

    def _reader(self, name: str) -> LogReader:
        reader = self._logs.reader(name)
        self._opened.callback(reader.close)
        return reader

    def _writer(self, name: str) -> LogWriter:
        writer = self._logs.writer(name)
        self._opened.callback(writer.close)
        return writer
