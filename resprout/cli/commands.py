"""The demo: a drifting stream, and beside the sparse model its twin that is never rebuilt."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import click

from resprout import homes
from resprout.cli.options import (
    INIT_FROM,
    INPUT,
    LOG_JSON,
    PATH,
    SCHEMA,
    SETTINGS,
    STATE,
    CommandRequest,
    failure,
    several,
    stored,
    usage,
)
from resprout.cli.signals import leaving, logging_lines, stoppable
from resprout.folder import RunFolder
from resprout.monitoring.page import replayed
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
from resprout.workers import WorkerOutcome, check, posted
from stream import json_schema, open_logs

LAYER: Layer = ("demo", {"evaluator": {"models": [DENSE, SPARSE, NEVER_REBUILT]}})
"""What the demo has other than the defaults."""


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
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0")
    first, events = asked.pruner.first_mask_events, asked.stream.generator.events
    batch = asked.stream.batch_events
    changed: dict[str, Any] = {}
    if events is not None and scale != 1:
        after = max(events - first, 0) * scale
        changed["stream.generator.events"] = first + round(after / batch) * batch
    if drift is not None:
        changed["stream.generator.drifts"] = [{"kind": drift, "begin": first}]
    return changed


log = logging.getLogger(__name__)

_WORKER = several(SETTINGS, SCHEMA, STATE, INIT_FROM, LOG_JSON)


@click.command()
@SETTINGS
@STATE
@LOG_JSON
@click.option("--forever", is_flag=True, help="Never end: stream.generator.events=null.")
@click.pass_obj
def generate(request: CommandRequest, forever: bool) -> None:
    """Write generated clicks, and their truth, into the log of a run.

    At full speed until the first mask takes over, then stream.generator.rate events a second.
    `resprout run`, or one process for each worker, learns from them with the same settings.
    """
    if forever:
        request.arguments["stream.generator.events"] = None
    _feed(request, request.folder("generated"))


@click.command()
@INPUT
@SETTINGS
@STATE
@LOG_JSON
@click.pass_obj
def replay(request: CommandRequest) -> None:
    """Write the clicks of a file into the log of a run.

    `resprout run` with the same --input, --schema and --state learns from them; so does one
    process for each worker, with the same --schema and --state.
    """
    if request.input is None:
        raise click.UsageError("name the file to replay: --input FILE --schema TOML")
    _feed(request, request.folder(request.input.stem))


@click.group()
def learn() -> None:
    """Learn on the stream, as a process of its own."""


@learn.command()
@_WORKER
@click.pass_obj
def dense(request: CommandRequest) -> None:
    """Learn the dense model, from which all sparse ones are cut; it never waits."""
    _work(request, DENSE)


@learn.command()
@_WORKER
@click.option("--never-rebuild", is_flag=True, help="Be the twin that keeps the first mask.")
@click.pass_obj
def sparse(request: CommandRequest, never_rebuild: bool) -> None:
    """Learn the sparse model; it waits for the first mask, and for decisions that are due."""
    _work(request, NEVER_REBUILT if never_rebuild else SPARSE)


@click.command()
@_WORKER
@click.pass_obj
def prune(request: CommandRequest) -> None:
    """Decide on every window, and make the candidates of rebuilds."""
    _work(request, PRUNER)


@click.command()
@_WORKER
@click.option("--replay", type=PATH, metavar="FOLDER", help="Show a past run, and only that.")
@click.pass_obj
def evaluate(request: CommandRequest, replay: Path | None) -> None:
    """Score all models on the same events, before they learn from them; judge candidates.

    The live page shows the run as it goes, and with --replay a run of the past in the same way.
    """
    if replay is None:
        _work(request, EVALUATOR)
    else:
        _show(request, RunFolder(replay))


@click.command()
@SETTINGS
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True)
@click.pass_obj
def topics(request: CommandRequest, partitions: int) -> None:
    """Make the topics on the broker, with their settings; those that are there stay.

    Only the clicks may have more than one of --partitions: for producers of your own.
    """
    with usage():
        stream = request.load().settings.stream
        if stream.home != "kafka":
            raise ValueError(
                f"stream.home is {stream.home}: its logs need no topics; set it to kafka"
            )
    # They are made on a broker: no folder is looked at.
    where = homes.hurried(stream), Path()
    with failure(), logging_lines(as_json=False), open_logs(*where) as logs:
        made = logs.create(homes.every_log(partitions))
    click.echo("\n".join(made))


@click.command()
@stored("--schema", type=click.Path(path_type=Path), metavar="TOML", help="Names the features.")
@click.pass_obj
def schema(request: CommandRequest) -> None:
    """Print the JSON Schema of one event, as your producer sends it."""
    with usage():
        features = request.features
    click.echo(json.dumps(json_schema(features), indent=2))


COMMANDS = (generate, replay, learn, prune, evaluate, topics, schema)


def _feed(request: CommandRequest, state: Path) -> None:
    """Be the source."""
    with usage():
        loaded = request.load()
        plan = request.plan()
    served = _serve(request, plan, state, loaded, SOURCE)
    click.echo(f"{served.events:,} events written to {served.logs}")


def _work(request: CommandRequest, name: str) -> None:
    """Be a worker that learns or judges; somebody else feeds the run."""
    if request.schema is not None and request.state is None:
        raise click.UsageError("name the run: --state FOLDER")
    with usage():
        loaded = request.load()
        plan = request.share(loaded.settings)
    _serve(request, plan, request.folder("generated"), loaded, name)


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


def _serve(
    request: CommandRequest, plan: RunDefinition, state: Path, loaded: Loaded, name: str
) -> WorkerOutcome:
    with usage():
        check(plan, RunFolder(state))
    with failure(), logging_lines(as_json=request.log_json), leaving():
        log.info("%s of %s: %s", name, state, origin(loaded))
        with posted(plan, state, name) as post, stoppable(log.info) as stop:
            served = post.work(stop)
            if not served.finished:
                log.info("%s stopped; the same command goes on from there", name)
    return served


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
    logs = f"at Kafka {stream.kafka.bootstrap}" if stream.home == "kafka" else stream.home
    return f"settings: {said}; logs {logs}, masks {kept}"
