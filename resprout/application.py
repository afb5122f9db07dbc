"""The Python API: run everything over a state folder, and look at what came of it."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

from resprout import home
from resprout.folder import RunFolder
from resprout.health import Health, pages
from resprout.metrics import Known, Metrics
from resprout.page import Page
from resprout.plan import Plan
from resprout.progress import ProgressLogs
from resprout.result import Outcome, Records, Result
from resprout.runner import Observe, Runner
from resprout.settings import EVALUATOR, Settings
from resprout.summary import Cost
from resprout.threads import one_thread_each
from resprout.watch import Watch
from resprout.wiring import Wiring
from stream.source import Source


def run(
    settings: Settings,
    source: Source,
    *,
    state: Path | str | None = None,
    observe: Observe | None = None,
    init_from: Path | None = None,
) -> Result:
    """Learn from a source to its end: dense, sparse, prune worker and evaluator, a thread each.

    Parameters
    ----------
    settings
        All that the run depends on, beside its clicks.
    source
        Where the clicks come from.
    state
        A folder from which a run that was stopped or killed goes on, bit for bit. None: a
        temporary one, deleted at the end.
    observe
        Sees every step of every worker, in that worker's thread.
    init_from
        A safetensors state dict that the dense model begins with.
    """
    plan = Plan(settings, source, init_from)
    if state is not None:
        return execute(plan, Path(state), observe)
    with tempfile.TemporaryDirectory(prefix="resprout-") as folder:
        return execute(plan, Path(folder), observe)


def execute(
    plan: Plan,
    state: Path,
    observe: Observe | None = None,
    stop: threading.Event | None = None,
    *,
    show: bool = False,
) -> Result:
    """Run a plan in a state folder until it is done or ``stop`` is set.

    With ``show`` the live page is served where ``settings.serve`` says.

    Raises :class:`ValueError` where the folder was begun otherwise or the settings name something
    unknown, and :class:`stream.state.StateLockedError` where somebody else uses the folder.
    """
    folder = RunFolder(state)
    plan.check()
    with ExitStack() as opened:
        opened.enter_context(folder.lock())
        folder.begin(plan)
        logs = opened.enter_context(home.logs(plan.settings.stream, folder))
        wiring = opened.enter_context(Wiring(plan, folder, logs))
        workers = wiring.every()
        names = tuple(worker.name for worker in workers)
        metrics = Metrics(Known.of(plan.settings, names))
        health = Health(names, {"masks": wiring.away})
        progress = opened.enter_context(closing(ProgressLogs(logs, names, metrics.lag)))
        if show and plan.settings.serve.port is not None:
            page = opened.enter_context(Page(plan.settings, state, pages(metrics, health)))
            page.show(logs)
        looking_on: list[Observe] = [metrics, health, progress, *([observe] if observe else [])]
        watch = Watch(EVALUATOR, looking_on)
        started = time.monotonic()
        with one_thread_each():
            watched = [health.watched(metrics.timed(worker)) for worker in workers]
            finished = Runner(watched, watch, stop).run()
        cost = Cost(watch.events, time.monotonic() - started)
        models = {name: model.module for name, model in wiring.models.items()}
        outcome = Outcome(models, finished, cost)
        return Result(plan.settings, outcome, Records.read(logs))
