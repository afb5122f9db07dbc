"""A further model is one more entry in the list: nothing else knows it by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluator.run.history import RunHistory
from evaluator.run.plot import draw
from evaluator.run.report import About, report
from evaluator.run.tables import RunTables, TextTable
from stream.messages import AnyMessage, Window
from stream.spec import MODELS, ModelSpec
from stream.topics import WINDOWS
from tests.evaluator.page.site import served
from tests.evaluator.run.test_plot import words
from tests.evaluator.stage import EVENTS, FIRST, SPEC, chance, full_run, run, with_models
from tests.html_page import read, tables

FOURTH = ModelSpec("grafted", "comparison", "grafted at once", "#009E73", dash=(1.0, 1.0))
FOUR = (*MODELS, FOURTH)


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[AnyMessage]:
    """Score four models."""
    stage = with_models(full_run(tmp_path_factory.mktemp("run")), [one.name for one in FOUR])
    stage = replace(stage, spec=replace(SPEC, models=FOUR))
    for name in ("never_rebuilt", FOURTH.name):
        stage.predict(name, chance(name, EVENTS), FIRST.end)
    run(stage.evaluator())
    return [one for one in stage.messages(WINDOWS) if isinstance(one, AnyMessage)]


def test_it_is_scored_from_where_all_begin(messages: list[AnyMessage]) -> None:
    windows = [one for one in messages if isinstance(one, Window)]
    for window in windows:
        started = window.begin >= FIRST.end
        assert (window.metric(FOURTH.name, "relative_ce") is not None) == started


def test_it_is_on_the_page(messages: list[AnyMessage], tmp_path: Path) -> None:
    with served(tmp_path, *messages, models=FOUR) as site:
        found = site.get("/api/run").json
        assert found["models"][3] == {
            "name": "grafted",
            "role": "comparison",
            "label": "grafted at once",
            "colour": "#009E73",
            "dash": [1.0, 1.0],
        }
        columns = site.get("/api/windows?size=40&columns=grafted.ne").json["columns"]
        assert columns["grafted.ne"][-1] is not None


def test_it_is_in_the_picture_and_in_the_report(messages: list[AnyMessage]) -> None:
    history = RunHistory.of(messages, FOUR)
    svg = draw(history, size=20)
    assert sum(text.startswith("grafted at once") for text in words(svg)) == 2
    assert b"#009e73" in svg.lower()
    page = read(report(history, About("A run", {}, TextTable("", (), ()), (), ())))
    header = tables(page)["21 windows of 20 events"][0]
    assert {"grafted at once NE", "grafted at once vs dense"} <= set(header)
    rows = [row[0] for row in RunTables.of(history).results(min_clicks=2).rows]
    assert rows == ["dense", "sparse", "never rebuilt", "grafted at once"]


def test_one_that_no_list_knows_is_grey_and_dashed(messages: list[AnyMessage]) -> None:
    unknown = RunHistory.of(messages).models[3]
    assert (unknown.label, unknown.role, unknown.colour) == ("grafted", "comparison", None)
    assert unknown.dash
