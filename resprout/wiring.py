"""The workers of a process, with the logs and stores that each of them uses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TypeVar

from evaluator import Evaluator
from learner import (
    LearnerStep,
    MaskSource,
    MaskUpdater,
    ModelVersion,
    OnlineModel,
    Ports,
    StreamTrainer,
    TrainerOptions,
)
from pruner import FirstMaskSource, InputEnd, LedgerMaskSource, PrunePorts, PruneWorker
from pruner.masks import MaskStore, ReconcilingRegistry, open_store
from pruner.updaters import DenseEvidence, FixedMask, Graft
from resprout.folder import RunFolder, begun
from resprout.monitoring.progress import AvailableEvents
from resprout.runner import Worker
from resprout.settings import DENSE, EVALUATOR, PRUNER, SOURCE, SPARSE
from resprout.spec import ExternalSource, RunDefinition
from stream import Waiting, messages, open_order, share_clicks, topics
from stream.log import LogReader, LogStore, LogWriter
from stream.sources import Feed, GeneratorFeed

Closable = TypeVar("Closable", LogReader, LogWriter, Feed, ReconcilingRegistry, "LeadLimit")

SLACK_SECONDS = 1.0
"""How far a source may be behind its rate and still catch up."""

LOOK_SECONDS = 1.0
"""Pause between two looks at how far the workers of other processes have come."""


@dataclass(frozen=True, slots=True)
class SourceStep:
    """One ``step()`` of the source: at most one chunk."""

    count: int
    """Events in the log, as far as this process knows."""
    events: int = 0
    """Events appended in this step."""
    waiting_for: Waiting | None = None
    """Which log must continue first, where nothing was appended."""
    done: bool = False
    """The input has ended."""


class Throttle:
    """Keeps a source at most so many events ahead of the dense learner.

    The lead is counted from the moment at which the learner last found nothing to learn: invalid
    events, which it never counts, cannot bring the two to a halt.

    Parameters
    ----------
    feed
        The source at work.
    step_dense
        Steps the learner to keep in step with.
    ahead_events
        How far the source may be ahead.
    """

    def __init__(
        self, feed: Feed, step_dense: Callable[[], LearnerStep], ahead_events: int
    ) -> None:
        self._feed, self._step_dense = feed, step_dense
        self._limit = ahead_events
        self._count = 0
        self._learned: int | None = None
        self._starved = True

    def learn(self) -> LearnerStep:
        """Step the learner; called in its thread."""
        step = self._step_dense()
        # While it waits for a decision it does not lack clicks.
        waits = step.waiting_for
        self._starved = step.events == 0 and (waits is None or waits.log != topics.LEDGER)
        self._learned = step.count
        return step

    def feed(self) -> SourceStep:
        """Step the source, if it is not too far ahead; called in its own thread."""
        if self._learned is None:
            return SourceStep(self._count, waiting_for=Waiting(topics.predictions(DENSE), "dense"))
        if self._starved:
            self._count = self._learned
        if self._count - self._learned >= self._limit:
            return SourceStep(self._count, waiting_for=Waiting(topics.predictions(DENSE), "dense"))
        events = self._feed.step()
        self._count += events or 0
        return SourceStep(self._count, events or 0, done=events is None)


class LeadLimit:
    """Names the worker of another process that a source is too far ahead of.

    The lead is how many events there are, less those that the slowest worker reported last. A
    worker that has not begun holds nobody up, but for dense, which begins with the first event.
    Nor does one that has since reported that it has read all clicks: what it has not counted is
    not valid.

    Parameters
    ----------
    logs
        Where the logs are.
    workers
        Those that must not fall behind, dense first.
    most_events
        How far the source may be ahead.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        logs: LogStore,
        workers: Sequence[str],
        most_events: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logs, self._workers, self._clock = logs, tuple(workers), clock
        self._most_events = most_events
        self._available = AvailableEvents(logs, DENSE)
        self._reports: dict[str, LogReader] = {}
        self._seen: dict[str, int] = {}
        """By worker the offset of its newest report."""
        self._reached = {self._workers[0]: 0}
        self._there = self._written = 0
        self._due = -math.inf

    def __call__(self, written: int) -> Waiting | None:
        """Say whom to wait for, by how many events the source has written; None: nobody."""
        now = self._clock()
        if now >= self._due:
            self._due = now + LOOK_SECONDS
            self._look(written)
        slowest = min(self._reached, key=self._reached.__getitem__)
        if self._there + written - self._written - self._reached[slowest] < self._most_events:
            return None
        what = f"{slowest} to be less than {self._most_events:,} events behind"
        return Waiting(topics.progress(slowest), f"{what} (stream.max_lead_events)")

    def close(self) -> None:
        """Release the logs."""
        self._available.close()
        for reader in self._reports.values():
            reader.close()

    def _look(self, written: int) -> None:
        there = self._available()
        self._there, self._written = written if there is None else there, written
        for worker in self._workers:
            log = topics.progress(worker)
            if worker not in self._reports and self._logs.exists(log):
                self._reports[worker] = self._logs.reader(log)
            last = self._reports[worker].last(0) if worker in self._reports else None
            if last is None or self._seen.get(worker) == last.offset:
                continue
            report = messages.parse(last.record.value)
            if not isinstance(report, messages.Progress):
                continue
            # What it reported before this process looked may be of a time long ago.
            if worker in self._seen and report.waiting_log == topics.CLICKS:
                self._reached[worker] = self._there
            elif report.count or worker in self._reached:
                self._reached[worker] = report.count
            self._seen[worker] = last.offset


