"""The settings of the stream: where the logs are, how clicks are made, cut and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stream import plugins
from stream.log.api import KafkaConfig, LogStore
from stream.log.local import LocalLogStore
from stream.sources import Source
from stream.sources.generator import GeneratorSource
from stream.sources.truth import GeneratorConfig
from stream.start_position import StartPosition, parse_start_position


class RetentionConfig(BaseModel):
    """What the logs keep; what they do not keep is deleted once no worker needs it.

    The ledger, the requests and the dead letters are always kept whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clicks: Literal["needed", "all"] = "needed"
    """Of the clicks what a worker may still read, or all of them."""
    predictions: Literal["needed", "all"] = "needed"
    """The same of the predictions of every model."""
    truth: Literal["needed", "all"] = "needed"
    """The same of the true probabilities of a synthetic stream."""
    recent_seconds: float = Field(default=0, ge=0)
    """Of these three logs what is at most so much older, by event time, than their newest record is
    kept too, though no worker may read it."""
    windows_events: int | None = Field(default=None, gt=0)
    """Of the log ``windows``, which page and report are made of, the windows of so many last
    events; None: all of them."""
    progress_records: int = Field(default=1_000, gt=0)
    """Records of the progress of each worker."""


class StreamConfig(BaseModel):
    """Where the logs are, how clicks are made and cut into batches, and what is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: str = "embedded"
    """Where the logs are: ``embedded`` in the state folder, ``kafka`` on a broker, or a name from
    the entry-point group ``resprout.logs``."""
    home_options: dict[str, Any] = {}
    """For a home from that group."""
    batch_events: int = Field(default=500, gt=0)
    """Events a batch, for all models: whatever is counted in events is a multiple of it."""
    ahead_events: int = Field(default=20_000, gt=0)
    """How far the source may run ahead of the dense learner in its own process."""
    max_lead_events: int = Field(default=1_000_000, ge=0)
    """How far a source in a process of its own may be ahead of the slowest worker that has begun,
    or of the first event where dense has not; it then waits. 0: as far as it likes."""
    max_invalid_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of invalid events above which a run stops, once there were a thousand events; 1: it
    never does."""
    begin: StartPosition | None = None
    """Where a run starts in clicks that another process writes: a time with its zone, or an offset
    for each partition; null: with the first event."""
    ends: tuple[str, ...] | None = None
    """Of clicks that another process writes, whose end records end the input: those with one of
    these values in their header ``source``; []: none does. Null: all but those whose headers name a
    generator or schema that this run does not have."""
    deduplicate_events: int = Field(default=0, ge=0, le=1_000_000)
    """How many offsets before a JSON event its ``event_id`` is looked for in its partition; found,
    the event is a dead letter of the reason ``duplicate``. 0: it is not looked for."""
    source: str = "generator"
    """What makes the clicks, where no file is given: ``generator``, or a name from the entry-point
    group ``resprout.sources``."""
    source_options: dict[str, Any] = {}
    """For a source from that group."""
    generator: GeneratorConfig = GeneratorConfig()
    """The synthetic stream of the source ``generator``."""
    kafka: KafkaConfig = KafkaConfig()
    """The broker, where it has the logs."""
    retention: RetentionConfig = RetentionConfig()
    """What the logs keep."""

    @property
    def trims(self) -> bool:
        """Whether logs are trimmed: on a broker only where that is allowed."""
        return self.home != "kafka" or self.kafka.allow_trim

    @field_validator("begin", mode="before")
    @classmethod
    def _begin(cls, given: object) -> StartPosition | None:
        return parse_start_position(given)

    @property
    def logs_in_folder(self) -> bool:
        """Whether the logs are a part of the state folder.

        Then they are deleted with it, a command that only looks may make an empty one, and nobody
        but this run writes clicks into them.

        >>> StreamConfig().logs_in_folder, StreamConfig(home="kafka").logs_in_folder
        (True, False)
        """
        return bool(getattr(plugins.find(_LOGS, _STORES, self.home), "in_folder", False))

    @property
    def logs_described(self) -> str:
        """Where the logs are, in words; the name of the home where its opener does not say.

        >>> StreamConfig().logs_described, StreamConfig(home="kafka").logs_described
        ('embedded', 'at Kafka localhost:9092')
        """
        describe = getattr(plugins.find(_LOGS, _STORES, self.home), "describe", None)
        return str(describe(self)) if describe else self.home

    @model_validator(mode="after")
    def _known(self) -> Self:
        for setting, group, ours, options in (
            ("home", _LOGS, _STORES, self.home_options),
            ("source", _SOURCES, _GENERATED, self.source_options),
        ):
            name = getattr(self, setting)
            plugins.find(group, ours, name)
            if options and name in ours:
                raise ValueError(f"{setting}_options are not for {name!r}; remove them")
        return self


_LOGS: Final = "resprout.logs"
_SOURCES: Final = "resprout.sources"
OpenLogs = Callable[[StreamConfig, Path, str | None, bool], LogStore]
"""What an entry point of ``resprout.logs`` names: ``open(config, folder, worker, writable)``, as of
:func:`open_logs`. Where the logs are a part of the folder, its attribute ``in_folder`` is true; see
:attr:`StreamConfig.logs_in_folder`. If it has an attribute ``describe``, that is called with the
settings, and says in words where the logs are, before they are opened."""
MakeSource = Callable[[Mapping[str, Any], int], Source]
"""What an entry point of ``resprout.sources`` names: ``make(source_options, seed)``."""


class _Embedded:
    in_folder = True

    def __call__(
        self, _: StreamConfig, folder: Path, __: str | None, writable: bool, /
    ) -> LogStore:
        return LocalLogStore(folder, writable)


class _Kafka:
    def __call__(
        self, config: StreamConfig, _: Path, worker: str | None, writable: bool, /
    ) -> LogStore:
        # The client is loaded only by those who use it.
        from stream.log.kafka.store import KafkaLogStore

        return KafkaLogStore(config.kafka, worker, writable=writable)

    def describe(self, config: StreamConfig) -> str:
        return f"at Kafka {config.kafka.bootstrap}"


_STORES: dict[str, OpenLogs] = {"embedded": _Embedded(), "kafka": _Kafka()}
_GENERATED = {"generator": GeneratorSource}


@contextmanager
def open_logs(
    config: StreamConfig, folder: Path, worker: str | None = None, *, writable: bool = True
) -> Iterator[LogStore]:
    """Open the store that holds the logs of a run, and close it at the end of the block.

    Parameters
    ----------
    config
        Says which store it is.
    folder
        The folder of embedded logs.
    worker
        The worker under whose name lag monitors see on a broker how far the logs have been read;
        None: they see nothing.
    writable
        Whether a log that is not there is made when it is opened, or refused by its name.

    Examples
    --------
    >>> import tempfile
    >>> with open_logs(StreamConfig(), Path(tempfile.mkdtemp()), writable=False) as logs:
    ...     logs.exists("clicks")
    False
    """
    opened: OpenLogs = plugins.find(_LOGS, _STORES, config.home)
    with closing(opened(config, folder, worker, writable)) as store:
        yield store


def make_source(config: StreamConfig, seed: int) -> Source:
    """Make the source of clicks that the settings name.

    >>> make_source(StreamConfig(generator={"numeric": 5}), seed=0).schema.numeric_count
    5
    """
    if config.source in _GENERATED:
        return GeneratorSource(config.generator, seed)
    make: MakeSource = plugins.find(_SOURCES, {}, config.source)
    return make(config.source_options, seed)
