"""The page as people see it: a run continues, the connection is cut, and nothing is missed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from resprout.folder import RunFolder
from resprout.monitoring.page import replayed
from resprout.run import Result, execute
from resprout.runner import Step
from resprout.settings import DENSE, EVALUATOR, Settings
from resprout.spec import RunDefinition
from stream.follow import read_all
from stream.messages import AnyMessage, Interval, Segment, Verdict, Window, parse
from stream.topics import WINDOWS
from tests.evaluator.messages import alarm, letters, lifetime, masked, progress
from tests.evaluator.page.browser import View
from tests.evaluator.page.cable import Cable
from tests.evaluator.page.site import served
from tests.evaluator.runs import drifting_run, score, window
from tests.resprout.small import small

PATIENCE = 120.0
EVENTS = 16_000
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(14, 17, 22)"


@dataclass
class Held:
    """A run that goes no further than it is let; it has a page as long as it is not done."""

    folder: RunFolder
    url: str = ""
    result: Result | None = None
    _limit: int = 0
    _scored: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def settings(self) -> Settings:
        return small(serve__port=0, stream__generator__events=EVENTS)

    def run(self) -> None:
        plan = RunDefinition.generated(self.settings)
        self.result = execute(plan, self.folder.path, self.observe, show=True)

    def observe(self, name: str, step: Step) -> None:
        """Hold the dense model back, whom all others wait for."""
        with self._changed:
            if name == EVALUATOR:
                self._scored = step.count
                self._changed.notify_all()
            if name == DENSE:
                self._changed.wait_for(lambda: step.count < self._limit)

    def let(self, limit: int) -> None:
        """Let dense come to a count, and wait until that is scored."""
        with self._changed:
            self._limit = limit
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._scored >= limit, PATIENCE)

    def end(self) -> None:
        with self._changed:
            self._limit = EVENTS + 1
            self._changed.notify_all()

    def messages(self) -> list[AnyMessage]:
        """Read the log of the page, as it stands."""
        with closing(self.folder.home.reader(WINDOWS)) as reader:
            return [parse(stored.record.value) for stored in read_all(reader)]

    def windows(self, size: int = 1_000) -> int:
        """Count the whole windows of a size in the log."""
        found = [one for one in self.messages() if isinstance(one, Window)]
        return sum(one.size == size and not one.partial for one in found)


@contextmanager
def held(folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Held]:
    """Begin a run that shows a page, and end it."""
    run = Held(RunFolder(folder))
    caplog.set_level(logging.INFO, logger="resprout.monitoring.page")
    thread = threading.Thread(target=run.run)
    thread.start()
    try:
        until(lambda: "the page is at" in caplog.text)
        (run.url,) = re.findall(r"the page is at (\S+)", caplog.text)
        yield run
    finally:
        run.end()
        thread.join(PATIENCE)


def until(done: Callable[[], bool]) -> None:
    """Ask again and again, for a while."""
    ends = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.02)


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


@contextmanager
def cable_to(url: str) -> Iterator[Cable]:
    cable = Cable(port_of(url))
    try:
        yield cable
    finally:
        cable.cut()


def test_a_run_is_seen_as_it_goes_and_nothing_is_missed_where_the_connection_is_cut(
    browser: Browser, tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with held(tmp_path / "run", caplog) as run, cable_to(run.url) as cable:
        view = View(browser.new_page())
        url = f"http://127.0.0.1:{cable.port}/"
        run.let(3_000)
        view.open(url)
        view.widen()
        it_goes_on(view, run)
        view.keep(pictures, "live")
        assert view.complaints == []
        it_is_cut_and_comes_back(view, run, cable)
        assert [one for one in view.asked if not one.startswith(url)] == []
        assert [one for one in view.complaints if "net::ERR_" not in one] == []
        view.page.close()


def it_goes_on(view: View, run: Held) -> None:
    """See lines that grow, a rebuild, its mask, and how fast everybody goes."""
    expect(view.page.locator("#connection")).to_have_text("live")
    view.wait_for_windows(2)
    begun = view.windows()
    assert re.fullmatch(r"dense \d\.\d{4} at \d,000", view.says("ne"))
    assert view.page.locator("#events button").count() == 0
    run.let(9_000)
    view.wait_for_windows(8)
    assert view.windows() > begun
    rebuild = '#events button[data-kind="rebuild"][data-outcome="promoted"]'
    expect(view.page.locator(rebuild).last).to_contain_text("first mask promoted")
    assert "sparse" in view.says("relative_ce")
    view.page.wait_for_selector("#sparsity td.heat")
    expect(view.page.locator("#workers strong")).to_have_count(6)


def it_is_cut_and_comes_back(view: View, run: Held, cable: Cable) -> None:
    """See that what came meanwhile is there, each message once, in its order."""
    cable.cut()
    expect(view.page.locator("#connection")).to_contain_text("connection lost")
    run.let(13_000)
    assert view.windows() < 11
    cable.mend()
    expect(view.page.locator("#connection")).to_have_text("live")
    run.let(15_000)
    view.wait_for_windows(14)
    heard = view.heard()
    assert heard == list(range(heard[0], heard[-1] + 1))
    assert 14 <= view.windows() <= run.windows()


def test_a_run_that_ends_is_shown_whole_though_its_server_is_gone(
    browser: Browser, tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where something is chosen then, the page says that it cannot be had, and keeps the rest."""
    with held(tmp_path / "run", caplog) as run:
        view = View(browser.new_page())
        run.let(3_000)
        view.open(run.url)
        view.widen()
        run.end()
        expect(view.page.locator("#connection")).to_have_text("finished run")
        expect(view.page.locator("#notice")).to_contain_text("resprout evaluate --replay")
        told = [one for one in run.messages() if isinstance(one, Verdict)]
        promoted = [one for one in told if one.verdict == "promoted"]
        rebuilds = view.page.locator('#events button[data-kind="rebuild"]')
        assert promoted
        expect(rebuilds).to_have_count(len(told))
        expect(rebuilds.filter(has_text="under way")).to_have_count(0)
        expect(view.page.locator("#sparsity tbody tr").first.locator("td")).to_have_count(
            len(promoted)
        )
        view.wait_for_windows(16)
        assert view.windows() == run.windows() == 16
        expect(view.page.locator("#tiles")).to_contain_text("events16,000")
        expect(view.page.locator("#tiles")).to_contain_text("lag–")
    view.keep(pictures, "ended")
    assert view.complaints == []
    view.page.get_by_label("2k").click()
    expect(view.page.locator("#connection")).to_have_text("finished run, connection lost")
    expect(view.page.locator("#notice")).to_contain_text("What was asked for has not come")
    assert (view.size(), view.windows()) == ("1000", 16)
    assert all("net::ERR_" in one for one in view.complaints)
    view.page.close()


