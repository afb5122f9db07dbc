"""The commands of the workers, and the settings of the demo."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from resprout.cli.options import (
    APPEND,
    INIT_FROM,
    INPUT,
    JSON,
    LOG_JSON,
    PATH,
    SCHEMA,
    SETTINGS,
    STATE,
    CommandRequest,
    failure,
    hurried,
    leaving,
    logging_lines,
    several,
    stoppable,
    stored,
    usage,
)
from resprout.folder import RunFolder
from resprout.monitoring.page import replayed
from resprout.run import check, worker_process
from resprout.settings import (
    DENSE,
    EVALUATOR,
    NEVER_REBUILT,
    PRUNER,
    SOURCE,
    SPARSE,
    Layer,
    Loaded,
    Settings,
)
from resprout.spec import RunDefinition
from stream import json_schema, open_logs, printable
from stream.sources import FileSource, Fit, check_fit, propose_schema, take_sample, written_share
from stream.topics import (
    CLICKS,
    DEAD_LETTERS,
    LEDGER,
    MASK_CHANGES,
    REQUESTS,
    TRUTH,
    WINDOWS,
    predictions,
    progress,
)

log = logging.getLogger(__name__)

_LAST = "the last run"
"""What ``--replay`` has where no folder is named."""
_WORKER = several(SETTINGS, SCHEMA, STATE, INIT_FROM, LOG_JSON)
_RAW = 120
"""Characters of a row that are shown."""
_VALUES = 5
"""Values of a cell that are listed."""
LAYER: Layer = ("demo", {"evaluator": {"models": [DENSE, SPARSE, NEVER_REBUILT]}})
"""Settings of the demo that differ from the defaults."""


def changes(asked: Settings, *, scale: float = 1.0, drift: str | None = None) -> dict[str, Any]:
    """Return the settings that a longer stream or another drift changes, by dotted name.

    The dense model matures until the first mask is cut, and drift begins there; that is never
    shortened, since an early mask falls behind without any drift.

    Parameters
    ----------
    asked
        The settings so far.
    scale
        Multiplies the events after the first mask is cut.
    drift
        The kind of drift, in the place of the one in ``asked``.

    Examples
    --------
    >>> asked = Settings(
    ...     stream={"generator": {"events": 3_000_000}}, pruner={"first_mask_events": 1_000_000}
    ... )
    >>> changes(asked, scale=0.5)
    {'stream.generator.events': 2000000}
    >>> changes(asked, drift="abrupt")
    {'stream.generator.drifts': [{'kind': 'abrupt', 'begin': 1000000}]}
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}; it must be a number above 0")
    first, events = asked.pruner.first_mask_events, asked.stream.generator.events
    batch = asked.stream.batch_events
    changed: dict[str, Any] = {}
    if events is not None and scale != 1:
        after = max(events - first, 0) * scale
        changed["stream.generator.events"] = first + round(after / batch) * batch
    if drift is not None:
        changed["stream.generator.drifts"] = [{"kind": drift, "begin": first}]
    return changed


@click.command()
@SETTINGS
@STATE
@LOG_JSON
@click.option("--forever", is_flag=True, help="Never end: stream.generator.events=null.")
@click.pass_obj
def generate(request: CommandRequest, forever: bool) -> None:
    """Write generated clicks, and their truth, into the log of a run.

    At full speed until the first mask takes over, then stream.generator.rate events a second.
    `resprout run`, or one process for each worker, learns from them with the same settings. It
    waits where it is stream.max_lead_events ahead of a worker that has begun, or of dense.
    """
    if forever:
        request.arguments["stream.generator.events"] = None
    _feed(request, request.folder("generated"))


