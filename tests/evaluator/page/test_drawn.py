"""What stands on the plots and in the tables, and that it can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from stream.messages import Interval, Message, Window
from tests.evaluator.messages import alarm, grafted, lifetime, masked
from tests.evaluator.page.browser import Text, View
from tests.evaluator.page.site import served
from tests.evaluator.runs import score, verdict, window

SIGNS = {"dense_loss": "◇", "relative_loss": "◆", "click_rate": "◈", "input": "❖"}
EVENTS = 4_000
OWN = {"ne": "◇", "calibration": "", "click_rate": "◈", "figure": ""}
"""Which alarms a panel shows; the main one shows all."""


def scored(number: int) -> Window:
    """Make a window with an interval about the relative CE."""
    interval = Interval(mean=0.025, low=0.02, high=0.03)
    models = {"dense": score(0.8), "sparse": score(0.82, 0.41, interval)}
    return window(100, number, {"dense": 0.4}).model_copy(update={"models": models})


def run() -> list[Message]:
    """Lay out a run with all alarms, some of them close together; its last rebuild stays open."""
    windows = [scored(number) for number in range(EVENTS // 100)]
    close = [alarm(count, "relative_loss") for count in (1_500, 1_510, 1_520, 1_530, 3_000)]
    others = [alarm(1_500, "dense_loss"), alarm(1_500), alarm(1_510), alarm(1_500, "input", "site")]
    masks = [
        masked(number, 400 * number, **dict.fromkeys(("bottom_layer.0", "top"), (200, 40, 0.5)))
        for number in range(1, 9)
    ]
    return [*windows, *close, *others, *masks, verdict(9, EVENTS + 400, "unfinished")]


def is_sign(one: Text) -> bool:
    return one.text[0] in "".join(SIGNS.values())


@pytest.fixture(params=[1_280, 390], ids=["wide", "narrow"])
def view(browser: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[View]:
    rich = score(0.8, roc_auc=0.8, pr_auc=0.5)
    rich = rich.model_copy(update={"errors": {"roc_auc": 0.00171, "pr_auc": 0.0052}})
    models = {"dense": rich, "sparse": rich}
    so_far = lifetime(0, EVENTS).model_copy(update={"models": models})
    with served(tmp_path, *run(), so_far) as site:
        view = View(browser.new_page(viewport={"width": request.param, "height": 844}))
        view.open(site.url)
        yield view
        view.page.close()
        assert view.complaints == []


def test_every_detector_has_a_sign_and_stands_where_it_belongs(view: View) -> None:
    for detector, sign in SIGNS.items():
        listed = view.page.locator(f'#events button[data-outcome="{detector}"] .sign')
        assert set(listed.all_inner_texts()) == {sign}
        expect(view.page.locator("footer")).to_contain_text(f"{sign} {detector.replace('_', ' ')}")
    assert {one.text[0] for one in view.texts("relative_ce") if is_sign(one)} == set(SIGNS.values())
    for panel, signs in OWN.items():
        assert {one.text[0] for one in view.texts(panel) if is_sign(one)} == set(signs), panel


def test_no_sign_of_an_alarm_runs_into_another(view: View) -> None:
    """Where there is no room for each, they stand as one with their number."""
    found = [one for one in view.texts("relative_ce") if is_sign(one)]
    for row in {one.y for one in found}:
        stand = sorted(one for one in found if one.y == row)
        assert {one.text[0] for one in stand} == {stand[0].text[0]}
        for left, right in pairwise(sorted(stand, key=lambda one: one.left)):
            assert left.right <= right.left
    counts = [one.text for one in found if one.text[0] == "◆" and "loss" not in one.text]
    assert sum(int(text[1:] or 1) for text in counts) == 5
    assert "◆4" in counts


def test_a_rebuild_that_was_not_done_stands_at_the_end_of_the_run(view: View) -> None:
    texts = view.texts("ne")
    marks = [one for one in texts if one.text == "▼"]
    assert len(marks) == 9
    last = max(marks)
    assert (last.left + last.right) / 2 == pytest.approx(view.right_end("ne"), abs=1)


def test_names_at_line_ends_are_dashed_as_their_lines(view: View) -> None:
    assert view.dashes_of_key("click_rate", 1) == [[]]
    assert view.dashes_of_key("ne", 2) == [[], []]


def test_how_far_a_figure_may_be_off_is_said(view: View) -> None:
    assert view.says("relative_ce") == "sparse +2.50 % ± 0.50 at 4,000"
    rows = view.page.locator("#scores tbody tr")
    expect(rows.filter(has_text="ROC AUC")).to_have_text("ROC AUC0.8000 ± 0.00180.8000 ± 0.0018")
    expect(rows.filter(has_text="PR AUC")).to_have_text("PR AUC0.5000 ± 0.00520.5000 ± 0.0052")


def test_the_names_of_layers_stay_in_sight(view: View) -> None:
    scroll = view.page.locator("#sparsity .scroll")
    name = view.page.locator("#sparsity tbody th").first
    for x in (0, 10_000):
        scroll.scroll_into_view_if_needed()
        scroll.evaluate("(one, x) => { one.scrollLeft = x; }", x)
        outer, inner = scroll.bounding_box(), name.bounding_box()
        assert outer is not None
        assert inner is not None
        assert inner["x"] == pytest.approx(outer["x"], abs=1)
        middle = inner["x"] + inner["width"] / 2, inner["y"] + inner["height"] / 2
        on_top = view.page.evaluate("at => document.elementFromPoint(...at).textContent", middle)
        assert on_top == "bottom_layer.0"


def test_grafts_are_ticks_at_the_foot_and_their_churn_a_line(
    browser: Browser, tmp_path: Path
) -> None:
    """Until there is one, the page says nothing of them; then it grows with the stream."""
    with served(tmp_path, *run()) as site:
        view = View(browser.new_page(viewport={"width": 1_280, "height": 844}))
        view.open(site.url)
        strokes = len(view.page.evaluate("drawnIn('ne')")["strokes"])
        sign = view.page.locator("#graft-sign")
        expect(sign).to_be_hidden()
        expect(view.page.locator("#churn")).to_have_count(0)
        for number, count in enumerate((1_000, 2_000, 3_000), start=1):
            site.append(grafted(count, top=(50, number), low=(150, 0)))
        expect(view.page.locator("#churn-summary")).to_have_text("1.50 % at 3,000")
        expect(view.page.locator("#tiles")).to_contain_text("grafts3, the last at 3,000")
        expect(sign).to_be_visible()
        drawn = view.page.evaluate("drawnIn('ne')")["strokes"]
        assert len(drawn) == strokes + 1
        entries = view.page.locator("#events li").count()
        view.open(site.url)
        expect(view.page.locator("#churn-summary")).to_have_text("1.50 % at 3,000")
        assert view.page.locator("#events li").count() == entries
        view.page.close()
        assert view.complaints == []
