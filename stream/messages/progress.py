"""How workers are doing."""

from __future__ import annotations

from typing import Literal

from stream.messages.message import Message


class Progress(Message):
    """How a worker is doing by the wall clock; never read by any decision.

    Its copies in the log ``windows`` are not compared: what is published again has another time.
    """

    kind: Literal["progress"] = "progress"
    worker: str
    count: int
    """Events through which it has come."""
    events: int
    """Events that it has worked on since it started."""
    wall_seconds: float
    """Seconds since it started."""
    waiting_for: str | None
    time_ms: int
    """Unix time, milliseconds."""
    lag_events: int | None = None
    """Events that are there for the worker and that it has not come through; None where that is
    not known."""
    lag_seconds: float | None = None
    """Time since there were as many events as it has come through."""
    done: bool = False
    """The input has ended and all its work is done."""

    @property
    def key(self) -> str:
        """Kind, worker and time."""
        return f"progress/{self.worker}/{self.time_ms}"
