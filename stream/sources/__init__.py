"""Where clicks come from: a source is attached to the logs, and its feed is stepped."""

from __future__ import annotations

from typing import Protocol

from stream.log import LogStore
from stream.schema import FeatureSchema


class Feed(Protocol):
    """A source at work: it appends to ``clicks``, from where that log ends."""

    def step(self) -> int | None:
        """Append the next chunk and return its events; None once the input has ended.

        The end record is written once, whatever the restarts.
        """

    def flush(self) -> None:
        """Return once all that was appended survives a crash."""

    def close(self) -> None:
        """Flush, and let the next writer in."""


class Source(Protocol):
    """A generator, a file, or anything else that makes clicks of one schema."""

    @property
    def schema(self) -> FeatureSchema:
        """How its events are encoded."""

    def attach(self, home: LogStore) -> Feed:
        """Begin where the ``clicks`` log of ``home`` ends."""