def test_a_server_that_stops_before_the_run_is_done_is_not_called_its_end(
    browser: Browser, tmp_path: Path
) -> None:
    with served(tmp_path, window(100, 0, {"dense": 0.4})) as site:
        view = View(browser.new_page())
        view.open(site.url)
        expect(view.page.locator("#connection")).to_have_text("live")
        site.append(window(100, 1, {"dense": 0.4}))
        site.server.close()
        expect(view.page.locator("#connection")).to_have_text("stopped")
        expect(view.page.locator("#notice")).to_contain_text("before the run was done")
        assert view.windows() == 2
        assert all("net::ERR_" in one for one in view.complaints)
        view.page.close()


def test_a_replay_says_whether_its_run_has_ended_and_follows_one_that_goes_on(
    browser: Browser, tmp_path: Path
) -> None:
    with served(tmp_path, window(100, 0, {"dense": 0.4}), live=False) as site:
        view = View(browser.new_page())
        view.open(site.url)
        connection = view.page.locator("#connection")
        expect(connection).to_have_text("stopped, or still under way")
        site.append(window(100, 1, {"dense": 0.4}))
        view.wait_for_windows(2)
        site.append(progress("dense", 1.0, 200, done=True))
        expect(connection).to_have_text("finished run")
        assert view.complaints == []
        view.page.close()


def test_what_workers_alarms_and_dead_letters_tell_is_shown(
    browser: Browser, tmp_path: Path, pictures: Path
) -> None:
    """Nothing has been heard of dense since 2023; sparse is done."""
    segment = Segment(
        feature="site",
        value="7",
        events=40,
        weight=40,
        clicks=8,
        click_rate=0.2,
        models={
            "dense": score(0.75),
            "sparse": score(0.8, relative=Interval(mean=0.01, low=0.005, high=0.015)),
        },
        bayes_ce=None,
    )
    last = window(100, 20, {"dense": 0.4, "sparse": 0.5}).model_copy(
        update={"segments": (segment,)}
    )
    with served(
        tmp_path,
        *drifting_run(size=100, windows=20, start=800),
        last,
        lifetime(0, 2_100),
        alarm(1_500, "input", "site"),
        letters(0, 1_400, label=3),
        letters(1_400, 1_500, time=1),
        masked(4, 1_900, top=(200, 40, None), bottom=(100, 30, 0.5)),
        progress("dense", 1.0, 500),
        progress("dense", 3.0, 1_500, waiting_for="clicks", lag_events=70, lag_seconds=0.5),
        progress("sparse", 1.0, 0, done=True),
    ) as site:
        view = View(browser.new_page())
        view.open(site.url)
        expect(view.page.locator("#tiles .stale")).to_have_text("dense")
        words = view.page.locator("#workers .words")
        expect(words.first).to_contain_text("500 events/slag 70, 0.5 sstale: silent for")
        expect(words.last).to_contain_text("done")
        events = view.page.locator("#events")
        expect(events).to_contain_text("the input has changed: site site moved")
        expect(events).to_contain_text("4 dead letters label 3, time 1; in the events 1 to 1,500")
        expect(view.page.locator("#segments tbody tr")).to_have_text(
            "site = 7400.2000+1.00 % ± 0.500.75000.8000"
        )
        expect(view.page.locator("#scores th[scope=col]")).to_have_text(["", "dense", "sparse"])
        expect(view.page.locator("#scores tbody tr")).to_have_text(
            [
                *("vs dense–+25.00 %", "NE0.80001.0000", "calibration1.0001.000"),
                "CE0.40000.5000",
            ]
        )
        expect(view.page.locator("#sparsity tbody tr").last).to_contain_text("all together")
        view.keep(pictures, "told")
        assert view.complaints == []
        view.page.close()


