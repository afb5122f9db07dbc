"""What commands share: options, gathered into one request; exit codes, log messages and signals."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from glob import has_magic
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from learner import NonFiniteError, SnapshotError
from pruner.masks import StoreError
from resprout.folder import RECORD, RunFolder, last_run
from resprout.settings import Layer, Loaded, Settings, counted, load, nested, scaled, tree
from resprout.spec import ExternalSource, RunDefinition
from stream import FeatureSchema, StreamConfig, load_schema, make_source, open_logs, printable
from stream.log import LogError, LogStore
from stream.sources import FileSource
from stream.state import StateLockedError

FAULTS = (
    ValueError,
    OSError,
    ImportError,
    LogError,
    NonFiniteError,
    SnapshotError,
    StateLockedError,
    StoreError,
)
"""What is reported in one line; anything else is a fault of ours, and its traceback is shown."""

RUNS = Path("runs")
"""Where runs are kept whose state folder nobody names."""
FULL_EVENTS = 2_400_000
"""Rows of a file from which on the defaults suit, so that no more are counted."""

_SHOWN = 40
"""Characters of a value that an error quotes."""

Command = TypeVar("Command", bound=Callable[..., object])


@dataclass
class CommandRequest:
    """What was asked for on the command line."""

    arguments: dict[str, Any] = field(default_factory=dict)
    """Settings by dotted name."""
    config: Path | None = None
    input: tuple[Path, ...] = ()
    schema: Path | None = None
    init_from: Path | None = None
    state: Path | None = None
    scale: int | None = None
    """Events for which the settings that are counted in events are derived; None: as they are."""
    begun: Mapping[str, Any] = field(default_factory=dict)
    """Settings by section, of the run that is continued, where nothing else says otherwise."""
    append: bool = False
    follow: bool = False
    fresh: bool = False
    resume: bool = False
    json: bool = False
    log_json: bool = False

    @cached_property
    def features(self) -> FeatureSchema | None:
        """The schema, read once; None without a schema file."""
        return load_schema(self.schema) if self.schema is not None else None

    def load(self, base: Layer | None = None) -> Loaded:
        """Read the settings from everywhere they may stand."""
        if base is None and self.features is not None:
            base = (str(self.schema), self.features.settings)
        scale: Layer | None = ("the run so far", self.begun) if self.begun else None
        if self.scale is not None:
            scale = ("scale", nested(scaled(self.scale)))
        return load(base, self.config, self.arguments, scale)

    def scale_to_input(self, state: Path) -> str | None:
        """Derive what is counted in events from the rows of the file, where nobody has set any.

        A run that was begun keeps what it was begun with.

        Returns
        -------
        What was derived, in words; None where nothing was.
        """
        loaded = self.load()
        given = {n for n, origin in loaded.origins.items() if origin not in ("default", "scale")}
        if self.scale is None and (self.input is None or counted(given)):
            return None
        folder = RunFolder(state)
        if self.scale is None and not self.fresh and (folder.path / RECORD).exists():
            recorded = dict(tree(folder.record()["settings"]))
            self.begun = nested({name: recorded[name] for name in counted(recorded)})
            return None
        if self.scale is None and isinstance(source := self.plan().source, FileSource):
            # The plan that is carried out has the same source: standard input is there once.
            self.scale = source.count_rows(FULL_EVENTS)
        derived = dict(tree(nested(scaled(self.scale or FULL_EVENTS))))
        if not derived:
            return None
        settings = self.load().settings
        first, rebuild = settings.pruner.first_mask_events, settings.pruner.rebuild_events
        return (
            f"scaled to {self.scale:,} events: batches of {settings.stream.batch_events}, windows "
            f"of {settings.trigger.window_events:,}, the first mask is cut at {first:,} and in "
            f"force from {first + rebuild:,} on; `resprout config --scale {self.scale}` prints all"
        )

    @cached_property
    def source(self) -> FileSource | None:
        """The input, made once, since nothing can be read from standard input twice; None without.

        Raises :class:`ValueError` or :class:`OSError` where it cannot be replayed.
        """
        if not self.input or self.features is None:
            return None
        path = self.input[0] if len(self.input) == 1 else self.input
        return FileSource(path, self.features, append=self.append, follow=self.follow)

    def plan(self) -> RunDefinition:
        """Say what a run is to do: replay a file, or generate clicks where none is named.

        Where the logs are outside the state folder, clicks of a schema without a file are those
        that somebody else sends.
        """
        settings = self.load().settings
        sent = not self.input and not settings.stream.logs_in_folder
        if (not self.input) != (self.features is None) and not sent:
            raise ValueError(
                "--input and --schema go together; name both, or none to generate "
                "(`resprout schema infer FILE` proposes a schema)"
            )
        if self.source is not None:
            return RunDefinition(settings, self.source, self.init_from)
        return self.share(settings)

    def share(self, settings: Settings) -> RunDefinition:
        """Say what the run is of which a process is one worker: who feeds it is another's part."""
        if self.features is not None:
            return RunDefinition(settings, ExternalSource(self.features), self.init_from)
        return RunDefinition(settings, make_source(settings.stream, settings.seed), self.init_from)

    def folder(self, otherwise: str) -> Path:
        """Return the state folder that was named, or the one to use otherwise."""
        return self.state or RUNS / otherwise

    def past(self, named: Path | None = None) -> RunFolder:
        """Return the run that was named, or the one in ``runs`` that was last, and say which."""
        state = named or self.state
        if state is None:
            state = last_run(RUNS)
            if state is None:
                raise click.UsageError(f"no run in {RUNS}; name the state folder of one")
            click.echo(f"the last run, {state}:", err=True)
        return RunFolder(state)

    @property
    def input_name(self) -> str:
        """What a run of this input is called: after its first file, or the folder of a pattern.

        >>> CommandRequest(input=(Path("data/clicks.csv"),)).input_name
        'clicks'
        >>> CommandRequest(input=(Path("logs/*.csv"),)).input_name
        'logs'
        """
        path = self.input[0]
        if str(path) == "-":
            return "stdin"
        plain = next((one for one in (path, *path.parents) if not has_magic(str(one))), path)
        return printable(plain.stem) or "clicks"


