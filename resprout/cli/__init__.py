"""The command line: results on stdout, progress and logs on stderr; exit codes 0, 1 and 2.

::

    options   the options that commands share, gathered into one request; log messages, signals
    commands  workers as processes of their own, topics, the schema of events
    inspect   versions and masks of a run, rollbacks and rebuilds that people ask for, dead letters
    report    a run as one page of HTML
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from evaluator.run import RunHistory
from evaluator.run.plot import save
from learner.export import export as export_model
from learner.models import build
from pruner import conformance, criteria
from resprout.cli.commands import COMMANDS, LAYER, changes
from resprout.cli.inspect import deadletters, masks, rebuild
from resprout.cli.options import (
    APPEND,
    INIT_FROM,
    INPUT,
    JSON,
    PATH,
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
from resprout.folder import PLOT, RECORD, RunFolder
from resprout.monitoring.console import ProgressLine, closing_table, settings_toml
from resprout.run import Result, execute
from resprout.settings import Settings
from resprout.spec import RunDefinition
from stream import FeatureSchema

_COLOURS = {"root": "blue", "served": "red", "comparison": "bright_black"}
"""Of the names of models, by role."""


HELP = """Keep a pruned click model good on a stream that never stands still.

\b
Examples:
  resprout demo                                    two minutes of drift and rebuilds
  resprout run --input clicks.csv --schema s.toml  your own clicks
  resprout learn dense sparse --state runs/mine    some models, as a process of their own
  resprout masks list --state runs/mine            the versions of the sparse model
  resprout config --set pruner.sparsity=0.9        every setting and its origin
  resprout criteria check aux                      does a criterion keep its promises?
"""
RUN_HELP = """Learn from a file, or from generated clicks, to the end.

\b
Examples:
  resprout run --input clicks.csv --schema clicks.toml
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
@stored("--fresh", is_flag=True, help="Delete the run in the folder that --state names.")
@JSON
@click.option("--scale", type=float, default=1.0, help="Multiplies the events after the mask.")
@click.option("--drift", metavar="KIND", help="gradual, abrupt, recurring, churn, click-rate, none")
@click.pass_obj
def demo(request: CommandRequest, scale: float, drift: str | None) -> None:
    """Generate clicks that drift, and keep a sparse model up with them."""
    state = request.folder("demo")
    with usage():
        asked = request.load(LAYER).settings
        request.arguments |= changes(asked, scale=scale, drift=drift)
        plan = RunDefinition.generated(request.load(LAYER).settings)
        begun = request.state is not None and (state / RECORD).exists()
        if begun and not (request.resume or request.fresh):
            raise ValueError(f"{state} holds a run; --resume continues with it, --fresh deletes it")
        _prepare(plan, state, fresh=not request.resume)
    result = _run(plan, state, "`resprout demo --resume`")
    with failure():
        plots = _plot(result, state)
    _show(request, result)
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
    state = request.folder(request.input.stem if request.input else "generated")
    with usage():
        if request.append and not (state / RECORD).exists():
            raise ValueError(f"{state} holds no run to append to; name one with --state")
        derived = request.scale_to_input(state)
        plan = request.plan()
        _prepare(plan, state, fresh=request.fresh)
    if derived is not None:
        click.echo(derived, err=True)
    result = _run(plan, state, "the same command")
    if plot:
        with failure():
            written = _plot(result, state)
        click.echo(f"plot   {written[0]} (dark: {written[1].name})", err=True)
    _show(request, result)
    if result.without_sparse is not None:
        raise click.ClickException(result.without_sparse)


@main.command()
@STATE
@click.option(
    "--model",
    default="sparse",
    metavar="NAME",
    show_default=True,
    help="dense, sparse, never_rebuilt, or a comparison of the run.",
)
@click.option("--output", type=PATH, required=True, metavar="FOLDER", help="Made if need be.")
@click.option("--onnx", is_flag=True, help="Write model.onnx too, checked with onnxruntime.")
@click.pass_obj
def export(request: CommandRequest, model: str, output: Path, onnx: bool) -> None:
    """Write a model's last snapshot as a state dict that plain torch loads."""
    if request.state is None:
        raise click.UsageError("name the run: --state FOLDER")
    with usage():
        folder = RunFolder(request.state)
        record = folder.record()
        settings = Settings.model_validate(record["settings"])
        known = [one.name for one in settings.models]
        if model not in known:
            raise ValueError(f"--model {model!r} is none of {', '.join(known)}")
        names = folder.snapshots.names(model)
        if not names:
            raise ValueError(f"{request.state} holds no snapshot of {model!r}: is the run over?")
    with failure():
        schema = FeatureSchema.model_validate(record["schema"])
        module = build(settings.model.name, schema, settings.model.options, settings.seed)
        snapshot = folder.snapshots.read(names[-1])
        written = export_model(snapshot, module, schema, output, onnx=onnx)
    click.echo(written.weights)
    if written.onnx is not None:
        click.echo(f"{written.onnx}  logits within {written.onnx_difference:.2g} of torch's")


@main.group(name="criteria")
def criteria_group() -> None:
    """See which criteria there are, and check them."""


@criteria_group.command(name="list")
def list_criteria() -> None:
    """List all criteria by name, and the package that each comes from."""
    for name, package in criteria.known().items():
        click.echo(f"{name:<16}{package}")


@criteria_group.command(name="check")
@click.argument("name")
@click.option("--options", "text", default="{}", metavar="JSON", help="The criterion's options.")
def check_criterion(name: str, text: str) -> None:
    """Run the conformance checks on a criterion; exit code 1 if any fails."""
    with usage():
        options = parsed(text)
        if not isinstance(options, dict):
            raise ValueError(f"--options is {text}; it must be a JSON object, such as {{}}")
        criterion = criteria.build(name, options)
    checks = conformance.check(criterion)
    for one in checks:
        click.echo(f"{'ok  ' if one.passed else 'FAIL'}  {one.name}: {one.detail}")
    failed = sum(not one.passed for one in checks)
    if failed:
        raise click.ClickException(f"{name} failed {failed} of {len(checks)} checks")


@main.command()
@INPUT
@SETTINGS
@SCALE
@click.pass_obj
def config(request: CommandRequest) -> None:
    """Print every setting and where it came from, as TOML to start from."""
    with usage():
        loaded = request.load()
    click.echo(settings_toml(loaded))


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
        folder.clear()
    folder.check(plan)


def _run(plan: RunDefinition, state: Path, again: str) -> Result:
    progress = ProgressLine(window_events=plan.settings.trigger.window_events)
    with failure(), logging_to(progress), stoppable() as stop:
        result = execute(plan, state, progress, stop, show=True)
        progress.finish()
    if not result.finished:
        raise click.ClickException(
            f"stopped after {result.summary.events:,} events; {again} continues from there "
            f"({state})"
        )
    return result


def _plot(result: Result, state: Path) -> tuple[Path, Path]:
    """Write the plot, light and dark."""
    return save(RunHistory.of([*result.ledger, *result.windows]), state, PLOT)


def _show(request: CommandRequest, result: Result) -> None:
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
