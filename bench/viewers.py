"""What does looking on cost the loop? Events/s without the page, and with it and viewers.

``python -m bench.viewers`` runs the whole loop over the same generated clicks in turns: without a
page, and with the page and five viewers (``bench/onlookers.py``, a process of its own). The ratio
is taken within a round, and its median over the rounds is told; which of the two goes first
alternates. Beside it stands the same ratio of the CPU time of the process, which those who share
the machine move less. ``--events`` is a multiple of 200 000. ``--json`` prints the result as the
last line.
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

from bench.demo import Goal, machine
from bench.pipeline import settings_for
from resprout.application import execute
from resprout.plan import Plan
from resprout.settings import ServeConfig, Settings

VIEWERS = 5
GOAL = 0.97


@dataclass(frozen=True, slots=True)
class Took:
    """One run."""

    events_per_second: float
    cpu_seconds: float
    """Of the process: the loop and the server, not the viewers."""


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

    @property
    def cpu_ratio(self) -> float:
        """Of the CPU time without viewers to that with them."""
        return self.alone.cpu_seconds / self.watched.cpu_seconds


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
    address, logger = Address(), logging.getLogger("resprout.page")
    logger.addHandler(address)
    logger.setLevel(logging.INFO)
    try:
        yield address
    finally:
        logger.removeHandler(address)


def run(settings: Settings, *, show: bool) -> Took:
    """Run the whole loop."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = execute(Plan.generated(settings), Path(folder), show=show)
    return Took(result.summary.events_per_second, time.process_time() - started)


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
            f"{with_viewers.events_per_second:>9,.0f} events/s  {found.ratio:.3f}  by CPU time "
            f"{found.cpu_ratio:.3f}  {messages} messages seen",
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
    by_cpu = median(one.cpu_ratio for one in found)
    print(f"{goal.name}: {goal.value:.3f}, promised {goal.goal}; by CPU time {by_cpu:.3f}")
    if asked.json:
        result = {
            "bench": "viewers",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "seed": 0,
            "events": asked.events,
            "rows": [
                {**asdict(one), "ratio": one.ratio, "cpu_ratio": one.cpu_ratio} for one in found
            ],
            "goals": [asdict(goal)],
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
