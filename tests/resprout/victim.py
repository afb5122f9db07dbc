"""A process that is killed in the middle of a run, at a moment that its own life names.

``SIGKILL`` from inside is ``kill -9``: nothing is closed, nothing is flushed, and whatever another
thread was about stays as it was.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import torch

from resprout.folder import RunFolder
from resprout.retention import Retention
from resprout.run import execute
from resprout.runner import Observe, Step
from resprout.settings import EVALUATOR
from resprout.spec import RunDefinition
from resprout.wiring import Wiring
from stream import open_logs

Moment = Callable[[str, Step], bool]
"""Whether the step of a worker is what a life waits for."""
How = Literal["threads", "turns", "call", "disk"]

DISK = frozenset(
    {"open", "write", "truncate", "ftruncate", "fsync", "fdatasync", "rename", "replace", "mkdir"}
    | {"rmdir", "unlink", "link"}
)
"""The calls by which a process changes what is on disk."""


@dataclass
class Scored:
    """The evaluator has scored so many events, and then a worker has done something.

    Where that worker has come to its end before, anybody.
    """

    count: int
    worker: str
    _there: bool = False
    _over: bool = False

    def __call__(self, name: str, step: Step) -> bool:
        self._there = self._there or (name == EVALUATOR and step.count >= self.count)
        self._over = self._over or (name == self.worker and step.done)
        return self._there and (self._over or (name == self.worker and step.events > 0))


@dataclass(frozen=True)
class Promoted:
    """The prune worker has promoted a candidate."""

    def __call__(self, name: str, step: Step) -> bool:
        verdict = getattr(step, "verdict", None)
        return verdict is not None and verdict.verdict == "promoted"


@dataclass(frozen=True)
class Buried:
    """The evaluator has written dead letters."""

    def __call__(self, name: str, step: Step) -> bool:
        return name == EVALUATOR and bool(getattr(step, "dead_letters", ()))


@dataclass(frozen=True)
class Life:
    """What a life waits for, and how it ends."""

    moment: Moment
    how: How
    """``threads``: the application as it is, killed by the thread whose step it was, whatever the
    others are about. ``turns``: the workers step one after the other, in an order drawn from
    ``seed``, and nobody is about anything. ``call``, ``disk``: the same, but the end comes inside
    one of the next steps, ``after`` so many calls, or calls that change what is on disk."""
    after: int = 0
    seed: int = 0
    trims: bool = False
    """Whether all that nobody needs is deleted from the logs after every step."""


def lived(plan: RunDefinition, state: Path, life: Life) -> bool:
    """Let a process live on a state folder, and say whether it was killed: else the run is over.

    It is forked from a server that has imported everything, and where nothing runs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=live, args=(plan, state, life))
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL), f"a life ended by a fault of its own: {code}"
    return code != 0


def live(plan: RunDefinition, state: Path, life: Life) -> None:
    """Live; return only if the run ends before the moment comes."""
    with trimming(plan, RunFolder(state)) if life.trims else nullcontext(_keep) as trim:

        def observe(name: str, step: Step) -> None:
            trim(name, step)
            if life.moment(name, step):
                die()

        if life.how == "threads":
            execute(plan, state, observe)
        else:
            torch.set_num_threads(1)
            in_turns(plan, state, life, trim)


def _keep(_: str, __: Step) -> None:
    """Delete nothing."""


@contextmanager
def trimming(plan: RunDefinition, folder: RunFolder) -> Iterator[Observe]:
    """Delete after every step that did something all that nobody needs."""
    one_at_a_time = threading.Lock()
    with (
        open_logs(plan.settings.stream, folder.home.folder) as logs,
        closing(Retention(plan, folder, logs)) as retention,
    ):

        def trim(_: str, step: Step) -> None:
            if step.events or step.done or getattr(step, "decided", None):
                with one_at_a_time:
                    retention.trim()

        yield trim


def in_turns(plan: RunDefinition, state: Path, life: Life, trim: Observe) -> None:
    """Step one worker after the other: one drawn, or of two drawn the one that is behind."""
    folder, rng = RunFolder(state), random.Random(life.seed)
    with folder.lock():
        folder.begin(plan)
        with closing(Wiring(plan, folder, folder.home, plan.workers)) as wiring:
            working = {worker: 0 for worker in wiring.workers()}
            while working:
                drawn = rng.sample(list(working), k=min(rng.choice((1, 2)), len(working)))
                worker = min(drawn, key=lambda one: working[one])
                for _ in range(rng.randrange(1, 20)):
                    step = worker.step()
                    working[worker] = step.count
                    trim(worker.name, step)
                    if life.moment(worker.name, step):
                        _end(life)
                    if step.done:
                        worker.close()
                        del working[worker]
                        break


def _end(life: Life) -> None:
    """Die, or see to it that it comes to that."""
    if life.how == "turns":
        die()
    left = life.after

    def count_down(_: FrameType, event: str, what: Any) -> None:
        nonlocal left
        disk = event == "c_call" and what.__name__ in DISK
        if disk or (life.how == "call" and event in ("call", "c_call")):
            left -= 1
            if left < 0:
                die()

    sys.setprofile(count_down)


def die() -> NoReturn:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody outlives that")