class RateLimit:
    """Limits the rate and the lead of a source in a process without the dense learner.

    It runs at full speed until there are ``free_events`` events, and then keeps to a rate, counted
    from the end of the log at the start of the process, or from that count: no burst makes up for
    a restart or for a time in which the log took nothing.

    Parameters
    ----------
    feed
        The source at work.
    count
        Events in the log.
    free_events
        Events that are written at full speed.
    rate
        Events a second after that; None: as fast as it goes.
    clock
        Seconds that never go back.

    Attributes
    ----------
    too_far_ahead
        Says, by the count, whom the source waits for; None: for nobody.
    """

    def __init__(
        self,
        feed: Feed,
        count: int = 0,
        free_events: int = 0,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.too_far_ahead: Callable[[int], Waiting | None] = lambda _: None
        self._feed = feed
        self._count = count
        self._free_events = free_events
        self._rate = rate
        self._clock = clock
        self._due = clock()

    def step(self) -> SourceStep:
        """Append the next chunk, if it is due."""
        now = self._clock()
        if now < self._due:
            return SourceStep(self._count)
        waiting = self.too_far_ahead(self._count)
        if waiting is not None:
            return SourceStep(self._count, waiting_for=waiting)
        events = self._feed.step()
        self._count += events or 0
        if self._rate is not None and events and self._count > self._free_events:
            self._due = max(self._due, now - SLACK_SECONDS) + events / self._rate
        return SourceStep(self._count, events or 0, done=events is None)


class Wiring:
    """Opens logs and stores, and makes the workers that use them; closing it closes the logs.

    Every worker runs in a thread of its own, so each has its own readers. Where several of them
    read the clicks, every batch is read, checked and hashed once.

    Parameters
    ----------
    plan
        What to do.
    folder
        Where everything that outlives the process is kept; the caller has locked the part of each
        worker.
    logs
        Where the logs are.
    names
        The workers of this process.

    Attributes
    ----------
    begins
        By partition the offset of the clicks with which the run begins; empty: the first.
    """

    def __init__(
        self, plan: RunDefinition, folder: RunFolder, logs: LogStore, names: Sequence[str]
    ) -> None:
        self._plan, self._folder, self._names = plan, folder, tuple(names)
        stream = plan.settings.stream
        self._logs, self.begins = begun(plan.clicks_of(logs), stream.begin, folder)
        with ExitStack() as looked:
            readers = {name: logs.reader(name) for name in (topics.LEDGER, topics.WINDOWS)}
            for reader in readers.values():
                looked.callback(reader.close)
            folder.check_logs({name: reader.identity for name, reader in readers.items()})
        if set(names) - {SOURCE, DENSE} or stream.deduplicate_events:
            # All others read the clicks twice: to learn or to score, and to judge or find the end.
            self._logs = share_clicks(
                self._logs, plan.source.schema, deduplicate_events=stream.deduplicate_events
            )
        self._trainers: dict[str, StreamTrainer] = {}
        self._registries: list[ReconcilingRegistry] = []
        self._shared: MaskStore | None = None
        self._opened = ExitStack()

    def close(self) -> None:
        """Close the logs."""
        self._opened.close()

    @property
    def models(self) -> dict[str, OnlineModel]:
        """The models that have begun to learn, by name."""
        return {
            name: trainer.online
            for name, trainer in self._trainers.items()
            if name == DENSE or trainer.version > 0
        }

    def away(self) -> str | None:
        """Say why the mask store lacks something; None where it lacks nothing."""
        reasons = [registry.away for registry in self._registries]
        return next((reason for reason in reasons if reason is not None), None)

    def workers(self) -> tuple[Worker, ...]:
        """Make the workers, in the order of their names.

        Where source and dense learner are both among them, the source keeps in step with dense.
        """
        special = {PRUNER: self._pruner, EVALUATOR: self._evaluator}
        made = {
            name: special[name]() if name in special else self._learner(name)
            # The dense learner comes first: the served one may share its embeddings.
            for name in sorted(self._names, key=lambda name: name != DENSE)
            if name != SOURCE
        }
        if SOURCE in self._names:
            source, stream = self._plan.source, self._plan.settings.stream
            if isinstance(source, ExternalSource):
                raise ValueError(
                    "the clicks are written by somebody else; there is nothing to feed"
                )
            feed = self._closing(source.attach(self._logs))
            if DENSE in made:
                throttle = Throttle(feed, self._trainers[DENSE].step, stream.ahead_events)
                made[DENSE] = replace(made[DENSE], step=throttle.learn)
                step = throttle.feed
            else:
                step = self._limited(feed).step
            made[SOURCE] = Worker(SOURCE, step, feed.flush)
        return tuple(made[name] for name in self._names)

    def _limited(self, feed: Feed) -> RateLimit:
        """Keep a source in a process of its own to its rate and, if need be, to a lead."""
        plan, stream = self._plan, self._plan.settings.stream
        limited = RateLimit(feed)
        if isinstance(feed, GeneratorFeed):
            pruner, generator = plan.settings.pruner, stream.generator
            if generator.rate is not None:
                feed.step_events = generator.record_events
            first = pruner.first_mask_events + pruner.rebuild_events
            limited = RateLimit(feed, feed.count, first, generator.rate)
        if stream.max_lead_events:
            # The prune worker counts windows, and sparse does not go on without it.
            others = [name for name in plan.workers if name not in (SOURCE, DENSE, PRUNER)]
            lead = LeadLimit(self._logs, (DENSE, *others), stream.max_lead_events)
            limited.too_far_ahead = self._closing(lead)
        return limited

    def _learner(self, name: str) -> Worker:
        plan, pruner = self._plan, self._plan.settings.pruner
        leader = self._trainers[DENSE] if name == SPARSE and plan.grafts else None
        online = plan.model(grafted=leader is not None)
        updater: MaskUpdater = FixedMask()
        source: MaskSource | None = None
        registry: ReconcilingRegistry | None = None
        options = TrainerOptions()
        clicks = self._reader(topics.CLICKS)
        ports = Ports(
            model=name,
            clicks=clicks,
            predictions=self._writer(topics.predictions(name)),
            checkpoints=self._folder.checkpoints(name),
            snapshots=self._folder.snapshots,
            order=self._order(clicks),
            writer_pool=self._opened.enter_context(ThreadPoolExecutor(1, f"{name}, writer")),
        )
        if name == DENSE:
            every = plan.settings.learner.snapshot_events
            options = TrainerOptions(leads=True, snapshot_events=every)
            if pruner.evidence == "dense":
                updater = plan.evidence(online)
        else:
            end = InputEnd(self._reader(topics.CLICKS), ports.snapshots, plan.source.schema)
            source = ledger = LedgerMaskSource(self._reader(topics.LEDGER), plan.spec, end.total)
            if name == SPARSE:
                registry = self._registry(ledger.versions)
            else:
                updater, source = plan.comparison_updater(name, online), FirstMaskSource(ledger)
        if leader is not None and isinstance(leader.updater, DenseEvidence):
            updater = Graft(name, pruner, leader.updater, leader.online)
            ports = replace(ports, changes=self._writer(topics.MASK_CHANGES))
        trainer = StreamTrainer(
            online, ports, plan.spec, updater, source, registry, options, leader
        )
        self._trainers[name] = trainer
        return Worker(name, trainer.step, trainer.close)

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
            registry=self._registry(),
            folder=self._folder.checkpoints(PRUNER).folder,
            versions=settings.store.versions,
            order=self._order(clicks),
        )
        pruner = PruneWorker(ports, settings.pruner, plan.rules, plan.model)
        return Worker(PRUNER, pruner.step, pruner.close)

    def _evaluator(self) -> Worker:
        config, kept = self._plan.settings.evaluator, self._folder.checkpoints(EVALUATOR)
        evaluator = Evaluator(self._logs, config, self._plan.spec, kept)
        return Worker(EVALUATOR, evaluator.step, evaluator.close)

    def _registry(
        self, versions: Callable[[], Iterable[ModelVersion]] = tuple
    ) -> ReconcilingRegistry:
        """Make the registry that one worker keeps complete; one thread uses it."""
        config, folder = self._plan.settings.store, self._folder
        with closing(self._logs.reader(topics.LEDGER)) as ledger:
            store = self._shared or open_store(config, folder.masks, ledger.identity)
        if config.kind == "memory":
            self._shared = store
        made = ReconcilingRegistry(
            store, folder.snapshots, versions, check_seconds=config.check_seconds
        )
        self._registries.append(made)
        return self._closing(made)

    def _order(self, clicks: LogReader) -> LogReader | None:
        order = open_order(self._logs, clicks)
        return None if order is None else self._closing(order)

    def _reader(self, name: str) -> LogReader:
        return self._closing(self._logs.reader(name))

    def _writer(self, name: str) -> LogWriter:
        return self._closing(self._logs.writer(name))

    def _closing(self, opened: Closable) -> Closable:
        """Close it with everything else."""
        self._opened.callback(opened.close)
        return opened
