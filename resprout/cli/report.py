"""``resprout report``: a run as one page of HTML to keep and send, and its picture for papers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import click
from pydantic_core import to_json

from evaluator.run import RunHistory, RunTables, TextTable
from evaluator.run.plot import PAPER, Paper, Suffix, save
from evaluator.run.report import About, report
from learner import masks_of, models
from pruner.masks import sparsity as share_removed
from resprout.cli.inspect import RecordedRun
from resprout.cli.options import PATH, SETTINGS, CommandRequest, failure, hurried, usage
from resprout.folder import PLOT, RECORD, REPORT
from resprout.run import Outcome, Result, footprint_in_force
from resprout.settings import SPARSE, tree, with_defaults
from resprout.spec import decisive
from stream import CategoricalFeature, NumericFeature, open_logs

HELP = """Write a run as one page of HTML: pictures, tables, ledger, configuration.

It needs no script and loads nothing, so it can be kept and sent; --plots writes the picture for
papers beside it. A run that is under way is reported as far as it has come.

\b
Examples, of the last run or of a state folder:
  resprout report
  resprout report runs/demo --output demo.html --plots both --size 7x4 --outlines
"""


def _inches(context: click.Context, option: click.Parameter, value: str) -> tuple[float, float]:
    """Read width and height, such as ``7x4``."""
    try:
        width, height = map(float, value.split("x"))
    except ValueError:
        text = f"{value!r} is not WIDTHxHEIGHT in inches, such as 7x4"
        raise click.BadParameter(text, context, option) from None
    return width, height


@click.command(name="report", help=HELP)
@click.argument("run", type=PATH, metavar="[DIR]", required=False)
@SETTINGS
@click.option("--title", default="A run of Resprout", show_default=True, help="Of the page.")
@click.option("--output", type=PATH, metavar="FILE", help=f"DIR/{REPORT} where it is not named.")
@click.option("--plots", type=click.Choice((*get_args(Suffix), "both")), help="Write these too.")
@click.option(
    "--size",
    metavar="WIDTHXHEIGHT",
    default="9.2x5.2",
    show_default=True,
    callback=_inches,
    help="Inches of plots.",
)
@click.option("--dpi", type=int, default=PAPER.dpi, show_default=True, help="Of PNG.")
@click.option("--outlines", is_flag=True, help="Letters of SVG as shapes, alike everywhere.")
@click.pass_obj
def report_command(request: CommandRequest, /, run: Path | None, title: str, **more: Any) -> None:
    """Write the report, and the plots that were asked for."""
    with usage():
        width, height = more["size"]
        paper = Paper(width, height, more["dpi"], more["outlines"])
    recorded = RecordedRun.of(request.past(run), request)
    page: Path = more["output"] or recorded.folder.path / REPORT
    with failure():
        stream, folder = hurried(recorded.settings.stream), recorded.folder.home.folder
        with open_logs(stream, folder, writable=False) as logs:
            history = RunHistory.read(logs, recorded.settings.models)
            total = recorded.total(logs)
        written = report(history, _about(recorded, title, history, total))
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_bytes(written)
            plots = [
                path
                for suffix in get_args(Suffix)
                if more["plots"] in (suffix, "both")
                for path in save(history, page.parent, PLOT, suffix, paper)
            ]
        except OSError as error:
            raise OSError(
                f"cannot write {error.filename or page} ({error.strerror or error}); name another "
                "file with --output"
            ) from error
    click.echo("\n".join(map(str, [page, *plots])))


def _about(recorded: RecordedRun, title: str, history: RunHistory, total: int | None) -> About:
    """Say what the messages do not."""
    settings, record = recorded.settings, recorded.record
    outcome = Outcome(finished=total == history.events, sparsity=_sparsity(recorded))
    result = Result(settings, history, outcome)
    summary = result.summary
    removes = {
        model.label: found.sparsity
        for model in settings.models
        if (found := summary.models.get(model.name)) and found.sparsity is not None
    }
    scored = "" if total is None else f" of {total:,}, the whole input"
    facts = {
        "Events scored": f"{summary.events:,}{scored}",
        "Windows": f"{summary.windows:,}",
        "Model": settings.model.name,
        "Criterion": f"{settings.pruner.criterion}, to {settings.pruner.sparsity:.0%}",
        "Trigger": settings.trigger.name,
        "Rebuilds": summary.rebuild_counts,
        **({"Grafts": summary.graft_counts} if summary.grafts else {}),
        "Dead letters": f"{summary.dead_letters:,}",
        "Seed": str(settings.seed),
        "Resprout": version("resprout"),
    }
    if removes:
        facts["Sparsity at the end"] = ", ".join(f"{n} {one:.1%}" for n, one in removes.items())
    if total != summary.events:
        facts["State"] = "stopped, or still under way"
    if record.get("init_from") is not None:
        facts["Dense began with"] = f"weights of SHA-256 {record['init_from']}"
    return About(
        title=title,
        facts=facts,
        results=RunTables.of(history).results(settings.evaluator.min_clicks).without_gaps(),
        remarks=result.remarks,
        appendix=(
            configuration(record["settings"], record.get("origins", {})),
            _features(recorded),
            *_footprint(recorded, history),
            _snapshots(recorded),
        ),
    )


def _sparsity(recorded: RecordedRun) -> dict[str, float]:
    """Say what share of weights each model's last snapshot is without, of those that have one."""
    kept, found = recorded.folder.snapshots, dict[str, float]()
    for model in recorded.settings.models:
        if names := kept.names(model.name):
            masks = masks_of(kept.read(names[-1]))
            found |= {model.name: share_removed(masks)} if masks else {}
    return found


