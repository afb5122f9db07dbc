"""A process that is killed again and again, and each time goes on: ``python -m ... STATE``.

Every life is a fork, so that torch is imported once. A life steps the workers one after the
other, in an order drawn from its number, until what it waits for has happened, and then kills
itself as ``kill -9`` does: nothing is closed, nothing is flushed. Lives of the kind ``threads``
run the application as it is, and are killed from outside at some moment, in the middle of
whatever is going on. The last life goes to the end. How each life ended goes to stdout, a line of
JSON each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from resprout.application import execute
from resprout.folder import RunFolder
from resprout.plan import Plan
from resprout.runner import Step
from resprout.wiring import PRUNER, Wiring
from stream.messages import Verdict
from tests.resprout.small import small

SETTINGS = small(
    stream__batch_events=100,
    stream__generator__events=24_050,
    stream__generator__drifts=[{"kind": "abrupt", "begin": 8_000, "every_events": 6_000}],
    learner__snapshot_events=1_000,
    learner__checkpoint_events=1_500,
    pruner__first_mask_events=4_000,
    pruner__rebuild_events=3_000,
    pruner__prune_events=1_500,
    pruner__judge_events=1_000,
    pruner__lead_events=1_000,
    pruner__checkpoint_events=700,
    trigger__window_events=1_000,
    trigger__every_events=3_000,
    evaluator__windows=[500, 1_000],
    evaluator__checkpoint_events=1_100,
)
PLAN = Plan.generated(SETTINGS)

Happened = Callable[[str, Step], bool]
"""Whether a step of a worker is what a life waits for."""


def anything(after: int) -> Happened:
    """Wait for so many steps of anybody."""
    left = iter(range(after, -1, -1))
    return lambda name, step: next(left) == 0


def inside_a_rebuild(after: int) -> Happened:
    """Wait for so many batches of a candidate."""
    left = iter(range(after, -1, -1))
    return lambda name, step: name == PRUNER and step.events > 0 and next(left) == 0


def a_promotion(_: int) -> Happened:
    """Wait for a verdict that the sparse models have not followed yet."""

    def happened(name: str, step: Step) -> bool:
        verdict: Verdict | None = getattr(step, "verdict", None)
        return verdict is not None and verdict.verdict == "promoted"

    return happened


KINDS: dict[str, Callable[[int], Happened]] = {
    "anything": anything,
    "rebuild": inside_a_rebuild,
    "promotion": a_promotion,
}
LIVES = [
    *["anything", "anything", "threads", "rebuild", "rebuild", "promotion", "anything"],
    *["rebuild", "rebuild", "threads", "promotion", "anything", "rebuild", "anything", "threads"],
    *["rebuild", "rebuild", "promotion", "anything", "threads", "the rest"],
]
"""What each life waits for, in order; 20 are killed, and the last one goes to the end."""


def live(state: Path, happened: Happened, seed: int) -> None:
    """Step workers until it has happened, then die; return if the run ends before."""
    folder, rng = RunFolder(state), random.Random(seed)
    with folder.lock():
        folder.begin(PLAN)
        with Wiring(PLAN, folder) as wiring:
            open_workers = list(wiring.workers)
            while open_workers:
                worker = rng.choice(open_workers)
                for _ in range(rng.randrange(1, 30)):
                    step = worker.step()
                    if happened(worker.name, step):
                        os.kill(os.getpid(), signal.SIGKILL)
                    if step.done:
                        worker.close()
                        open_workers.remove(worker)
                        break


def fork(child: Callable[[], None], kill_after: float | None = None) -> bool:
    """Let a child live, and say whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            child()
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a life ended by a fault of its own")
    return os.WIFSIGNALED(status)


def lives(state: Path) -> Iterator[tuple[str, bool]]:
    """Live one life after the other; of each its kind, and whether it was killed."""
    rng = random.Random(3)
    for number, kind in enumerate(LIVES):
        if kind == "the rest":
            yield kind, fork(partial(run, state))
        elif kind == "threads":
            yield kind, fork(partial(run, state), kill_after=rng.uniform(0.1, 0.5))
        else:
            happened = KINDS[kind](rng.randrange(3, 60) if kind == "anything" else rng.randrange(9))
            yield kind, fork(partial(live, state, happened, number))


def run(state: Path) -> None:
    """Run the application as it is."""
    execute(PLAN, state)


def main() -> None:
    """Live all lives on the state folder that is named."""
    for kind, killed in lives(Path(sys.argv[1])):
        sys.stdout.write(json.dumps({"kind": kind, "killed": killed}) + "\n")


if __name__ == "__main__":
    main()