@click.command()
@INPUT
@APPEND
@SETTINGS
@STATE
@LOG_JSON
@click.pass_obj
def replay(request: CommandRequest) -> None:
    """Write the clicks of a file into the log of a run.

    `resprout run` with the same --input, --schema and --state learns from them; so does one
    process for each worker, with the same --schema and --state. It waits where it is
    stream.max_lead_events ahead of a worker that has begun, or of dense.
    """
    if not request.input:
        raise click.UsageError("name the file to replay: --input FILE --schema TOML")
    _feed(request, request.folder(request.input_name))


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@_WORKER
@click.option("--never-rebuild", is_flag=True, hidden=True)
@click.pass_obj
def learn(request: CommandRequest, models: tuple[str, ...], never_rebuild: bool) -> None:
    """Learn one model on the stream, or several, as a process of its own.

    `dense` is the model from which all sparse ones are cut; it never waits. `sparse` waits for the
    first mask, and for decisions that are due. `never_rebuilt` keeps the first mask. Any other is
    the name of a comparison of the settings.

    Models of one process read and decode every batch once. Each predicts, learns, waits and fails
    as it would alone, and leaves the same bits.
    """
    if never_rebuild:
        raise click.UsageError(f"--never-rebuild is gone: `resprout learn {NEVER_REBUILT}`")
    _work(request, models=models)


@click.command()
@_WORKER
@click.pass_obj
def prune(request: CommandRequest) -> None:
    """Decide on every window, and make the candidates of rebuilds."""
    _work(request, PRUNER)


@click.command()
@_WORKER
@click.option(
    "--replay",
    type=PATH,
    is_flag=False,
    flag_value=_LAST,
    metavar="[FOLDER]",
    help="Show a past run, and only that: that of the folder, of --state, or the last.",
)
@click.pass_obj
def evaluate(request: CommandRequest, replay: Path | None) -> None:
    """Score all models on the same events, before they learn from them; judge candidates.

    The live page shows the run as it goes, and with --replay a run of the past in the same way.
    """
    if replay is None:
        _work(request, EVALUATOR)
    else:
        _show(request, request.past(None if replay == Path(_LAST) else replay))


@click.command()
@SETTINGS
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True)
@click.pass_obj
def topics(request: CommandRequest, partitions: int) -> None:
    """Make the topics on the broker, with their settings; those that are there stay.

    Only the clicks may have more than one of --partitions: for producers of your own.
    """
    with usage():
        settings = request.load().settings
        stream = hurried(settings.stream)
        if stream.logs_in_folder:
            raise ValueError(
                f"stream.home is {stream.home}: its logs need no topics; set it to kafka"
            )
    models = (*(model.name for model in settings.models), "candidate-1")
    others = (TRUTH, LEDGER, REQUESTS, MASK_CHANGES, WINDOWS, DEAD_LETTERS)
    logs_of = (*map(predictions, models), *map(progress, settings.workers))
    names = dict.fromkeys((*others, *logs_of), 1)
    # They are made elsewhere: no folder is looked at.
    with failure(), logging_lines(as_json=False), open_logs(stream, Path()) as logs:
        made = logs.create({CLICKS: partitions, **names})
    click.echo("\n".join(made))


SCHEMA_HELP = """Print the JSON Schema of one event, as your producer sends it.

\b
Examples:
  resprout schema --schema clicks.toml
  resprout schema infer clicks.csv > clicks.toml
  resprout schema infer train.txt --names label,I1..I13,C1..C26 > criteo.toml
  resprout schema check clicks.csv --schema clicks.toml
"""
_FILES = click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
_ROWS = click.option(
    "--rows", type=click.IntRange(min=1), default=100_000, show_default=True, help="Rows to read."
)


@click.group(help=SCHEMA_HELP, invoke_without_command=True)
@stored("--schema", type=PATH, metavar="TOML", help="Names the features.")
@click.pass_context
def schema(context: click.Context) -> None:
    """Print the JSON Schema, where no command is named."""
    if context.invoked_subcommand is None:
        with usage():
            features = context.obj.features
        click.echo(json.dumps(json_schema(features), indent=2))


