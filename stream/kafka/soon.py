"""Doing at once what would else be done many times."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Soon:
    """Makes one call a while after it was asked for, however often it was, in a thread of its own.

    Parameters
    ----------
    call
        Raises nothing.
    seconds
        From the first time it is asked for.

    Examples
    --------
    >>> made = threading.Event()
    >>> soon = Soon(made.set, 0.01)
    >>> soon.ask()
    >>> made.wait(10)
    True
    >>> soon.close()
    """

    def __init__(self, call: Callable[[], None], seconds: float) -> None:
        self._call, self._seconds = call, seconds
        self._asked, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="soon", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have the call made."""
        if not self._asked.is_set():
            self._asked.set()

    def close(self) -> None:
        """Make no more calls; returns once one under way has been made."""
        self._closed.set()
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        while self._asked.wait() and not self._closed.wait(self._seconds):
            self._asked.clear()
            self._call()