def configuration(recorded: Mapping[str, Any], origins: Mapping[str, str]) -> TextTable:
    """List every setting that decides anything, beside the default where it is another."""

    def texts(values: Mapping[str, Any]) -> dict[str, str]:
        named = tree(decisive(with_defaults(values)))
        leaves = {n: one for n, one in named if not one or not isinstance(one, Mapping)}
        return {name: to_json(one).decode() for name, one in leaves.items()}

    usual, rows = texts({}), []
    for name, value in texts(recorded).items():
        default = usual.get(name, "")
        rows.append((name, value, "" if default == value else default, origins.get(name, "")))
    header = ("setting", "value", "default, where another", "set by")
    return TextTable(f"Configuration, as in {RECORD}", header, tuple(rows)).without_gaps()


def _footprint(recorded: RecordedRun, history: RunHistory) -> Iterator[TextTable]:
    """Say what is pruned and what not, where there is a sparse model."""
    settings, schema = recorded.settings, recorded.schema
    module = models.build(settings.model.name, schema, settings.model.options, settings.seed)
    found = footprint_in_force(history, module, schema)
    if found is not None:
        header, *rows = found.table()
        caption = "What the sparse model in force takes, of what the dense one does"
        yield TextTable(caption, header, tuple(rows))


def _features(recorded: RecordedRun) -> TextTable:
    schema, rows = recorded.schema, []
    features: tuple[NumericFeature | CategoricalFeature, ...]
    features = (*schema.numeric, *schema.categorical)
    for one in features:
        options = ", ".join(
            f"{name.replace('_', ' ')} {to_json(value).decode()}"
            for name, value in one.model_dump(exclude={"name"}).items()
        )
        kind = "numeric" if isinstance(one, NumericFeature) else "categorical"
        rows.append((one.name, kind, options))
    return TextTable("Schema", ("feature", "kind", "how it becomes numbers"), tuple(rows))


def _snapshots(recorded: RecordedRun) -> TextTable:
    kept = recorded.folder.snapshots
    candidates = sorted(
        (path.name for path in kept.folder.glob("candidate-*")), key=lambda n: (len(n), n)
    )
    known = (model.name for model in recorded.settings.models)
    models = (*known, f"published-{SPARSE}", *candidates)
    rows = tuple((name, model) for model in models for name in kept.names(model))
    return TextTable("Snapshots that are kept", ("snapshot", "model"), rows)