@schema.command()
@_FILES
@_ROWS
@click.option("--names", metavar="NAME,...", help="Of the columns, where there is no header.")
@click.option("--delimiter", metavar="CHARACTER", help="Between cells, such as ';' or '\\t'.")
@click.option("--label", metavar="COLUMN", help="Which column says what was clicked.")
@click.option("--time", metavar="COLUMN", help="Which column holds the event time.")
def infer(
    files: tuple[Path, ...],
    rows: int,
    names: str | None,
    delimiter: str | None,
    **roles: str | None,
) -> None:
    """Propose a schema for files, from their first rows: TOML to look over and to change.

    It says of every column what it was taken for, and why: number or category, how many values,
    how many buckets, what is missing; which columns are label and time; what is not read.
    """
    with usage():
        given = tuple(names.split(",")) if names else ()
        sample = take_sample(files, rows, given, "\t" if delimiter == "\\t" else delimiter)
        proposed = propose_schema(sample, **roles)
    click.echo(proposed)
    if sample.unreadable:
        share = f"{sample.unreadable:,} of {sample.rows:,} rows"
        click.echo(f"{share} could not be read; `resprout schema check` says why", err=True)


@schema.command(name="check")
@_FILES
@_ROWS
@stored("--schema", type=PATH, metavar="TOML", help="Which columns are what.")
@JSON
@click.pass_obj
def check_schema(request: CommandRequest, files: tuple[Path, ...], rows: int) -> None:
    """Tell what share of the first rows of files fits a schema, and why the others do not.

    Exit code 1 where so many do not fit that a run would stop (stream.max_invalid_ratio).
    """
    with usage():
        if request.features is None:
            raise ValueError("name the schema to check with --schema TOML")
        most = request.load().settings.stream.max_invalid_ratio
        source = FileSource(files[0] if len(files) == 1 else files, request.features)
    with failure():
        fit = check_fit(source, rows)
    timed = request.features.columns is None or request.features.columns.time_format != "none"
    lines = [json.dumps(_fit(fit))] if request.json else _fit_lines(fit, timed=timed)
    click.echo("\n".join(lines))
    if fit.invalid_ratio > most:
        raise click.ClickException(
            f"{fit.invalid_ratio:.2%} of the rows do not fit, more than stream.max_invalid_ratio = "
            f"{most:g} lets pass: {fit.rows - fit.valid:,} of {fit.rows:,}"
        )


def _fit(fit: Fit) -> dict[str, Any]:
    """Return a fit as JSON knows it."""
    found = asdict(fit) | {"invalid_ratio": fit.invalid_ratio}
    found["misfits"] = [
        asdict(one) | {"raw": one.raw.decode("utf-8", "backslashreplace")}
        for one in fit.misfits.values()
    ]
    return found


def _fit_lines(fit: Fit, *, timed: bool) -> Iterator[str]:
    """Write a fit for people."""
    share = written_share(fit.valid, fit.rows) if fit.rows else "none"
    yield f"{share} of {_counted(fit.rows, 'row')} fit: {_counted(fit.valid, 'event')}"
    if fit.first_ms is not None and fit.last_ms is not None:
        begin, end = (datetime.fromtimestamp(ms / 1_000, UTC) for ms in (fit.first_ms, fit.last_ms))
        back = f", {fit.backwards:,} of them before the one above" if fit.backwards else ""
        times = f"; times from {begin:%F %T} to {end:%F %T}{back}" if timed else ""
        clicks = f"{written_share(fit.clicks, fit.valid)} clicks" if fit.clicks else "no clicks"
        yield f"{clicks}{times}"
    for one in sorted(fit.misfits.values(), key=lambda one: -one.count):
        raw = printable(one.raw.decode("utf-8", "surrogateescape"))
        yield ""
        yield f"{_counted(one.count, 'row')}: {one.reason}: {one.detail}"
        yield f"  first at {one.file}:{one.line}: {raw if len(raw) <= _RAW else raw[:_RAW] + '…'}"
        if len(one.values) > 1:
            ranked = sorted(one.values.items(), key=lambda item: -item[1])
            listed = [f"{value} in {_counted(many, 'row')}" for value, many in ranked[:_VALUES]]
            more = [f"{_counted(len(ranked) - _VALUES, 'other value')}"] * (len(ranked) > _VALUES)
            yield f"  {', '.join([*listed, *more])}"


