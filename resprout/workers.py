"""One worker as a process of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pruner import LedgerFollower
from resprout.folder import RunFolder
from resprout.monitoring.health import Health, pages, serve_health
from resprout.monitoring.metrics import Known, Metrics
from resprout.monitoring.page import Page
from resprout.monitoring.progress import AvailableEvents, ProgressLogs, Waits, Watch, name_writer
from resprout.retention import retention
from resprout.runner import Observe, Runner, Worker, one_thread_each
from resprout.settings import EVALUATOR, PRUNER, SOURCE, Settings
from resprout.spec import ExternalSource, RunDefinition
from resprout.wiring import SourceStep, Wiring
from stream import Waiting, open_logs, topics
from stream.log import LogStore
from stream.sources import FileSource

log = logging.getLogger(__name__)


def check(plan: RunDefinition, folder: RunFolder) -> None:
    """See, before anything is opened, that a plan can be carried out in a folder.

    Of a file that is only replayed nothing matters but its schema: who learns from it has its own
    settings.
    """
    plan.check()
    folder.check(plan, "schema" if isinstance(plan.source, FileSource) else "")


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """What a process did."""

    events: int
    finished: bool
    """False if it was stopped before the end of its input."""
    logs: str
    """Where the logs are, in words."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker with everything that it needs, ready to work."""

    worker: Worker
    watch: Watch
    logs: str
    """Where the logs are, in words."""

    def work(self, stop: threading.Event) -> WorkerOutcome:
        """Work until the input has ended, or ``stop`` is set.

        A stop comes after the batch: what was published is flushed, and where it stands is kept.
        """
        finished = Runner([self.worker], self.watch, stop).run()
        return WorkerOutcome(self.watch.events, finished, self.logs)


@contextmanager
def posted(plan: RunDefinition, state: Path, name: str) -> Iterator[WorkerProcess]:
    """Open all that one worker of a run needs, and let others see how it is.

    Several processes share a state folder, each as another worker.

    Parameters
    ----------
    plan
        What the whole run is to do.
    state
        The state folder.
    name
        Of the worker.

    Raises
    ------
    ValueError
        If the folder was begun otherwise, or the settings name something unknown.
    stream.state.StateLockedError
        If somebody else is this worker, or runs all workers in this folder.
    """
    folder, settings = RunFolder(state), plan.settings
    plan.check()
    with ExitStack() as opened:
        opened.enter_context(closing(folder.lock_worker(name)))
        if isinstance(plan.source, FileSource):
            check(plan, folder)
        else:
            folder.begin(plan)
        made: list[Wiring] = []
        health = Health([name], {"masks": lambda: made[0].away() if made else None})
        health(name, SourceStep(0, waiting_for=Waiting("", "its logs and its checkpoint")))
        metrics = Metrics(Known.of(settings, [name]))
        page = _answer(name, settings, folder, (metrics, health), opened)
        logs = opened.enter_context(open_logs(settings.stream, folder.home.folder, name))
        if page is not None:
            page.show(logs)
            opened.callback(page.close)
        opened.enter_context(one_thread_each())
        made.append(opened.enter_context(closing(Wiring(plan, folder, logs))))
        _bring_up_to_date(metrics, name, logs, made[0].begins, opened)
        worker = health.watched(metrics.timed(made[0].one(name)))
        progress = opened.enter_context(closing(ProgressLogs(logs, (name,), metrics.lag)))
        # The others are processes of their own: say which of them to look at.
        tell = partial(name_writer, external_clicks=isinstance(plan.source, ExternalSource))
        observers: list[Observe] = [health, metrics, progress, Waits()]
        if name == EVALUATOR:
            observers.append(opened.enter_context(retention(plan, folder)))
        watch = Watch(name, observers, tell)
        yield WorkerProcess(worker, watch, logs.describe())


def _answer(
    name: str,
    settings: Settings,
    folder: RunFolder,
    told: tuple[Metrics, Health],
    opened: ExitStack,
) -> Page | None:
    """Answer those who ask how a worker is; the evaluator shows them the page, too."""
    if settings.serve.port is None:
        return None
    if name != EVALUATOR:
        address = settings.serve.host, settings.serve.port
        url = opened.enter_context(closing(serve_health(*address, *told))).url
        log.info("%s answers at %shealthz and %smetrics", name, url, url)
        return None
    page = opened.enter_context(closing(Page(settings, folder.path, pages(*told))))
    url = page.url.rstrip("/")
    log.info("%s answers at %s/healthz and %s/metrics", name, url, url)
    return page


def _bring_up_to_date(
    metrics: Metrics, name: str, logs: LogStore, begins: Mapping[int, int], opened: ExitStack
) -> None:
    """Tell the metrics what the worker itself does not report."""
    if name != SOURCE:
        metrics.follow(name, opened.enter_context(closing(AvailableEvents(logs, name, begins))))
    if name == PRUNER:
        with closing(logs.reader(topics.LEDGER)) as ledger:
            metrics.remember(LedgerFollower(ledger).poll())
