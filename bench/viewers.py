"""What does looking on cost the loop? Events/s without the page, and with it and viewers.

``python -m bench.viewers`` runs the whole loop over the same generated clicks in turns: without a
page, and with the page and five viewers (``bench/onlookers.py``, a process of its own). The ratio
is taken within a round, and its median over the rounds is told; which of the two goes first
alternates. Beside it stands the share of the CPU time of the process that the page's own threads
took, which those who share the machine cannot move much. ``--events`` is a multiple of 200 000. It
writes ``bench/results/viewers.json``; ``--json`` prints the result as the last line.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.demo import RESULTS, Goal, machine
from bench.pipeline import settings_for
from resprout.run import execute
from resprout.runner import Step
from resprout.settings import ServeConfig, Settings
from resprout.spec import RunDefinition

VIEWERS = 5
GOAL = 0.97
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Took:
    """One run."""

    events_per_second: float
    page_share: float
    """Of the CPU time of the process, what the page's own threads took."""


@dataclass(frozen=True, slots=True)
class Round:
    """The same run without and with viewers."""

    alone: Took
    watched: Took
    messages: int
    """That reached the viewers, all together."""

    @property
    def ratio(self) -> float:
        """Of the rate with viewers to that without."""
        return self.watched.events_per_second / self.alone.events_per_second


class Address(logging.Handler):
    """Learns from the log where the page is."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.url = ""
        self.known = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one message."""
        _, found, url = record.getMessage().partition("the page is at ")
        if found:
            self.url = url
            self.known.set()


@contextmanager
def listening() -> Iterator[Address]:
    """Listen to the log."""
    address, logger = Address(), logging.getLogger("resprout.monitoring.page")
    logger.addHandler(address)
    logger.setLevel(logging.INFO)
    try:
        yield address
    finally:
        logger.removeHandler(address)


class PageTime:
    """Notes now and then the CPU time of the threads that serve the page, while they live."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._looked = 0.0

    def __call__(self, name: str, step: Step) -> None:
        """Look, as a worker makes a step."""
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for thread in threading.enumerate():
            if thread.ident and (thread.name == "page" or thread.name.startswith("asyncio_")):
                clock = time.pthread_getcpuclockid(thread.ident)
                self._seconds[thread.ident] = time.clock_gettime(clock)

    @property
    def seconds(self) -> float:
        """Of all of them together."""
        return sum(self._seconds.values())


def run(settings: Settings, *, show: bool) -> Took:
    """Run the whole loop."""
    started, page = time.process_time(), PageTime()
    with tempfile.TemporaryDirectory() as folder:
        result = execute(RunDefinition.generated(settings), Path(folder), page, show=show)
    share = page.seconds / (time.process_time() - started)
    return Took(result.summary.events_per_second, share)


def watched(settings: Settings) -> tuple[Took, int]:
    """Run it while others look on; return the messages that they saw, too."""
    found: list[str] = []

    def look_on(address: Address) -> None:
        address.known.wait()
        command = [sys.executable, "-m", "bench.onlookers", address.url, str(VIEWERS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(done.stdout)

    with listening() as address:
        looking = threading.Thread(target=look_on, args=(address,))
        looking.start()
        took = run(settings, show=True)
        looking.join()
    return took, int(found[0])


def measure(settings: Settings, rounds: int) -> Iterator[Round]:
    """Run with and without viewers in turns."""
    for number in range(rounds):
        if number % 2:
            with_viewers, messages = watched(settings)
            alone = run(settings, show=False)
        else:
            alone = run(settings, show=False)
            with_viewers, messages = watched(settings)
        found = Round(alone, with_viewers, messages)
        print(
            f"round {number + 1}  alone {alone.events_per_second:>9,.0f}  with {VIEWERS} viewers "
            f"{with_viewers.events_per_second:>9,.0f} events/s  {found.ratio:.3f}  page "
            f"{with_viewers.page_share:.2%} of the CPU time  {messages} messages seen",
            flush=True,
        )
        yield found


def goal_of(found: Sequence[Round]) -> Goal:
    """Say what is promised, and what came of it."""
    ratio = median(one.ratio for one in found)
    name = f"events/s with {VIEWERS} viewers, of those without"
    return Goal(name, ratio, f">= {GOAL}", ratio >= GOAL)


def main() -> None:
    """Measure, or be the viewers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the result as the last line")
    asked = parser.parse_args()
    settings = settings_for(asked.events, "columnar")
    settings = settings.model_copy(update={"serve": ServeConfig(port=0)})
    found = list(measure(settings, asked.rounds))
    goal = goal_of(found)
    share = median(one.watched.page_share for one in found)
    print(f"{goal.name}: {goal.value:.3f}, promised {goal.goal}; page {share:.2%} of the CPU time")
    result = {
        "bench": "viewers",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": 0,
        "events": asked.events,
        "rows": [{**asdict(one), "ratio": one.ratio} for one in found],
        "page_share": share,
        "goals": [asdict(goal)],
    }
    (RESULTS / "viewers.json").write_text(json.dumps(result, indent=1) + "\n")
    if asked.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
