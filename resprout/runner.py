"""Runs the workers of a process, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol

import torch

from stream import Waiting

log = logging.getLogger(__name__)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep torch from splitting operations: workers are threads, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SHORTEST_PAUSE, LONGEST_PAUSE = 0.004, 0.064
"""Seconds that a worker pauses when it found nothing to do, doubling while it finds nothing: each
look takes time from the workers that are busy."""


class Step(Protocol):
    """What every worker reports of a step: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def count(self) -> int:
        """Valid events that it has processed since the start of the run."""

    @property
    def events(self) -> int:
        """Events of this step; with 0 it found nothing to do, and is stepped again later."""

    @property
    def waiting_for(self) -> Waiting | None:
        """What it waits for, where it found nothing to do."""

    @property
    def done(self) -> bool:
        """Whether the input has ended and all its work is done."""


Observe = Callable[[str, Step], None]
"""Receives the name of a worker and each of its steps, in that worker's thread; what it raises
ends that worker as a fault of its own would."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of any room."""

    name: str
    step: Callable[[], Step]
    """Do at most one batch, and never wait."""
    close: Callable[[], None]
    """Put what has been done on disk; not called for a worker that failed."""


class Runner:
    """Steps all workers until they are done, one fails or somebody wants to stop.

    Parameters
    ----------
    workers
        The workers, each stepped in a thread of its own.
    observe
        Called after every step.
    stop
        Set by anybody to end the run: every worker finishes its step and closes.
    expendable
        Names of workers whose fault does not stop the others.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        observe: Observe | None = None,
        stop: threading.Event | None = None,
        expendable: Collection[str] = (),
    ) -> None:
        self._workers, self._expendable = workers, expendable
        self._observe = observe or (lambda name, step: None)
        self._stop = stop or threading.Event()
        self._failures: list[BaseException] = []
        self._done: set[str] = set()

    def run(self) -> bool:
        """Run to the end, and say whether all workers are done.

        The first fault of a worker stops all, but for that of one that is expendable; it is raised
        here at the end, with a note naming the worker.
        """
        threads = [
            threading.Thread(target=self._drive, args=(worker,), name=worker.name)
            for worker in self._workers
        ]
        for thread in threads:
            thread.start()
        try:
            _wait_for(threads)
        except BaseException:
            self._stop.set()
            _wait_for(threads)
            raise
        if self._failures:
            raise self._failures[0]
        return len(self._done) == len(self._workers)

    def _drive(self, worker: Worker) -> None:
        pause = SHORTEST_PAUSE
        try:
            while not self._stop.is_set() and worker.name not in self._done:
                step = worker.step()
                self._observe(worker.name, step)
                if step.done:
                    self._done.add(worker.name)
                elif step.events:
                    pause = SHORTEST_PAUSE
                else:
                    self._stop.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            worker.close()
        except BaseException as error:
            error.add_note(f"in worker {worker.name!r}")
            self._failures.append(error)
            if worker.name in self._expendable:
                log.error("%s failed, the others continue: %s", worker.name, error)
            else:
                self._stop.set()


def _wait_for(threads: Sequence[threading.Thread]) -> None:
    """Wait in short turns, so that a signal is handled while waiting."""
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
