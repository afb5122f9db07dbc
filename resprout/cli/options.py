"""The options that commands share, gathered into one request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from learner import NonFiniteError, SnapshotError
from pruner.masks import StoreError
from resprout.settings import Layer, Loaded, Settings, load
from resprout.spec import ExternalSource, RunDefinition
from stream import FeatureSchema, load_schema, make_source
from stream.log import LogError
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
"""What is told in a line of its own; anything else is a fault of ours, and shows where."""

Command = TypeVar("Command", bound=Callable[..., object])


@dataclass
class CommandRequest:
    """What was asked for on the command line."""

    arguments: dict[str, Any] = field(default_factory=dict)
    """Settings by dotted name."""
    config: Path | None = None
    input: Path | None = None
    schema: Path | None = None
    init_from: Path | None = None
    state: Path | None = None
    fresh: bool = False
    resume: bool = False
    json: bool = False
    log_json: bool = False
    _features: FeatureSchema | None = None

    @property
    def features(self) -> FeatureSchema | None:
        """The schema, read once; None without a schema file."""
        if self._features is None and self.schema is not None:
            self._features = load_schema(self.schema)
        return self._features

    def load(self, base: Layer | None = None) -> Loaded:
        """Read the settings from everywhere they may stand."""
        if base is None and self.features is not None:
            base = (str(self.schema), self.features.settings)
        return load(base, self.config, self.arguments)

    def plan(self) -> RunDefinition:
        """Say what a run is to do: replay a file, or generate clicks where none is named.

        Where the logs are outside the state folder, clicks of a schema without a file are those
        that somebody else sends.
        """
        settings = self.load().settings
        sent = self.input is None and not settings.stream.logs_in_folder
        if (self.input is None) != (self.features is None) and not sent:
            raise ValueError("--input and --schema go together; name both, or none to generate")
        if self.input is not None and self.features is not None:
            return RunDefinition(settings, FileSource(self.input, self.features), self.init_from)
        return self.share(settings)

    def share(self, settings: Settings) -> RunDefinition:
        """Say what the run is of which a process is one worker: who feeds it is another's part."""
        if self.features is not None:
            return RunDefinition(settings, ExternalSource(self.features), self.init_from)
        return RunDefinition(settings, make_source(settings.stream, settings.seed), self.init_from)

    def folder(self, otherwise: str) -> Path:
        """Return the state folder that was named, or the one to use otherwise."""
        return self.state or Path("runs") / otherwise


def stored(*names: str, **options: Any) -> Callable[[Command], Command]:
    """Declare an option whose value goes into the request, under its own name."""

    def store(context: click.Context, option: click.Parameter, value: Any) -> None:
        if option.name is not None and value is not None:
            setattr(context.find_object(CommandRequest), option.name, value)

    return click.option(*names, expose_value=False, callback=store, **options)


def setting(name: str, dotted: str, **options: Any) -> Callable[[Command], Command]:
    """Declare an option that is a setting of its own."""

    def store(context: click.Context, _: click.Parameter, value: Any) -> None:
        request = context.find_object(CommandRequest)
        if value is not None and request is not None:
            request.arguments[dotted] = value

    return click.option(name, expose_value=False, callback=store, **options)


def _set(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> None:
    request = context.find_object(CommandRequest) or CommandRequest()
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", context, option)
        request.arguments[name] = parsed(value)


def parsed(text: str) -> Any:
    """Read a value as JSON, or as it stands where it is none.

    >>> parsed("0.9"), parsed("[500, 1000]"), parsed("null"), parsed("magnitude")
    (0.9, [500, 1000], None, 'magnitude')
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


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
    setting("--seed", "seed", type=int, help="Decides every random thing."),
    setting("--criterion", "pruner.criterion", help="How important is a weight?"),
    setting("--sparsity", "pruner.sparsity", type=float, help="Share of weights to remove."),
)
INPUT = several(
    stored("--input", type=PATH, metavar="FILE", help="CSV, TSV, JSON Lines or Parquet."),
    stored("--schema", type=PATH, metavar="TOML", help="Which columns are what."),
)
SCHEMA = stored("--schema", type=PATH, metavar="TOML", help="The features of events of your own.")
INIT_FROM = stored(
    "--init-from", type=PATH, metavar="FILE", help="Weights that the dense model begins with."
)
LOG_JSON = stored("--log-json", is_flag=True, help="Log messages as lines of JSON.")
STATE = stored("--state", type=PATH, metavar="FOLDER", help="Where the run lives.")
JSON = stored("--json", is_flag=True, help="The result as one line of JSON, the last of stdout.")


@contextmanager
def usage() -> Iterator[None]:
    """Turn a fault in what was asked for into exit code 2."""
    try:
        yield
    except StateLockedError as error:
        raise click.ClickException(str(error)) from error
    except FAULTS as error:
        raise click.UsageError(_words(error)) from error


@contextmanager
def failure() -> Iterator[None]:
    """Turn a fault that a run met into exit code 1."""
    try:
        yield
    except FAULTS as error:
        raise click.ClickException(_words(error)) from error


def _words(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        said = [
            ": ".join([*([".".join(map(str, one["loc"]))] if one["loc"] else []), one["msg"]])
            for one in error.errors(include_url=False)
        ]
    else:
        said = [str(error)]
    return "; ".join([*said, *getattr(error, "__notes__", [])])