def _counted(number: int, what: str) -> str:
    """Write a number and what it counts.

    >>> _counted(1, "row"), _counted(20_000, "row")
    ('1 row', '20,000 rows')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


COMMANDS = (generate, replay, learn, prune, evaluate, topics, schema)


def _feed(request: CommandRequest, state: Path) -> None:
    """Be the source."""
    with usage():
        plan = request.plan()
    _serve(request, plan, state, (SOURCE,))


def _work(request: CommandRequest, *workers: str, models: Collection[str] = ()) -> None:
    """Be workers that learn or judge; another process feeds the run."""
    if request.schema is not None and request.state is None:
        raise click.UsageError("name the run: --state FOLDER")
    with usage():
        plan = request.share(request.load().settings)
        names = workers or _in_order(models, plan.settings)
    _serve(request, plan, request.folder("generated"), names)


def _in_order(names: Collection[str], settings: Settings) -> tuple[str, ...]:
    """Name each model once, in the order of what they wait for; refuse what is no model.

    >>> _in_order(["sparse", "dense", "dense"], Settings())
    ('dense', 'sparse')
    >>> _in_order(["spares"], Settings())
    Traceback (most recent call last):
    ...
    ValueError: unknown model 'spares'; known: dense, sparse, never_rebuilt
    """
    known = [model.name for model in settings.models]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise ValueError(f"unknown model {unknown!r}; known: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _show(request: CommandRequest, folder: RunFolder) -> None:
    """Show a past run until somebody wants to stop."""
    with usage():
        settings = request.load((str(folder.path), folder.record()["settings"])).settings
    with (
        failure(),
        logging_lines(as_json=request.log_json),
        stoppable(lambda _: None) as stop,
        replayed(settings, folder),
    ):
        log.info("Ctrl+C ends it")
        while not stop.wait(1):
            """Signals are handled in between."""


def _serve(request: CommandRequest, plan: RunDefinition, state: Path, names: Sequence[str]) -> None:
    with usage():
        check(plan, RunFolder(state))
        loaded = request.load()
    listed = ", ".join(names)
    with failure(), logging_lines(as_json=request.log_json), leaving() as stop:
        log.info("%s of %s: %s", listed, state, origin(loaded))
        with worker_process(plan, state, names) as process, stoppable(log.info, stop):
            outcome, logs = process.work(stop), process.logs.describe()
            if not outcome.finished:
                log.info("%s stopped; the same command continues from there", listed)
    if SOURCE in names:
        click.echo(f"{outcome.events:,} events written to {logs}")


def origin(loaded: Loaded) -> str:
    """Say in a line where settings came from, and where logs and masks are.

    >>> from resprout.settings import load
    >>> origin(load(arguments={"seed": 4, "pruner.sparsity": 0.9}))
    'settings: 2 by argument, the others by default; logs embedded, masks on disk'
    """
    stream, store = loaded.settings.stream, loaded.settings.store
    counted = Counter(one for one in loaded.origins.values() if one != "default")
    files = sorted(counted.keys() - {"environment", "argument"})
    ranked = [one for one in (*files, "environment", "argument") if one in counted]
    set_by = [f"{counted[one]} by {one}" for one in ranked]
    said = ", ".join([*set_by, "the others by default"]) if set_by else "all by default"
    kept = {"disk": "on disk", "memory": "in memory", "redis": f"at {store.url}"}[store.kind]
    return f"settings: {said}; logs {stream.logs_described}, masks {kept}"
