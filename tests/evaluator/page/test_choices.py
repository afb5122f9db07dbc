"""What people choose on the page: it is shown when it has come, and nothing else moves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from stream.messages import Message, Window
from tests.evaluator.messages import alarm, decided, stability
from tests.evaluator.page.browser import View
from tests.evaluator.page.cable import Cable
from tests.evaluator.page.site import Site, served
from tests.evaluator.runs import verdict, window

EVENTS = 1_600


def both(size: int, number: int) -> Window:
    """Make a window in which the sparse model loses more and more."""
    return window(size, number, {"dense": 0.4, "sparse": 0.4 + size * number / 100_000})


def run() -> list[Message]:
    """Lay out a run with windows of 100 and of 200 events; the input is compared by hundreds."""
    windows = [both(size, number) for size in (100, 200) for number in range(EVENTS // size)]
    moved = [stability(end - 100, end, site=0.1) for end in range(300, EVENTS + 1, 100)]
    told: list[Message] = []
    for one in windows:
        told += [one, *(m for m in moved if one.size == 100 and m.end == one.end)]
    return [*told, verdict(1, 400), alarm(1_000), verdict(2, 1_200)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with served(tmp_path, *run()) as site:
        yield site


@pytest.fixture
def view(browser: Browser, site: Site) -> Iterator[View]:
    view = View(browser.new_page())
    view.open(site.url)
    expect(view.page.locator("#connection")).to_have_text("live")
    view.page.keyboard.press("0")
    view.wait_for_windows(16)
    yield view
    view.page.close()
    assert view.complaints == []


def choose(view: View, size: int) -> None:
    """Choose a window size, whether or not it is shown then."""
    view.page.locator(f'#sizes input[value="{size}"]').click(no_wait_after=True)


def test_what_does_not_come_is_not_shown_and_what_was_chosen_before_stays(
    browser: Browser, site: Site
) -> None:
    cable = Cable(int(site.url.rstrip("/").rpartition(":")[2]))
    view = View(browser.new_page())
    view.open(f"http://127.0.0.1:{cable.port}/")
    view.page.keyboard.press("0")
    view.wait_for_windows(16)
    figure, notice = view.page.get_by_label("figure"), view.page.locator("#notice")
    shown = view.says("figure")
    cable.cut()
    choose(view, 200)
    expect(notice).to_contain_text("What was asked for has not come: connection lost")
    assert (view.size(), view.windows(), view.windows("figure")) == ("100", 16, 16)
    figure.select_option("ne_training")
    expect(figure).to_have_value("roc_auc")
    assert view.says("figure") == shown
    expect(view.page.locator("#whole")).to_have_text("from the first mask")
    expect(view.page.locator("#connection")).to_contain_text("connection lost")
    cable.mend()
    expect(view.page.locator("#connection")).to_have_text("live")
    expect(notice).to_be_hidden()
    choose(view, 200)
    view.until(lambda: view.windows() == 8)
    assert [one for one in view.complaints if "net::ERR_" not in one] == []
    view.page.close()
    cable.cut()


@pytest.mark.parametrize("ends", ["late", "never"])
def test_of_two_quick_choices_the_last_is_shown(view: View, ends: str) -> None:
    """The answers to the first come when the second is shown, or not at all."""
    held: list[Route] = []
    view.page.route(re.compile(r"/api/windows\?size=200&"), lambda route: held.append(route))
    choose(view, 200)
    view.until(lambda: len(held) == 5)
    choose(view, 100)
    view.page.get_by_label("figure").select_option("ce")
    expect(view.page.locator("#figure-summary")).to_contain_text("dense 0.4000")
    for route in held:
        if ends == "late":
            route.continue_()
        else:
            route.abort()
    view.page.wait_for_timeout(200)
    assert (view.size(), view.windows()) == ("100", 16)
    assert view.says("figure").startswith("dense 0.4000, sparse")
    expect(view.page.locator("#notice")).to_be_hidden()
    view.complaints = [one for one in view.complaints if "net::ERR_" not in one]


def test_the_focus_stays_where_it_was_whatever_happens(view: View, site: Site) -> None:
    focused = "document.activeElement.dataset.mine"
    happened = view.page.locator("#events button")
    site.append(decided(3, 1_500))
    expect(happened.first).to_contain_text("rebuild 3 (divergence) under way")
    happened.first.focus()
    view.page.evaluate("document.activeElement.dataset.mine = 'event'")
    site.append(verdict(3, 1_600), alarm(1_600))
    expect(happened.filter(has_text="rebuild 3 (divergence) promoted")).to_be_visible()
    assert view.page.evaluate(focused) == "event"
    view.page.locator("#sizes input").first.focus()
    view.page.evaluate("document.activeElement.dataset.mine = 'size'")
    site.append(both(400, 0), alarm(1_600, "input"))
    expect(view.page.locator("#sizes label")).to_have_count(3)
    view.page.keyboard.press("w")
    view.until(lambda: view.windows() == 8)
    assert view.page.evaluate(focused) == "size"


def test_keys_go_on_where_a_window_size_was_clicked(view: View) -> None:
    choose(view, 200)
    view.until(lambda: view.windows() == 8)
    ground = view.ground()
    view.page.keyboard.press("t")
    assert view.ground() != ground
    view.page.keyboard.press("w")
    view.until(lambda: view.windows() == 16)
    view.page.locator("#sizes input").first.focus()
    view.page.keyboard.press("ArrowRight")
    view.until(lambda: view.windows() == 8)
    assert view.says("ne").endswith(" at 1,600")
    closer(view, 0.1, 0.5)
    view.page.locator("#sizes input:checked").focus()
    view.page.keyboard.press("0")
    view.until(lambda: view.windows() == 8)


def closer(view: View, begin: float, end: float) -> None:
    """Drag over a part of a plot, and wait until it is shown."""
    before = view.windows()
    over = view.page.locator("#ne .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    view.page.mouse.move(box["x"] + box["width"] * begin, middle)
    view.page.mouse.down()
    view.page.mouse.move(box["x"] + box["width"] * end, middle, steps=4)
    view.page.mouse.up()
    view.until(lambda: view.windows() < before)


def test_the_figures_on_top_are_of_the_end_of_the_run_wherever_it_is_looked_at(view: View) -> None:
    tiles = view.page.locator("#tiles")
    expect(tiles).to_contain_text("sparse vs dense+3.75 %sparse NE0.8300")
    closer(view, 0.1, 0.5)
    assert not view.says("ne").endswith(" at 1,600")
    expect(tiles).to_contain_text("sparse vs dense+3.75 %sparse NE0.8300")


def test_what_happened_outside_of_a_stretch_that_is_looked_at_is_moved_to(view: View) -> None:
    closer(view, 0.05, 0.3)
    windows = view.windows()
    view.page.locator("#events button", has_text="rebuild 2").click()
    view.until(lambda: view.says("ne").endswith(" at 1,200"))
    assert abs(view.windows() - windows) <= 1
    expect(view.page.locator("#whole")).to_have_text("all again")
    view.page.locator("#events button", has_text="first mask").click()
    view.until(lambda: view.says("ne").endswith(" at 400"))


def test_why_there_is_no_stability_of_the_input_is_said(view: View) -> None:
    view.page.get_by_label("figure").select_option("psi")
    expect(view.page.locator("#figure-summary")).to_have_text("0.100 at 1,600")
    choose(view, 200)
    expect(view.page.locator("#figure-summary")).to_contain_text("none for windows of 200 events")