def test_another_run_at_the_old_address_is_shown_from_its_beginning(
    browser: Browser, tmp_path: Path
) -> None:
    old = [window(100, number, {"dense": 0.4}) for number in range(9)]
    new = [window(100, number, {"dense": 0.4}) for number in range(3)]
    with (
        served(tmp_path / "old", *old) as first,
        served(tmp_path / "new", *new) as second,
        cable_to(first.url) as cable,
    ):
        view = View(browser.new_page())
        view.open(f"http://127.0.0.1:{cable.port}/")
        assert view.windows() == 9
        cable.cut()
        cable.to = port_of(second.url)
        cable.mend()
        view.until(
            lambda: view.page.locator("html[data-ready]").count() == 1 and view.windows() == 3
        )
        view.page.close()


class BadGateway(BaseHTTPRequestHandler):
    """What a proxy says while the server behind it is away."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_error(502)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_the_page_comes_back_though_somebody_else_answered_in_its_place(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        served(tmp_path, window(100, 0, {"dense": 0.4})) as site,
        cable_to(site.url) as cable,
    ):
        view = View(browser.new_page())
        view.open(f"http://127.0.0.1:{cable.port}/")
        expect(view.page.locator("#connection")).to_have_text("live")
        cable.cut()
        with ThreadingHTTPServer(("127.0.0.1", cable.port), BadGateway) as proxy:
            serving = threading.Thread(target=proxy.serve_forever, args=(0.05,))
            serving.start()
            view.until(lambda: BadGateway.asked > 0)
            site.append(window(100, 1, {"dense": 0.4}))
            proxy.shutdown()
            serving.join()
        cable.mend()
        view.wait_for_windows(2)
        expect(view.page.locator("#connection")).to_have_text("live")
        assert view.heard() == [1]
        view.page.close()


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Make a run that is over."""
    folder = RunFolder(tmp_path_factory.mktemp("past") / "demo")
    assert execute(RunDefinition.generated(small()), folder.path).finished
    return folder


@pytest.fixture(scope="module")
def url(past: RunFolder) -> Iterator[str]:
    """Show it again."""
    with replayed(small(serve__port=0), past) as page:
        yield page.url


@pytest.fixture
def view(browser: Browser, url: str) -> Iterator[View]:
    view = View(browser.new_page(color_scheme="light"))
    view.open(url)
    view.widen()
    view.wait_for_windows(16)
    yield view
    view.page.close()
    assert view.complaints == []
    assert [one for one in view.asked if not one.startswith(url)] == []


def test_a_past_run_opens_in_the_same_way(view: View, pictures: Path) -> None:
    expect(view.page.locator("#connection")).to_have_text("finished run")
    expect(view.page.locator("#about")).to_contain_text("run demo · seed 0 · criterion aux @ 80 %")
    assert view.windows() == 16
    assert view.says("ne").endswith(" at 16,000")
    assert view.page.title() == "resprout demo"
    assert view.page.locator('#events button[data-outcome="promoted"]').count() >= 1
    expect(view.page.locator("#workers")).not_to_contain_text("stale")
    view.keep(pictures, "past-light")


def test_the_sparsity_that_is_aimed_at_is_a_tick_on_the_scale(view: View) -> None:
    expect(view.page.locator("#sparsity .tick")).to_have_text("target 80 %")
    bar, tick = (
        view.page.locator(f"#sparsity .{one}").evaluate(
            "one => one.getBoundingClientRect().toJSON()"
        )
        for one in ("bar", "tick")
    )
    assert tick["x"] - bar["x"] == pytest.approx(0.8 * bar["width"], abs=1)


