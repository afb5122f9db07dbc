"""Where clicks come from: a source is attached to a store of logs, and its feed appends to them.

``files``      replay of files, and of standard input
``inference``  a schema proposed from a sample of rows, and how many rows fit one
``tables``     the rows of CSV, TSV, JSON Lines or Parquet, with their lines
``generator``  a synthetic stream that drifts, and its truth
``truth``      the settings of that stream, and the world that its events are drawn from
``drift``      the kinds of drift

A further source is a :class:`Source` that an entry point of ``resprout.sources`` makes; a further
kind of drift is a :class:`Drift` that an entry point of ``resprout.drifts`` names.
"""

from __future__ import annotations

from typing import Protocol

from stream.log.api import LogStore
from stream.schema import FeatureSchema
from stream.sources.drift import Drift, World
from stream.sources.files import FileSource
from stream.sources.generator import GeneratorFeed, GeneratorSource
from stream.sources.inference import Fit, check_fit, propose_schema, take_sample, written_share
from stream.sources.truth import GeneratorConfig

__all__ = ["Drift", "Feed", "FileSource", "GeneratorConfig", "GeneratorFeed", "GeneratorSource"]
__all__ += ["Fit", "Source", "World", "check_fit", "propose_schema", "take_sample", "written_share"]


class Feed(Protocol):
    """A source at work: it appends to ``clicks``, from where that log ends."""

    def step(self) -> int | None:
        """Append the next chunk and return its events; None once the input has ended.

        The end record is written once, however often the source is attached.
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

    def attach(self, store: LogStore, /) -> Feed:
        """Return a feed that continues where the ``clicks`` log of the store ends."""
