"""A metric from another package goes everywhere that the built-in ones go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluator.metrics import METRICS, Metric, ScoredEvents, installed
from evaluator.metrics.metric import EventSums
from evaluator.run.history import RunHistory
from evaluator.run.report import About, report
from evaluator.run.tables import TextTable
from stream.messages import Window
from stream.topics import WINDOWS
from tests.evaluator.page.site import served
from tests.evaluator.stage import EVENTS, chance, drawn, full_run, run
from tests.html_page import read, tables

ROOT = Path(__file__).parents[3]
CODE = """
from evaluator.metrics import Export, Metric

brier = Metric(
    name="brier",
    label="Brier",
    title="Brier score",
    terms={"squares": lambda events: events.weight * (events.label - events.probability) ** 2},
    value=lambda scored: scored.terms["squares"] / scored.on.weight,
    view="panel",
    export=Export("their_brier_ratio", "Mean squared error, on the last full window"),
)
ne = brier
nothing = 3
"""
LABEL, WEIGHT = drawn(EVENTS)


def install(folder: Path, *names: str) -> None:
    """Lay out a package that offers metrics."""
    (folder / "their_metrics.py").write_text(CODE)
    about = folder / "their_metrics-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-metrics\nVersion: 1.0\n")
    lines = [f"{name} = their_metrics:{name}" for name in names]
    (about / "entry_points.txt").write_text("\n".join(["[resprout.metrics]", *lines, ""]))


@pytest.fixture
def brier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    install(folder, "brier")
    monkeypatch.syspath_prepend(folder)
    return folder


def test_without_other_packages_there_are_the_built_in_ones() -> None:
    assert installed() == METRICS
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.usefixtures("brier")
def test_windows_page_csv_and_report_show_the_metric_of_another_package(tmp_path: Path) -> None:
    stage = full_run(tmp_path / "run")
    run(stage.evaluator())
    windows = [one for one in stage.messages(WINDOWS) if isinstance(one, Window)]
    for window in windows:
        rows = slice(window.begin, window.end)
        squares = (LABEL[rows] - chance("dense", EVENTS)[rows]) ** 2
        expected = np.average(squares, weights=WEIGHT[rows])
        assert window.metric("dense", "brier") == pytest.approx(expected)
        assert (window.metric("sparse", "brier") is None) == (window.models["sparse"] is None)
    with served(tmp_path / "page", *windows) as site:
        panels = {one["name"]: one for one in site.get("/api/run").json["panels"]}
        assert (panels["brier"]["title"], panels["brier"]["view"]) == ("Brier score", "panel")
        found = site.get("/api/windows?size=20&columns=dense.brier").json["columns"]
        assert found["dense.brier"][0] == pytest.approx(windows[0].metric("dense", "brier"))
        assert "dense.brier" in site.get("/api/windows.csv?size=20").text.splitlines()[0]
        assert "dense,brier," in site.get("/api/scores.csv?size=20").text
    about = About("A run", {}, TextTable("", (), ()), (), ())
    page = tables(read(report(RunHistory.of(windows), about)))
    header, first, *_ = page["21 windows of 20 events"]
    cells = dict(zip(header, first, strict=True))
    assert cells["dense Brier"] == f"{windows[0].metric('dense', 'brier'):.4f}"


def test_prometheus_exports_the_metric_of_another_package(brier: Path) -> None:
    code = (
        "from resprout.monitoring.metrics import families, markdown\n"
        "print([(f.kind, f.labels) for f in families() if f.name == 'their_brier_ratio'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{brier}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[('gauge', ('model', 'window'))]"


@pytest.mark.parametrize("name", ["ne", "nothing"])
def test_what_is_no_further_metric_is_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"entry point '{name}' of resprout.metrics gives"):
        installed()


def test_one_that_cannot_be_loaded_stops_only_what_needs_it(tmp_path: Path) -> None:
    install(tmp_path, "gone")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def ran(*command: str) -> subprocess.CompletedProcess[str]:
        program = (sys.executable, "-m", "resprout", *command)
        return subprocess.run(
            program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert ran("schema").returncode == 0
    done = ran("demo", "--scale", "0.01", "--state", "run")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "'gone'" in done.stderr


def test_a_format_that_the_page_cannot_write_is_refused() -> None:
    with pytest.raises(ValueError, match="format of the metric 'x' is 'd'; use one such as"):
        Metric(name="x", label="x", title="x", value=lambda _: None, format="d")


@pytest.mark.parametrize(
    ("format", "value", "error", "text"),
    [
        (".4f", 0.75, None, "0.7500"),
        (".4f", 0.75, 0.00151, "0.7500 ± 0.0016"),
        ("+.2%", 0.0123, None, "+1.23%"),
        ("+.2%", 0.5, 0.00151, "+50.00% ± 0.16%"),
        (".3f", None, 0.5, ""),
    ],
)
def test_a_value_is_written_as_the_metric_says(
    format: str, value: float | None, error: float | None, text: str
) -> None:
    metric = Metric(name="x", label="x", title="x", value=lambda _: None, format=format)
    assert metric.write(value, error) == text


def test_a_metric_whose_terms_are_not_known_has_no_value() -> None:
    scored = ScoredEvents(EventSums(events=9, clicked=4, weight=9.0, clicks=4.0))
    for metric in METRICS:
        if metric.terms:
            assert metric.compute(scored, min_clicks=1) is None
