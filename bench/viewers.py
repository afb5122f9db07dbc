"""What does looking on cost the loop? Events/s without the page, and with it and viewers.

``python -m bench.viewers`` runs the whole loop over the same generated clicks in turns: without a
page, and with the page and five viewers (``bench/onlookers.py``, a process of its own). The ratio
is taken within a round, and its median over the rounds is told; which of the two goes first
alternates. ``--events`` is a multiple of 200 000. ``--json`` prints the result as the last line.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import threading
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
class Round:
    """One round, in events a second."""

    alone: float
    watched: float
    messages: int
    """That reached the viewers, all together."""

    @property
    def ratio(self) -> float:
        """Of the rate with viewers to that without."""
        return self.watched / self.alone


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


def rate(settings: Settings, *, show: bool) -> float:
    """Run the whole loop, and return its events a second."""
    with tempfile.TemporaryDirectory() as folder:
        result = execute(Plan.generated(settings), Path(folder), show=show)
    return result.summary.events_per_second


def watched(settings: Settings) -> tuple[float, int]:
    """Run it while others look on; return events a second, and the messages that they saw."""
    found: list[str] = []

    def look_on(address: Address) -> None:
        address.known.wait()
        command = [sys.executable, "-m", "bench.onlookers", address.url, str(VIEWERS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(done.stdout)

    with listening() as address:
        looking = threading.Thread(target=look_on, args=(address,))
        looking.start()
        reached = rate(settings, show=True)
        looking.join()
    return reached, int(found[0])


def measure(settings: Settings, rounds: int) -> Iterator[Round]:
    """Run with and without viewers in turns."""
    for number in range(rounds):
        if number % 2:
            reached, messages = watched(settings)
            alone = rate(settings, show=False)
        else:
            alone = rate(settings, show=False)
            reached, messages = watched(settings)
        found = Round(alone, reached, messages)
        print(
            f"round {number + 1}  alone {alone:>9,.0f}  with {VIEWERS} viewers {reached:>9,.0f} "
            f"events/s  {found.ratio:.3f}  {messages} messages seen",
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
    print(f"{goal.name}: {goal.value:.3f}, promised {goal.goal}")
    if asked.json:
        result = {
            "bench": "viewers",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "seed": 0,
            "events": asked.events,
            "rows": [{**asdict(one), "ratio": one.ratio} for one in found],
            "goals": [asdict(goal)],
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
