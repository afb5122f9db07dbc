"""``resprout report``: a run as one page of HTML to keep and send, and its picture for papers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import click
from pydantic_core import to_json

from evaluator.run import RunHistory, RunTables, TextTable
from evaluator.run.plot import PAPER, Paper, Suffix, save
from evaluator.run.report import About, report
from pruner import InputEnd
from resprout import homes
from resprout.cli.options import PATH, SETTINGS, CommandRequest, failure, usage
from resprout.folder import PLOT, RECORD, REPORT, RunFolder
from resprout.run import Outcome, Result, Summary
from resprout.settings import SPARSE, Settings, with_defaults
from resprout.spec import decisive
from stream import FeatureSchema, open_logs
from stream.log import LogStore
from stream.topics import CLICKS

HELP = """Write a run as one page of HTML: pictures, tables, ledger, configuration.

It needs no script and loads nothing, so it can be kept and sent; --plots writes the picture for
papers beside it. A run that is under way is reported as far as it has come.

\b
Examples:
  resprout report runs/demo
  resprout report runs/demo --output demo.html --plots both --size 7x4 --outlines
"""


class Size(click.ParamType[tuple[float, float]]):
    """Width and height in inches."""

    name = "WIDTHxHEIGHT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Read ``7x4``."""
        try:
            width, height = map(float, value.split("x"))
        except ValueError:
            self.fail(f"{value!r} is not {self.name} in inches, such as 7x4", param, ctx)
        return width, height


@click.command(name="report", help=HELP)
@click.argument("run", type=PATH, metavar="DIR")
@SETTINGS
@click.option("--title", default="A run of Resprout", show_default=True, help="Of the page.")
@click.option("--output", type=PATH, metavar="FILE", help=f"DIR/{REPORT} where it is not named.")
@click.option("--plots", type=click.Choice((*get_args(Suffix), "both")), help="Write these too.")
@click.option("--size", type=Size(), default="9.2x5.2", show_default=True, help="Inches of plots.")
@click.option("--dpi", type=int, default=PAPER.dpi, show_default=True, help="Of PNG.")
@click.option("--outlines", is_flag=True, help="Letters of SVG as shapes, alike everywhere.")
@click.pass_obj
def report_command(request: CommandRequest, /, run: Path, title: str, **more: Any) -> None:
    """Write the report, and the plots that were asked for."""
    with usage():
        width, height = more["size"]
        paper = Paper(width, height, more["dpi"], more["outlines"])
        recorded = RecordedRun.of(RunFolder(run), request)
    page: Path = more["output"] or run / REPORT
    with failure():
        stream, folder = homes.hurried(recorded.settings.stream), recorded.folder.home.folder
        with open_logs(stream, folder, writable=False) as logs:
            history = RunHistory.read(logs, recorded.settings.models)
            total = recorded.total(logs)
        written = report(history, recorded.about(title, history, total))
        with _writing(page):
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_bytes(written)
            plots = [
                path
                for suffix in get_args(Suffix)
                if more["plots"] in (suffix, "both")
                for path in save(history, page.parent, PLOT, suffix, paper)
            ]
    click.echo("\n".join(map(str, [page, *plots])))


@contextmanager
def _writing(page: Path) -> Iterator[None]:
    """Say how to write elsewhere, where nothing can be written."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {error.filename or page} ({error.strerror or error}); name another "
            "file with --output"
        ) from error


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What the state folder says of a run."""

    folder: RunFolder
    record: Mapping[str, Any]
    settings: Settings
    schema: FeatureSchema

    @classmethod
    def of(cls, folder: RunFolder, request: CommandRequest) -> RecordedRun:
        """Read it; the command line may say where the servers are."""
        record = folder.record()
        settings = request.load((str(folder.path), record["settings"])).settings
        return cls(folder, record, settings, FeatureSchema.model_validate(record["schema"]))

    def total(self, logs: LogStore) -> int | None:
        """Return the events of the whole input, None while that is not known."""
        with closing(logs.reader(CLICKS)) as reader:
            return InputEnd(reader, self.folder.snapshots, self.schema).total()

    def about(self, title: str, history: RunHistory, total: int | None) -> About:
        """Say what the messages do not."""
        result = Result(self.settings, history, Outcome(finished=total == history.events))
        results = RunTables.of(history).results(self.settings.evaluator.min_clicks)
        return About(
            title=title,
            facts=self._facts(result.summary, total),
            results=results.without_gaps(),
            remarks=result.remarks,
            appendix=(
                configuration(self.record["settings"], self.record.get("origins", {})),
                _features(self.schema),
                self._snapshots(),
            ),
        )

    def _facts(self, summary: Summary, total: int | None) -> dict[str, str]:
        scored = "" if total is None else f" of {total:,}, the whole input"
        pruner, warm = self.settings.pruner, self.record.get("init_from")
        facts = {
            "Events scored": f"{summary.events:,}{scored}",
            "Windows": f"{summary.windows:,}",
            "Model": self.settings.model.name,
            "Criterion": f"{pruner.criterion}, to {pruner.sparsity:.0%}",
            "Trigger": self.settings.trigger.name,
            "Rebuilds": _counted(summary),
            "Dead letters": f"{summary.dead_letters:,}",
            "Seed": str(self.settings.seed),
            "Resprout": version("resprout"),
        }
        if total != summary.events:
            facts["State"] = "stopped, or still under way"
        if warm is not None:
            facts["Dense began with"] = f"weights of SHA-256 {warm}"
        return facts

    def _snapshots(self) -> TextTable:
        kept = self.folder.snapshots
        candidates = sorted(
            (path.name for path in kept.folder.glob("candidate-*")), key=lambda n: (len(n), n)
        )
        known = (model.name for model in self.settings.models)
        models = (*known, f"published-{SPARSE}", *candidates)
        rows = tuple((name, model) for model in models for name in kept.names(model))
        return TextTable("Snapshots that are kept", ("snapshot", "model"), rows)


def _counted(summary: Summary) -> str:
    ended = [one.verdict for one in summary.rebuilds]
    counts = [f"{ended.count(verdict)} {verdict}" for verdict in dict.fromkeys(ended)]
    if summary.rollbacks:
        counts.append(f"{len(summary.rollbacks)} rolled back")
    return ", ".join(counts) or "none"


def configuration(recorded: Mapping[str, Any], origins: Mapping[str, str]) -> TextTable:
    """List every setting that decides anything, beside the default where it is another."""
    usual = dict(_flat(decisive(with_defaults({}))))
    rows = tuple(
        (
            name,
            value,
            "" if usual.get(name) == value else usual.get(name, ""),
            origins.get(name, ""),
        )
        for name, value in _flat(decisive(with_defaults(recorded)))
    )
    header = ("setting", "value", "default, where another", "set by")
    return TextTable(f"Configuration, as in {RECORD}", header, rows).without_gaps()


def _flat(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{at}{name}.")
        else:
            yield at + name, to_json(value).decode()


def _features(schema: FeatureSchema) -> TextTable:
    rows = [(one.name, "numeric", _described(one.model_dump())) for one in schema.numeric]
    rows += [(one.name, "categorical", _described(one.model_dump())) for one in schema.categorical]
    return TextTable("Schema", ("feature", "kind", "how it becomes numbers"), tuple(rows))


def _described(options: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {to_json(value).decode()}"
        for name, value in options.items()
        if name != "name"
    )
