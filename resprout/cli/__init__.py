"""The command line: results on stdout, progress and logs on stderr; exit codes 0, 1 and 2.

::

    options   the options that commands share, gathered into one request; log messages, signals
    commands  workers as processes of their own, topics, the schema of events
    inspect   versions and masks of a run, rollbacks and rebuilds that people ask for, dead letters
    report    a run as one page of HTML
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from evaluator.run import RunHistory
from evaluator.run.plot import save
from learner import models
from learner.export import ExportOptions, check_folder, is_export
from learner.export import export as export_model
from pruner import conformance, criteria
from resprout.cli.commands import COMMANDS, LAYER, changes
from resprout.cli.inspect import deadletters, masks, rebuild
from resprout.cli.options import (
    APPEND,
    INIT_FROM,
    INPUT,
    JSON,
    PAST,
    PATH,
    RUNS,
    SCALE,
    SETTINGS,
    STATE,
    CommandRequest,
    failure,
    logging_to,
    parsed,
    stoppable,
    stored,
    usage,
)
from resprout.cli.report import report_command
from resprout.folder import PLOT, RECORD, RunFolder, last_run
from resprout.monitoring.console import ProgressLine, aligned, closing_table, settings_toml
from resprout.run import Result, earliest_rebuild, execute, footprint_in_force
from resprout.settings import DENSE, Settings
from resprout.settings import explain as explanation
from resprout.spec import RunDefinition
from stream import FeatureSchema
from stream.plugins import Check
from stream.sources import GeneratorSource
from stream.sources import drift as drifts

_COLOURS = {"root": "blue", "served": "red", "comparison": "bright_black"}
"""Of the names of models, by role."""


HELP = """Keep a pruned click model good on a stream that never stands still.

\b
Examples:
  resprout demo                                    two minutes of drift and rebuilds
  resprout report                                  the last run as one page of HTML
  resprout masks list                              the versions of its sparse model
  resprout export --output served                  that model, for use elsewhere
  resprout schema infer clicks.csv > s.toml        a schema to start from
  resprout run --input clicks.csv --schema s.toml  your own clicks
  resprout config --set pruner.sparsity=0.9        every setting and its origin
  resprout config --explain pruner.sparsity        what a setting decides
  resprout criteria check aux                      does a criterion keep its promises?
"""
RUN_HELP = """Learn from a file, or from generated clicks, to the end.

\b
Examples:
  resprout run --input clicks.csv --schema clicks.toml
  resprout run --input 'logs/*.csv.gz' --schema clicks.toml
  resprout run --state runs/mine --set trigger.threshold=0.003
