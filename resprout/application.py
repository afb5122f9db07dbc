"""The Python API: run everything over a state folder, and look at what came of it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch

from resprout.folder import RunFolder
from resprout.plan import Plan
from resprout.progress import ProgressLogs
from resprout.result import Outcome, Records, Result
from resprout.runner import Observe, Runner, Step
from resprout.settings import Settings
from resprout.summary import Cost
from resprout.wiring import EVALUATOR, Wiring
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
) -> Result:
    """Run a plan in a state folder until it is done or ``stop`` is set.

    Raises :class:`ValueError` where the folder was begun otherwise or the settings name something
    unknown, and :class:`stream.state.StateLockedError` where somebody else uses the folder.
    """
    folder = RunFolder(state)
    plan.check()
    with ExitStack() as opened:
        opened.enter_context(folder.lock())
        folder.begin(plan)
        wiring = opened.enter_context(Wiring(plan, folder))
        names = tuple(worker.name for worker in wiring.workers)
        logs = opened.enter_context(closing(ProgressLogs(folder.home, names)))
        watch = _Watch(logs, observe)
        started = time.monotonic()
        with _one_thread_each():
            finished = Runner(wiring.workers, watch, stop).run()
        cost = Cost(watch.events, time.monotonic() - started)
        models = {name: model.module for name, model in wiring.models.items()}
        outcome = Outcome(models, finished, cost)
    return Result(plan.settings, outcome, Records.read(folder.home))


def feed_all(plan: Plan, state: Path, stop: threading.Event) -> int:
    """Write clicks into the log of a state folder until their end or a stop; return how many."""
    folder, events = RunFolder(state), 0
    with folder.lock(), closing(plan.source.attach(folder.home)) as feed:
        while not stop.is_set() and (step := feed.step()) is not None:
            events += step
    return events


class _Watch:
    """Counts what this process scores, and passes every step on."""

    def __init__(self, logs: ProgressLogs, observe: Observe | None) -> None:
        self.events = 0
        self._logs = logs
        self._observe = observe

    def __call__(self, name: str, step: Step) -> None:
        if name == EVALUATOR:
            self.events += step.events
        self._logs(name, step)
        if self._observe is not None:
            self._observe(name, step)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let torch split no operation: workers are threads already, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
