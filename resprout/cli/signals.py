"""What surrounds a run or a worker: log messages and signals."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from types import FrameType

from resprout.monitoring.console import ProgressLine

ROOMS = ("stream", "learner", "pruner", "evaluator", "resprout")


class _Above(logging.Handler):
    """Prints log messages above the progress line."""

    def __init__(self, progress: ProgressLine) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        self._progress.message(self.format(record))


class JsonLines(logging.Formatter):
    """Writes each message as one line of JSON: time, level, logger, message, and any exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one message."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def logging_to(progress: ProgressLine) -> AbstractContextManager[None]:
    """Show what our rooms log while a run goes on, above its progress."""
    return _logging_by(_Above(progress))


def logging_lines(*, as_json: bool) -> AbstractContextManager[None]:
    """Show what our rooms log on standard error, a line each."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if as_json else plain)
    return _logging_by(handler)


@contextmanager
def _logging_by(handler: logging.Handler) -> Iterator[None]:
    loggers = [logging.getLogger(room) for room in ROOMS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _say(text: str) -> None:
    sys.stderr.write(f"\n{text}\n")


@contextmanager
def stoppable(say: Callable[[str], None] = _say) -> Iterator[threading.Event]:
    """Let Ctrl+C, or a polite kill, end the run after the batch; a second one ends it now."""
    stop = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()
        say("finishing the batch; once more leaves now")

    with _on_signal(end):
        yield stop


@contextmanager
def leaving() -> Iterator[None]:
    """Let Ctrl+C, or a polite kill, end at once what has not begun to work: exit code 0."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(0)

    with _on_signal(leave):
        yield


@contextmanager
def _on_signal(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
