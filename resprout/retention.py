"""What nobody needs any more is deleted from the logs of a run, while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import evaluator
import learner
from pruner import PrunerNeeds
from resprout.folder import RunFolder
from resprout.runner import Observe, Step
from resprout.settings import DENSE, EVALUATOR, PRUNER, SPARSE
from resprout.spec import RunDefinition
from stream import FIRST_CLICK, LogTrimmer, RestartPoint, RestartPoints, open_logs, topics
from stream.log import LogError, LogStore

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
"""Pause between two looks at what can be deleted."""


class Retention:
    """Deletes now and then what ``stream.retention`` does not keep, after a step of the evaluator.

    What is needed is read from the checkpoints and snapshots in the state folder, so it does not
    matter in which processes the workers run. Nothing that a worker does depends on when it is
    deleted.

    Parameters
    ----------
    plan
        What the whole run is to do.
    folder
        Where the workers keep their checkpoints and snapshots.
    logs
        Where the logs are; nobody else uses this store.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        plan: RunDefinition,
        folder: RunFolder,
        logs: LogStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings, spec = plan.settings, plan.spec
        self._folder, self._clock, self._due = folder, clock, clock() + EVERY_SECONDS
        self._models = set(settings.evaluator.models)
        # One that shares embeddings continues from the checkpoints of the dense model.
        self._without = {DENSE, PRUNER, EVALUATOR} | ({SPARSE} if plan.grafts else set())
        self._points: dict[str, RestartPoints] = {}
        self._of_evaluator = partial(evaluator.restart_point, settings.evaluator, spec)
        self._warned = False
        with ExitStack() as opened:
            ledger = opened.enter_context(closing(logs.reader(topics.LEDGER)))
            self._pruner = PrunerNeeds(ledger, folder.snapshots, spec.window_events)
            stream = settings.stream
            self._trimmer = LogTrimmer(logs, stream.retention, stream.deduplicate_events)
            opened.callback(self._trimmer.close)
            self._opened = opened.pop_all()

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        if name != EVALUATOR or (self._clock() < self._due and not step.done):
            return
        try:
            self.trim()
            self._warned = False
        except (OSError, ValueError, LogError) as error:
            if not self._warned:
                log.warning("nothing is deleted from the logs for now: %s", error)
            self._warned = True
        self._due = self._clock() + EVERY_SECONDS

    def trim(self) -> dict[tuple[str, int], int]:
        """Delete at once; return, by log and partition, where those begin that lost any."""
        points = self._restart_points()
        windows_after = min(one.windows_after for one in points if one.windows_after is not None)
        return self._trimmer.trim(self._trimmer.needed(points), windows_after)

    def close(self) -> None:
        """Release the logs."""
        self._opened.close()

    def _restart_points(self) -> list[RestartPoint]:
        """Return all places from which a worker may continue.

        A model that begins with the first mask reads from there on. Before that, the clicks are
        needed for making it.
        """
        points = self._of_learner(DENSE, RestartPoint([FIRST_CLICK]))
        points.append(self._pruner.poll())
        first = self._pruner.first
        begins = RestartPoint([first]) if first is not None else RestartPoint()
        there = {path.name for path in self._folder.checkpoints(DENSE).folder.parent.glob("*")}
        for model in sorted((self._models | there) - self._without):
            points += self._of_learner(model, begins)
        kept = self._folder.checkpoints(EVALUATOR)
        scoring = self._points.setdefault(EVALUATOR, RestartPoints(kept, self._of_evaluator))
        return points + scoring.poll(self._of_evaluator())

    def _of_learner(self, model: str, begin: RestartPoint) -> list[RestartPoint]:
        kept = RestartPoints(self._folder.checkpoints(model), learner.restart_point)
        counts = {topics.predictions(model): min((one.count for one in begin.clicks), default=0)}
        return self._points.setdefault(model, kept).poll(RestartPoint(begin.clicks, counts=counts))


@contextmanager
def retention(plan: RunDefinition, folder: RunFolder) -> Iterator[Observe]:
    """Make the observer that deletes what a run does not keep."""
    stream = plan.settings.stream
    if not stream.trims:
        yield lambda _, __: None
        return
    # A store of its own: what it reads says nothing about how far the evaluator has come.
    with (
        open_logs(stream, folder.home.folder) as logs,
        closing(Retention(plan, folder, logs)) as made,
    ):
        yield made
