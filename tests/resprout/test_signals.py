from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from resprout.cli.options import leaving, logging_lines, logging_to, stoppable
from resprout.monitoring.console import ProgressLine

TWICE = """
import os, signal, time
from resprout.cli.options import stoppable
with stoppable():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""

WITHIN_A_CALLBACK = """
import signal, weakref
from resprout.cli.options import leaving, stoppable

class Anything:
    pass

def interrupt(_):
    signal.raise_signal(signal.SIGTERM)
    print("not reached")

anything = Anything()
reference = weakref.ref(anything, interrupt)
with leaving() as stop:
    del anything
    with stoppable(print, stop) as asked:
        print("asked to stop:", asked.is_set())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_work_begins_a_signal_ends_at_once(number: int) -> None:
    with pytest.raises(SystemExit) as ended, leaving():
        signal.raise_signal(number)
    assert ended.value.code == 0


def test_a_signal_whose_exception_python_drops_still_asks_to_stop() -> None:
    process = subprocess.run(
        [sys.executable, "-c", WITHIN_A_CALLBACK], capture_output=True, text=True
    )
    assert "Exception ignored" in process.stderr
    assert (process.returncode, process.stdout) == (0, "asked to stop: True\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with stoppable() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(10)
    assert signal.getsignal(number) is before
    assert "finishing the batch; once more leaves now" in capsys.readouterr().err


def test_a_second_signal_leaves_now() -> None:
    process = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (1, "")


def test_what_our_rooms_log_stands_among_the_progress() -> None:
    out = io.StringIO()
    with logging_to(ProgressLine(out)):
        logging.getLogger("pruner.worker").info("rebuild %d promoted", 2)
        logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("pruner.worker").info("after")
    assert out.getvalue() == "rebuild 2 promoted\n"


def test_lines_of_json_can_be_read_by_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pruner.worker")
    with logging_lines(as_json=True):
        logger.info('rebuild %d "promoted"', 2)
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("failed")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (first["level"], first["logger"]) == ("info", "pruner.worker")
    assert first["message"] == 'rebuild 2 "promoted"'
    assert first["time"].endswith("+00:00")
    assert "ValueError: two\nlines" in second["exception"]


def test_plain_lines_bear_time_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_lines(as_json=False):
        logging.getLogger("stream.log").warning("cut a torn tail of %d bytes", 7)
    said = capsys.readouterr().err
    assert said.endswith(" WARNING cut a torn tail of 7 bytes\n")
