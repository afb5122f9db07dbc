from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys

import pytest

from resprout.console import Progress
from resprout.foreground import logging_to, stoppable

TWICE = """
import os, signal, time
from resprout.foreground import stoppable
with stoppable():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""


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
    with logging_to(Progress(out)):
        logging.getLogger("pruner.worker").info("rebuild %d promoted", 2)
        logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("pruner.worker").info("after")
    assert out.getvalue() == "rebuild 2 promoted\n"