def test_dark_is_as_the_system_says_until_somebody_switches(
    browser: Browser, url: str, pictures: Path
) -> None:
    view = View(browser.new_page(color_scheme="dark"))
    view.open(url)
    assert view.ground() == DARK
    view.keep(pictures, "past-dark")
    view.page.locator("#theme").click()
    assert view.ground() == LIGHT
    view.open(url)
    assert view.ground() == LIGHT
    view.page.keyboard.press("t")
    assert view.ground() == DARK
    view.page.emulate_media(color_scheme="light")
    assert view.ground() == DARK
    view.page.close()
    assert view.complaints == []


def test_the_cursor_moves_by_keys_in_all_plots_at_once(view: View) -> None:
    press = view.page.keyboard.press
    press("ArrowLeft")
    assert view.says("ne").endswith(" at 16,000")
    press("ArrowLeft")
    for panel in ("ne", "relative_ce", "calibration", "click_rate", "figure"):
        assert view.says(panel).endswith(" at 15,000"), panel
    press("ArrowRight")
    assert view.says("ne").endswith(" at 16,000")
    view.page.locator("#ne .plot").focus()
    press("Home")
    assert view.says("relative_ce").endswith(" at 1,000")
    press("End")
    assert view.says("relative_ce").endswith(" at 16,000")


def test_choosing_what_happened_moves_the_cursor_there(view: View) -> None:
    first = view.page.locator("#events button").last
    first.focus()
    view.page.keyboard.press("Enter")
    assert first.get_attribute("data-count") == "6000"
    assert view.says("ne").endswith(" at 6,000")


def test_another_window_size_is_a_key_away(view: View) -> None:
    assert view.page.locator("#sizes input:checked").get_attribute("value") == "1000"
    view.page.keyboard.press("w")
    view.until(lambda: view.windows() == 8)
    assert view.page.locator("#sizes input:checked").get_attribute("value") == "2000"
    view.page.get_by_label("1k").check()
    view.wait_for_windows(16)


def test_dragging_over_a_plot_looks_closer_and_a_key_leads_back(view: View) -> None:
    over = view.page.locator("#ne .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    view.page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    view.page.mouse.down()
    view.page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=4)
    view.page.mouse.up()
    expect(view.page.locator("#whole")).to_have_text("all again")
    view.until(lambda: view.windows() < 8)
    view.page.keyboard.press("0")
    view.wait_for_windows(16)
    expect(view.page.locator("#whole")).to_have_text("from the first mask")


def test_another_figure_can_be_chosen(view: View) -> None:
    figure = view.page.get_by_label("figure")
    assert re.match(r"dense \d\.\d{4}, sparse", view.says("figure"))
    figure.select_option("ce")
    expect(view.page.locator("#figure-summary")).to_contain_text("true probability")
    figure.select_option("psi")
    expect(view.page.locator("#figure-summary")).not_to_contain_text("dense")


def test_every_panel_gives_its_data_as_csv(view: View) -> None:
    panels = view.page.locator("section.panel").all()
    assert len(panels) == 11
    for panel in panels:
        path = panel.locator("a").get_attribute("href")
        answer = view.page.request.get(f"{view.page.url.rstrip('/')}{path}")
        assert answer.ok, path
        assert "," in answer.text().splitlines()[0]
    main = view.page.locator("#relative_ce a").get_attribute("href")
    answer = view.page.request.get(f"{view.page.url.rstrip('/')}{main}")
    names = answer.text().splitlines()[0].split(",")
    assert names[:4] == ["end", *(f"sparse.relative_ce{one}" for one in ("", ".low", ".high"))]


def test_the_page_fits_a_narrow_screen(view: View, pictures: Path) -> None:
    view.page.set_viewport_size({"width": 360, "height": 740})
    view.until(lambda: view.page.evaluate("document.documentElement.scrollWidth") <= 360)
    view.keep(pictures, "narrow")


def test_who_does_not_see_the_plots_is_told_of_them(view: View) -> None:
    for plot in view.page.locator(".plot").all():
        assert plot.get_attribute("role") == "img"
        for part in ("aria-labelledby", "aria-describedby"):
            told = view.page.locator(f"#{plot.get_attribute(part)}")
            assert told.inner_text().strip()
    for one in view.page.locator("input, select, button, a").all():
        name = one.get_attribute("aria-label") or one.evaluate(
            "one => one.labels?.[0]?.textContent || one.textContent"
        )
        assert name.strip()


def test_nothing_moves_by_itself(view: View) -> None:
    assert view.page.evaluate("document.getAnimations().length") == 0
