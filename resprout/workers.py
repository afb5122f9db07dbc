"""A process that is one worker of a run, or several."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pruner import LedgerFollower
from resprout.folder import RunFolder
from resprout.monitoring.metrics import Known, Metrics
from resprout.monitoring.page import Health, Page, pages, serve_health
from resprout.monitoring.progress import AvailableEvents, ProgressLogs, Waits, Watch, name_writer
from resprout.retention import retention
from resprout.runner import Observe, Runner, Worker, one_thread_each
from resprout.settings import DENSE, EVALUATOR, PRUNER, SOURCE, Settings
from resprout.spec import ExternalSource, RunDefinition
from resprout.wiring import SourceStep, Wiring
from stream import Waiting, open_logs, topics
from stream.log import LogStore
from stream.sources import FileSource

log = logging.getLogger(__name__)


def check(plan: RunDefinition, folder: RunFolder) -> None:
    """Check, before anything is opened, that a plan can be carried out in a folder.

    Where a file is only replayed, its schema alone is compared: the settings are those of the
    processes that learn from it.
    """
    plan.check()
    folder.check(plan, "schema" if isinstance(plan.source, FileSource) else "")


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """What a process did."""

    events: int
    """Of its first worker."""
    finished: bool
    """False if it was stopped before the end of its input."""
    logs: str
    """Where the logs are, in words."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """Workers with everything that they need, ready to work."""

    workers: Sequence[Worker]
    observers: Watch
    logs: str
    """Where the logs are, in words."""

    def work(self, stop: threading.Event) -> WorkerOutcome:
        """Work until the input has ended, or ``stop`` is set.

        A stop comes after the batch: what was published is flushed, and every position is kept.
        Each worker fails alone; only without the dense model no other can continue.
        """
        alone = [worker.name for worker in self.workers if worker.name != DENSE]
        expendable = alone if len(self.workers) > 1 else ()
        finished = Runner(self.workers, self.observers, stop, expendable).run()
        return WorkerOutcome(self.observers.events, finished, self.logs)


@contextmanager
def worker_process(
    plan: RunDefinition, state: Path, names: Sequence[str]
) -> Iterator[WorkerProcess]:
    """Open all that some workers of a run need, and let others see how they are.

    Several processes share a state folder, each with other workers.

    Parameters
    ----------
    plan
        What the whole run is to do.
    state
        The state folder.
    names
        Of the workers.

    Raises
    ------
    ValueError
        If the folder was begun otherwise, or the settings name something unknown.
    stream.state.StateLockedError
        If another process is one of these workers, or runs all workers in this folder.
    """
    folder, settings = RunFolder(state), plan.settings
    plan.check()
    with ExitStack() as opened:
        for name in names:
            opened.enter_context(closing(folder.lock_worker(name)))
        if isinstance(plan.source, FileSource):
            check(plan, folder)
        else:
            folder.begin(plan)
        made: list[Wiring] = []
        health = Health(names, {"masks": lambda: made[0].away() if made else None})
        for name in names:
            health(name, SourceStep(0, waiting_for=Waiting("", "its logs and its checkpoint")))
        metrics = Metrics(Known.of(settings, names))
        page = _serve_status(names, settings, folder, (metrics, health), opened)
        # Lag monitors see one group of readers for each process.
        logs = opened.enter_context(open_logs(settings.stream, folder.home.folder, "-".join(names)))
        if page is not None:
            page.show(logs)
            opened.callback(page.close)
        opened.enter_context(one_thread_each())
        wiring = opened.enter_context(closing(Wiring(plan, folder, logs, names)))
        made.append(wiring)
        _bring_up_to_date(metrics, names, logs, wiring.begins, opened)
        workers = [health.watched(metrics.timed(worker)) for worker in wiring.workers()]
        progress = opened.enter_context(closing(ProgressLogs(logs, tuple(names), metrics.lag)))
        # The other workers are other processes: each wait names the one to look at.
        tell = partial(name_writer, external_clicks=isinstance(plan.source, ExternalSource))
        observers: list[Observe] = [health, metrics, progress, Waits()]
        if EVALUATOR in names:
            observers.append(opened.enter_context(retention(plan, folder)))
        watch = Watch(names[0], observers, tell)
        yield WorkerProcess(workers, watch, logs.describe())


def _serve_status(
    names: Sequence[str],
    settings: Settings,
    folder: RunFolder,
    observers: tuple[Metrics, Health],
    opened: ExitStack,
) -> Page | None:
    """Serve health and metrics of the workers; with the evaluator among them, the page as well."""
    serve, page = settings.serve, None
    if serve.port is None:
        return None
    if EVALUATOR in names:
        page = opened.enter_context(closing(Page(settings, folder.path, pages(*observers))))
        url = page.url.rstrip("/")
    else:
        server = opened.enter_context(closing(serve_health(serve.host, serve.port, *observers)))
        url = server.url.rstrip("/")
    log.info("%s answers at %s/healthz and %s/metrics", ", ".join(names), url, url)
    return page


def _bring_up_to_date(
    metrics: Metrics,
    names: Sequence[str],
    logs: LogStore,
    begins: Mapping[int, int],
    opened: ExitStack,
) -> None:
    """Tell the metrics what the workers themselves do not report."""
    for name in names:
        if name != SOURCE:
            available = AvailableEvents(logs, name, begins)
            metrics.follow(name, opened.enter_context(closing(available)))
    if PRUNER in names:
        with closing(logs.reader(topics.LEDGER)) as ledger:
            metrics.remember(LedgerFollower(ledger).poll())
