from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from evaluator.run import RunHistory, RunTables
from pruner.masks import DiskMaskStore
from resprout.cli import main
from resprout.cli.report import configuration
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.runner import Step
from resprout.spec import RunDefinition
from stream.log import KafkaConfig
from stream.messages import Window
from stream.topics import CLICKS, DEAD_LETTERS, LEDGER, WINDOWS
from tests.html_page import Element, check, read, tables
from tests.resprout.eventful import PLAN, TOTAL
from tests.resprout.small import small


def call(run: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", str(run), *arguments])


def page(run: Path, output: Path, *arguments: str) -> Element:
    result = call(run, "--output", str(output), *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == str(output)
    found = read(output.read_bytes())
    check(found)
    return found


def facts(found: Element) -> dict[str, str]:
    texts = [one.text for one in found.all("dt", "dd")]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def made(run: Path) -> None:
    """Make the logs that a report is of."""
    for log in (CLICKS, LEDGER, WINDOWS, DEAD_LETTERS):
        RunFolder(run).home.writer(log).close()


def mean(windows: Iterable[Window], model: str) -> float:
    """Return a model's cross entropy over windows, event by event."""
    total, weight = 0.0, 0.0
    for one in windows:
        ce = one.metric(model, "ce")
        assert ce is not None
        total, weight = total + one.weight * ce, weight + one.weight
    return total / weight


def test_a_finished_run_is_told_whole(whole: RunFolder, tmp_path: Path) -> None:
    found = page(whole.path, tmp_path / "deep" / "run.html")
    told = facts(found)
    assert told["Events scored"] == f"{TOTAL:,} of {TOTAL:,}, the whole input"
    assert told["Rebuilds"] == "2 promoted, 1 rejected, 1 unfinished, after the first mask"
    assert (told["Seed"], told["Criterion"]) == ("2", "aux, to 80%")
    assert "State" not in told
    history = RunHistory.read(whole.home, keeps_messages=True)
    windows = history.of_kind(Window)
    scored = [one for one in windows if one.size == 500 and one.begin >= 7_000]
    caption = "On the same events: since the first mask took over, and the last half of these"
    header, *rows = tables(found)[caption]
    ce = {row[0]: dict(zip(header, row, strict=True))["CE"] for row in rows}
    assert ce["dense"] == f"{mean(scored, 'dense'):.4f}"
    assert ce["never rebuilt"] == f"{mean(scored, 'never_rebuilt'):.4f}"
    lost = {row[0]: dict(zip(header, row, strict=True))["vs dense"] for row in rows}
    assert lost["sparse"] == f"{mean(scored, 'sparse') / mean(scored, 'dense') - 1:+.2%}"
    verdicts = tables(found)["Every rebuild"][1:]
    assert len(verdicts) == len(history.verdicts) == 5
    snapshots = {row[0] for row in tables(found)["Snapshots that are kept"][1:]}
    kept = [path for path in whole.snapshots.folder.glob("*/[!.]*") if path.is_dir()]
    assert snapshots == {str(path.relative_to(whole.snapshots.folder)) for path in kept}
    features = tables(found)["Schema"][1:]
    assert tuple(row[0] for row in features) == PLAN.source.schema.names


def test_what_the_sparse_model_takes_is_told(whole: RunFolder, tmp_path: Path) -> None:
    found = page(whole.path, tmp_path / "run.html")
    head = DiskMaskStore(whole.masks).head()
    assert head is not None
    assert head.mask is not None
    mask = DiskMaskStore(whole.masks).get(head.mask)
    biases = sum(one.shape[0] for one in mask.values())
    weights, left = (sum(int(f(m)) for m in mask.values()) for f in (torch.numel, torch.sum))
    takes = tables(found)["What the sparse model in force takes, of what the dense one does"]
    assert takes[1][0] == "fully connected layers"
    assert takes[1][1].startswith(f"{left + biases:,} of {weights + biases:,} (")


def test_a_run_that_was_stopped_is_told_and_once_it_went_on_is_told_as_if_it_never_was(
    whole: RunFolder, tmp_path: Path
) -> None:
    stop, run = threading.Event(), tmp_path / "run"

    def observe(name: str, step: Step) -> None:
        if name == "evaluator" and step.count >= 14_000:
            stop.set()

    assert not execute(PLAN, run, observe, stop).finished
    found = page(run, tmp_path / "stopped.html")
    assert facts(found)["State"] == "stopped, or still under way"
    assert execute(PLAN, run).finished
    page(run, tmp_path / "here.html")
    page(whole.path, tmp_path / "there.html")
    assert (tmp_path / "here.html").read_bytes() == (tmp_path / "there.html").read_bytes()


def test_a_run_that_has_not_begun_is_told(tmp_path: Path) -> None:
    """Its evaluator has opened all logs, and written nothing."""
    RunFolder(tmp_path).begin(PLAN)
    made(tmp_path)
    result = call(tmp_path)
    assert result.exit_code == 0, result.output
    found = read((tmp_path / "report.html").read_bytes())
    check(found)
    assert facts(found)["Rebuilds"] == "none"
    assert "there is nothing to draw" in found.text


def test_plots_for_papers_are_written_beside_it(whole: RunFolder, tmp_path: Path) -> None:
    size = ("--size", "6x4", "--dpi", "50", "--outlines")
    result = call(whole.path, "--output", str(tmp_path / "r.html"), "--plots", "both", *size)
    names = ["r.html", "ne-light.svg", "ne-dark.svg", "ne-light.png", "ne-dark.png"]
    assert result.stdout.splitlines() == [str(tmp_path / name) for name in names]
    assert struct.unpack(">II", (tmp_path / "ne-dark.png").read_bytes()[16:24]) == (300, 200)
    svg = (tmp_path / "ne-light.svg").read_text()
    assert 'viewBox="0 0 432 288"' in svg
    assert "<text" not in svg
    call(whole.path, "--output", str(tmp_path / "one" / "r.html"), "--plots", "svg")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "r.html",
        "ne-light.svg",
        "ne-dark.svg",
    }


def test_plots_of_a_run_without_a_whole_window_are_refused_by_name(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin(PLAN)
    made(tmp_path)
    result = call(tmp_path, "--plots", "svg")
    assert result.exit_code == 1
    assert "no whole window" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--size", "7"), "'7' is not WIDTHxHEIGHT in inches, such as 7x4"),
        (("--size", "axb"), "'axb' is not WIDTHxHEIGHT in inches"),
        (("--size", "2x2"), "a picture of 2 x 2 inches; it takes 4.5 x 3.5 at least"),
        (("--dpi", "0"), "at 0 dpi"),
        (("--plots", "gif"), "'gif' is not one of"),
        ((), "holds no run; name the state folder of one"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, arguments: tuple[str, ...], fault: str
) -> None:
    result = call(tmp_path, *arguments)
    assert result.exit_code == 2
    assert fault in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lacks", [CLICKS, LEDGER, WINDOWS, DEAD_LETTERS, None])
def test_a_run_whose_logs_are_gone_is_no_empty_run(tmp_path: Path, lacks: str | None) -> None:
    RunFolder(tmp_path).begin(PLAN)
    if lacks is not None:
        made(tmp_path)
        shutil.rmtree(tmp_path / "logs" / lacks)
    before = sorted(tmp_path.rglob("*"))
    result = call(tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}/logs holds no log {lacks or LEDGER!r}" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    for command in (["report"], ["evaluate", "--replay"]):
        result = CliRunner().invoke(main, [*command, str(tmp_path / "README.md")])
        assert result.exit_code == 2
        assert "README.md is a file and no run; name the state folder of one" in result.stderr


@pytest.mark.parametrize("where", ["report.html", "other/report.html"])
def test_where_nothing_can_be_written_another_file_can_be_named(tmp_path: Path, where: str) -> None:
    """A folder stands in the place of the file, or a file in that of its folder."""
    RunFolder(tmp_path).begin(PLAN)
    made(tmp_path)
    (tmp_path / "report.html").mkdir()
    (tmp_path / "other").touch()
    named = () if where == "report.html" else ("--output", str(tmp_path / where))
    result = call(tmp_path, *named)
    assert result.exit_code == 1
    assert f"cannot write {tmp_path / where.partition('/')[0]}" in result.stderr
    assert "name another file with --output" in result.stderr


def test_a_folder_with_a_report_can_still_be_begun_afresh(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert execute(RunDefinition.generated(small()), folder.path).finished
    assert call(folder.path, "--plots", "both").exit_code == 0
    folder.clear()
    assert {path.name for path in folder.path.iterdir()} <= {"lock", "workers"}


def test_settings_stand_beside_their_defaults_and_who_set_them() -> None:
    recorded = {"seed": 4, "pruner": {"sparsity": 0.9}}
    table = configuration(recorded, {"seed": "argument"})
    assert table.header == ("setting", "value", "default, where another", "set by")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["seed"] == ("4", "0", "argument")
    assert rows["pruner.sparsity"] == ("0.9", "0.8", "")
    assert rows["pruner.criterion"] == ('"fisher_ema"', "", "")
    assert configuration({}, {}).header == ("setting", "value")


def test_no_setting_is_missing_but_those_that_decide_nothing(
    whole: RunFolder, tmp_path: Path
) -> None:
    def names(values: dict[str, Any], at: str = "") -> list[str]:
        found = []
        for name, value in values.items():
            inside = names(value, f"{at}{name}.") if isinstance(value, dict) else []
            found += inside or [at + name]
        return found

    record = json.loads((whole.path / "run.json").read_text())
    table = tables(page(whole.path, tmp_path / "r.html"))["Configuration, as in run.json"]
    assert [row[0] for row in table[1:]] == names(record["settings"])
    assert not any("password" in row[0] for row in table)


def test_without_a_score_there_is_no_row_of_results() -> None:
    assert RunTables.of(RunHistory()).results(min_clicks=10).rows == ()


def test_a_run_on_a_broker_is_told_like_one_in_its_folder(
    tmp_path: Path, kafka_config: KafkaConfig
) -> None:
    there = {f"stream__kafka__{k}": getattr(kafka_config, k) for k in ("bootstrap", "prefix")}
    execute(RunDefinition.generated(small(stream__home="kafka", **there)), tmp_path / "there")
    execute(RunDefinition.generated(small()), tmp_path / "here")
    broker = ("--set", f"stream.kafka.bootstrap={kafka_config.bootstrap}")
    one = tables(page(tmp_path / "there", tmp_path / "there.html", *broker))
    other = tables(page(tmp_path / "here", tmp_path / "here.html"))
    settings = "Configuration, as in run.json"
    assert one.pop(settings) != other.pop(settings)
    assert one == other