def stored(*names: str, setting: str | None = None, **options: Any) -> Callable[[Command], Command]:
    """Declare an option whose value goes into the request.

    Parameters
    ----------
    names
        As of ``click.option``.
    setting
        The setting, by its dotted name, that it is; without it, the value is kept under the name
        of the option.
    options
        As of ``click.option``.
    """

    def store(context: click.Context, option: click.Parameter, value: Any) -> None:
        if setting is not None and value is not None:
            context.obj.arguments[setting] = value
        elif value is not None:
            setattr(context.obj, str(option.name), value)

    return click.option(*names, expose_value=False, callback=store, **options)


def _set(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> None:
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", context, option)
        try:
            context.obj.arguments[name] = parsed(value)
        except ValueError as error:
            raise click.BadParameter(f"{name}: {error}", context, option) from error


def parsed(text: str) -> Any:
    """Read a value as JSON, or as it stands where it is none.

    >>> parsed("0.9"), parsed("[500, 1000]"), parsed("null"), parsed("magnitude")
    (0.9, [500, 1000], None, 'magnitude')
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        shown = f"{text[:_SHOWN]}..." if len(text) > _SHOWN else text
        raise ValueError(f"{shown} is no value: {error}") from error


def several(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator of several, the first one's option standing first in the help."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


PATH = click.Path(path_type=Path)

SETTINGS = several(
    stored("--config", type=PATH, metavar="TOML", help="Settings, as `resprout config` prints."),
    click.option(
        "--set",
        metavar="NAME=VALUE",
        multiple=True,
        expose_value=False,
        callback=_set,
        help="One setting, such as pruner.sparsity=0.9; may stand several times.",
    ),
    stored("--seed", setting="seed", type=int, help="Decides every random thing."),
    stored("--criterion", setting="pruner.criterion", help="How important is a weight?"),
    stored("--sparsity", setting="pruner.sparsity", type=float, help="Share of weights to remove."),
)
INPUT = several(
    stored(
        "--input",
        type=PATH,
        metavar="FILE",
        multiple=True,
        help="CSV, TSV, JSON Lines or Parquet; a folder, a 'pattern*', - for standard input; may "
        "stand several times.",
    ),
    stored("--schema", type=PATH, metavar="TOML", help="Which columns are what."),
)
SCHEMA = stored("--schema", type=PATH, metavar="TOML", help="The features of events of your own.")
APPEND = several(
    stored("--append", is_flag=True, help="Continue a run that has ended with what is new."),
    stored("--follow", is_flag=True, help="Wait for what is written to the file, until stopped."),
)
SCALE = stored(
    "--scale",
    type=click.IntRange(min=1),
    metavar="EVENTS",
    help="Derive what is counted in events from the length of the input.",
)
INIT_FROM = stored(
    "--init-from", type=PATH, metavar="FILE", help="Weights or snapshot that dense begins with."
)
LOG_JSON = stored("--log-json", is_flag=True, help="Log messages as lines of JSON.")
STATE = stored("--state", type=PATH, metavar="FOLDER", help="Where the run lives.")
PAST = stored(
    "--state", type=PATH, metavar="FOLDER", help=f"Where the run lives; else the last in {RUNS}."
)
JSON = stored("--json", is_flag=True, help="The result as one line of JSON, the last of stdout.")


@contextmanager
def failure(reported: type[click.ClickException] = click.ClickException) -> Iterator[None]:
    """Turn the error of a run into exit code 1, or into that of the class ``reported``."""
    try:
        yield
    except FAULTS as error:
        if isinstance(error, ValidationError):
            said = [
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ")
                for one in error.errors()
            ]
        else:
            said = [str(error)]
        text = "; ".join([*said, *getattr(error, "__notes__", [])])
        # Of names in a file system, bytes that are not UTF-8, as printable() writes them.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        # That somebody else uses a folder is no wrong usage.
        kind = click.ClickException if isinstance(error, StateLockedError) else reported
        raise kind(text) from error


def usage() -> AbstractContextManager[None]:
    """Turn a fault in what was asked for into exit code 2."""
    return failure(click.UsageError)


LOOK_SECONDS = 5.0
"""How long a command that a person waits for lets a broker be away, where
``stream.kafka.gone_seconds`` is not set."""


def look(config: StreamConfig, folder: RunFolder) -> AbstractContextManager[LogStore]:
    """Open the logs for a command that a person waits for.

    It gives up soon, and makes no logs outside the state folder: only runs and workers do. Inside
    the folder of a run that has just begun, a log that is not there yet is made, empty.
    """
    return open_logs(hurried(config), folder.home.folder, writable=config.logs_in_folder)


def hurried(config: StreamConfig) -> StreamConfig:
    """Let a broker be away for a few seconds only, unless the settings say for how long.

    >>> hurried(StreamConfig()).kafka.gone_seconds
    5.0
    >>> hurried(StreamConfig(kafka={"gone_seconds": 60})).kafka.gone_seconds
    60.0
    """
    if "gone_seconds" in config.kafka.model_fields_set:
        return config
    kafka = config.kafka.model_copy(update={"gone_seconds": LOOK_SECONDS})
    return config.model_copy(update={"kafka": kafka})


ROOMS = ("stream", "learner", "pruner", "evaluator", "resprout")


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


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    """Show what our rooms log."""
    loggers = [logging.getLogger(room) for room in ROOMS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def logging_lines(*, as_json: bool) -> AbstractContextManager[None]:
    """Show what our rooms log on standard error, a line each."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if as_json else plain)
    return logging_to(handler)


@contextmanager
def stoppable(
    say: Callable[[str], object] = lambda text: sys.stderr.write(f"\n{text}\n"),
    stop: threading.Event | None = None,
) -> Iterator[threading.Event]:
    """Let Ctrl+C, or a polite kill, end the run after the batch; a second one ends it now."""
    stop = stop or threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()
        say("finishing the batch; once more leaves now")

    with _on_signal(end):
        yield stop


@contextmanager
def leaving() -> Iterator[threading.Event]:
    """Let Ctrl+C, or a polite kill, end at once what has not begun to work: exit code 0.

    The event is set as well: an exception that a signal raises within a destructor, or the callback
    of a weak reference, is dropped by Python. Whoever begins to work then looks at the event.
    """
    stop = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        stop.set()
        sys.exit(0)

    with _on_signal(end):
        yield stop


@contextmanager
def _on_signal(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
