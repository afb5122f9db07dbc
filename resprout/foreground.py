"""What surrounds a run in the foreground: log messages and signals."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from resprout.console import Progress

ROOMS = ("stream", "learner", "pruner", "evaluator", "resprout")


class _Above(logging.Handler):
    """Prints log messages above the progress line."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        self._progress.message(self.format(record))


@contextmanager
def logging_to(progress: Progress) -> Iterator[None]:
    """Show what our rooms log while a run goes on."""
    handler = _Above(progress)
    loggers = [logging.getLogger(room) for room in ROOMS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Let Ctrl+C, or a polite kill, end the run after the batch; a second one ends it now."""
    stop = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()
        sys.stderr.write("\nfinishing the batch; once more leaves now\n")

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