"""


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resprout")
@click.pass_context
def main(context: click.Context) -> None:
    """Begin a request."""
    context.obj = CommandRequest()
    if "NO_COLOR" in os.environ:
        context.color = False


for command in (*COMMANDS, masks, rebuild, deadletters, report_command):
    main.add_command(command)


@main.command()
@SETTINGS
@STATE
@stored("--resume", is_flag=True, help="Continue with the last demo, rather than start afresh.")
@stored("--fresh", is_flag=True, help="Delete the demo that is there, rather than keep it.")
@JSON
@click.option("--scale", type=float, default=1.0, help="Multiplies the events after the mask.")
@click.option("--drift", metavar="KIND", help="gradual, abrupt, recurring, churn, click-rate, none")
@click.pass_obj
def demo(request: CommandRequest, scale: float, drift: str | None) -> None:
    """Generate clicks that drift, and keep a sparse model up with them.

    The run is kept in runs/demo, or in runs/demo-2 and so on where there is one already.
    """
    with usage():
        asked = request.load(LAYER).settings
        request.arguments |= changes(asked, scale=scale, drift=drift)
        plan = RunDefinition.generated(request.load(LAYER).settings)
        state = request.state or _demo_folder(request)
        begun = request.state is not None and (state / RECORD).exists()
        if begun and not (request.resume or request.fresh):
            raise ValueError(f"{state} holds a run; --resume continues with it, --fresh deletes it")
        _prepare(plan, state, fresh=request.fresh)
        if short := _too_short(plan.settings, asked.stream.generator.events):
            click.echo(short, err=True)
    result = _run(plan, state, "`resprout demo --resume`")
    with failure():
        plots = _plot(result, state)
    _show(request, result, plan)
    where = f"{plots[0]} (dark: {plots[1].name})"
    following = "resprout run --input YOUR.csv --schema YOUR.toml   see README, On your own clicks"
    again = f"resprout evaluate --replay {state}"
    click.echo(f"\npage   {again}\nplot   {where}\nnext   {following}", err=request.json)


@main.command(help=RUN_HELP)
@INPUT
@APPEND
@SETTINGS
@SCALE
@STATE
@stored("--fresh", is_flag=True, help="Start afresh, rather than continue.")
@INIT_FROM
@JSON
@click.option("--plot", is_flag=True, help="Write the plot into the state folder.")
@click.pass_obj
def run(request: CommandRequest, plot: bool) -> None:
    """Carry out a plan and show what came of it."""
    state = request.folder(request.input_name if request.input else "generated")
    with usage():
        if request.append and not (state / RECORD).exists():
            raise ValueError(f"{state} holds no run to append to; name one with --state")
        derived = request.scale_to_input(state)
        plan = request.plan()
        _prepare(plan, state, fresh=request.fresh)
    generated = _generated(plan, state)
    for said in (derived, generated):
        if said is not None:
            click.echo(said, err=True)
    result = _run(plan, state, "the same command", endless=request.follow)
    if plot:
        with failure():
            written = _plot(result, state)
        click.echo(f"plot   {written[0]} (dark: {written[1].name})", err=True)
    _show(request, result, plan)
    if not result.finished:
        _stopped(result, state, "the same command")
    if result.without_sparse is not None:
        raise click.ClickException(result.without_sparse)


@main.command()
@PAST
@click.option(
    "--model",
    default="sparse",
    metavar="NAME",
    show_default=True,
    help="dense, sparse, never_rebuilt, or a comparison of the run.",
)
@click.option("--output", type=PATH, required=True, metavar="FOLDER", help="Made if need be.")
@click.option("--dense", is_flag=True, help="Write pruned weights as zeros: a plain state dict.")
@click.option("--onnx", is_flag=True, help="Write model.onnx too, checked with onnxruntime.")
@click.option("--no-score", is_flag=True, help="Leave out model.py, where torch cannot write it.")
@click.option("--force", is_flag=True, help="Write into a folder of other files, and over them.")
@click.pass_obj
def export(request: CommandRequest, /, model: str, output: Path, **flags: bool) -> None:
    """Write a model's last snapshot as a folder that scores clicks without Resprout.

    Weights, features and their hashing, options, a model card, model.py for services written in
    Python, and score.py for lines of JSON; both need torch, numpy and xxhash only. Weights that are
    pruned are left out: a bitmap says where the others belong.

    An earlier export in the folder is replaced. A folder of other files is refused, unless --force.
    """
    with usage():
        if not flags["force"]:
            check_folder(output)
        folder = request.past()
        record = folder.record()
        settings = Settings.model_validate(record["settings"])
        known = [one.name for one in settings.models]
        if model not in known:
            raise ValueError(f"--model {model!r} is none of {', '.join(known)}")
        names = folder.snapshots.names(model)
        if not names:
            raise ValueError(_without_snapshot(folder, model, settings))
    with failure():
        schema = FeatureSchema.model_validate(record["schema"])
        module = models.build(settings.model.name, schema, settings.model.options, settings.seed)
        snapshot = folder.snapshots.read(names[-1])
        options = ExportOptions(
            flags["dense"], not flags["no_score"], flags["onnx"], flags["force"]
        )
        if is_export(output):
            click.echo(f"replacing the export in {output}", err=True)
        written = export_model(snapshot, module, schema, output, options)
    click.echo(f"{written.weights}  {written.weights.stat().st_size:,} bytes")
    if written.score is not None:
        click.echo(f"{written.score}  chances within {written.score_difference:.2g} of torch's")
    if written.onnx is not None:
        click.echo(f"{written.onnx}  logits within {written.onnx_difference:.2g} of torch's")
    for table in (written.footprint.layers(), written.footprint.table()):
        click.echo("\n" + "\n".join(aligned(table, str.rjust)))


def _without_snapshot(folder: RunFolder, model: str, settings: Settings) -> str:
    """Say why a run has no snapshot of a model, and when there will be one."""
    missing, pruner = f"{folder.path} holds no snapshot of {model!r} yet: ", settings.pruner
    if model == DENSE:
        every = f"{settings.learner.snapshot_events:,} events (learner.snapshot_events)"
        return f"{missing}the first one is written after {every}"
    if folder.checkpoints(model).latest() is not None:
        return f"{missing}it is written when the input has ended; continue the run to its end"
    cut, force = pruner.first_mask_events, pruner.first_mask_events + pruner.rebuild_events
    return (
        f"{missing}the first mask is cut at {cut:,} events (pruner.first_mask_events), and the "
        f"model begins when it is in force, at {force:,} (pruner.rebuild_events). A run that goes "
        "on comes to that; begin one that has ended anew with --scale, which derives smaller "
        "settings from the length of the input, or export --model dense, which is not pruned"
    )


def plugin_group(
    name: str,
    known: Callable[[], dict[str, str]],
    build: Callable[[str, dict[str, Any]], Any],
    check: Callable[[Any], list[Check]],
) -> click.Group:
    """Make the commands that list what goes by a name, and that check one of them.

    Parameters
    ----------
    name
        Of the group.
    known
        Returns all names, and the package of each.
    build
        Makes one from its name and options.
    check
        Checks it.
    """
    group = click.Group(name, help=f"See which {name} there are, and check them.")

    @group.command(name="list", help=f"List all {name} by name, and the package of each.")
    def list_all() -> None:
        for one, package in known().items():
            click.echo(f"{one:<16}{package}")

    @group.command(
        name="check", help="Run the conformance checks on one; exit code 1 if any fails."
    )
    @click.argument("name")
    @click.option("--options", "text", default="{}", metavar="JSON", help="Its options.")
    def check_one(name: str, text: str) -> None:
        with usage():
            options = parsed(text)
            if not isinstance(options, dict):
                raise ValueError(f"--options is {text}; it must be a JSON object, such as {{}}")
            made = build(name, options)
        checks = check(made)
        for one in checks:
            click.echo(f"{'ok  ' if one.passed else 'FAIL'}  {one.name}: {one.detail}")
        failed = sum(not one.passed for one in checks)
        if failed:
            raise click.ClickException(f"{name} failed {failed} of {len(checks)} checks")

    return group


def _candidate(name: str, options: dict[str, Any]) -> models.Candidate:
    """Build a model once, so that wrong options are wrong usage."""
    candidate = models.Candidate(name, options)
    candidate.module()
    return candidate


for group in (
    plugin_group("criteria", criteria.known, criteria.build, conformance.check),
    plugin_group("models", models.known, _candidate, models.check),
    plugin_group("drifts", drifts.known, lambda n, o: drifts.build({**o, "kind": n}), drifts.check),
):
    main.add_command(group)


@main.command()
@INPUT
@SETTINGS
@SCALE
@click.option("--explain", metavar="NAME", help="Say what a setting or a section is; no more.")
@click.pass_obj
def config(request: CommandRequest, explain: str | None) -> None:
    """Print every setting and where it came from, as TOML to start from."""
    with usage():
        loaded = request.load()
        text = settings_toml(loaded) if explain is None else explanation(explain, loaded)
    click.echo(text)


def _demo_folder(request: CommandRequest) -> Path:
    """Choose the folder of a demo where none is named: one in which nothing is lost."""
    first, last = RUNS / "demo", last_run(RUNS, "demo*")
    if request.resume:
        return last or first
    if request.fresh or not (first / RECORD).exists():
        return first
    free = next(
        path
        for n in itertools.count(2)
        if not (path := RUNS / f"demo-{n}").joinpath(RECORD).exists()
    )
    click.echo(f"{last} holds a demo, which stays; this one is kept in {free}", err=True)
    return free


def _prepare(plan: RunDefinition, state: Path, *, fresh: bool) -> None:
    """Find what is wrong with a run before it begins."""
    folder = RunFolder(state)
    plan.check()
    stream = plan.settings.stream
    if fresh and not stream.logs_in_folder:
        raise ValueError(
            "--fresh deletes the state folder, and would leave the topics on the broker; name "
            "another folder and another stream.kafka.prefix (of another home, its home_options)"
        )
    if fresh:
        if (state / RECORD).exists():
            click.echo(f"deleting the run in {state}", err=True)
        folder.clear()
    folder.check(plan)


def _run(plan: RunDefinition, state: Path, again: str, *, endless: bool = False) -> Result:
    """Carry out a plan; to be stopped is the normal end of an endless one, and exit code 1 else."""
    progress = ProgressLine(window_events=plan.settings.trigger.window_events)
    with failure(), logging_to(progress), stoppable() as stop:
        result = execute(plan, state, progress, stop, show=True)
        progress.finish()
    if not (result.finished or endless):
        _stopped(result, state, again)
        raise click.exceptions.Exit(1)
    return result


def _stopped(result: Result, state: Path, again: str) -> None:
    events = result.summary.events
    click.echo(f"stopped after {events:,} events; {again} continues from there ({state})", err=True)


def _generated(plan: RunDefinition, state: Path) -> str | None:
    """Say of a run that begins what clicks come, where they are generated."""
    settings = plan.settings
    generator, pruner = settings.stream.generator, settings.pruner
    if not isinstance(plan.source, GeneratorSource) or (state / RECORD).exists():
        return None
    count = "without end" if generator.events is None else f"{generator.events:,} events"
    drifts = ", ".join(f"{one.get('kind')}" for one in generator.drifts) or "none"
    cut = pruner.first_mask_events
    return (
        f"generated clicks, {count} (stream.generator.events), drift: {drifts}; the first mask is "
        f"cut at {cut:,} and in force from {cut + pruner.rebuild_events:,} on. Clicks of your own: "
        "--input FILE --schema TOML; `resprout schema infer FILE` proposes a schema"
    )


def _too_short(settings: Settings, usual: int | None) -> str | None:
    """Say that a demo ends before any rebuild can take over, and which scale would do.

    ``usual`` are its events at a scale of 1.
    """
    events, earliest = settings.stream.generator.events, earliest_rebuild(settings)
    if events is None or events >= earliest:
        return None
    first, way_out = settings.pruner.first_mask_events, "raise stream.generator.events"
    if usual is not None and usual > first:
        enough = math.ceil(100 * (earliest - first) / (usual - first)) / 100
        way_out = f"--scale {enough:g} or more has room for one"
    return (
        f"{events:,} events are too few for a rebuild, and show the first mask at most: none can "
        f"take over before {earliest:,}; {way_out}"
    )


def _plot(result: Result, state: Path) -> tuple[Path, Path]:
    """Write the plot, light and dark."""
    return save(RunHistory.of([*result.ledger, *result.windows]), state, PLOT)


def _show(request: CommandRequest, result: Result, plan: RunDefinition) -> None:
    if request.json:
        for remark in result.remarks:
            click.echo(remark, err=True)
        click.echo(result.summary.model_dump_json())
        return
    text = closing_table(result)
    for model in result.settings.models:
        # Where a colour does not belong, click takes it out again.
        coloured = click.style(model.label, _COLOURS[model.role])
        text = re.sub(f"^{re.escape(model.label)}", coloured, text, flags=re.MULTILINE)
    click.echo(text)
    dense = result.models.get(DENSE)
    takes = dense and footprint_in_force(result.history, dense, plan.source.schema)
    if takes:
        header, *rows = takes.table()
        click.echo("\n" + "\n".join(aligned([("sparse takes", *header[1:]), *rows], str.rjust)))
