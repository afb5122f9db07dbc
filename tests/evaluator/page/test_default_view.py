"""What the page shows before anybody chooses anything, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from evaluator.page import Timetable
from evaluator.run import RunHistory, RunTables, warnings
from evaluator.run.report import About, report
from stream.messages import Baselines, Message, Window
from tests.evaluator.messages import decided, lifetime, masked, progress
from tests.evaluator.page.browser import View
from tests.evaluator.page.site import Site, served
from tests.evaluator.run.test_warnings import compared
from tests.evaluator.runs import window

PLAN = Timetable(first_mask_events=800, rebuild_events=200, window_events=200, threshold=0.01)


def events(begin: int, end: int) -> list[Message]:
    """Lay out windows of 100 and 200 events; sparse begins at 1,000."""
    found: list[Message] = []
    for count in range(begin + 100, end + 1, 100):
        for size in (100, 200):
            if count % size == 0:
                ce = {"dense": 0.4} | ({"sparse": 0.404} if count > 1_000 else {})
                found.append(window(size, count // size - 1, ce))
    return found


def first_mask() -> Message:
    return masked(1, 1_000, top=(40_000, 8_000, None), bottom=(10_000, 2_000, None))


def opened(browser: Browser, site: Site, width: int = 1_280) -> View:
    view = View(browser.new_page(viewport={"width": width, "height": 900}))
    view.open(site.url)
    return view


def test_before_the_first_mask_it_says_how_far_that_is(
    browser: Browser, tmp_path: Path, pictures: Path
) -> None:
    told = [*events(0, 400), progress("evaluator", 0, 0), progress("evaluator", 4, 400)]
    with served(tmp_path, *told, timetable=PLAN) as site:
        view = opened(browser, site)
        phase = view.page.locator("#phase")
        expect(phase).to_contain_text("dense learns alone, 400 of 800 events")
        # 600 events are left, at 100 a second.
        expect(phase).to_contain_text("sparse takes over at 1,000, in about 6.0 s")
        assert view.page.locator("#phase-done").get_attribute("value") == "0.5"
        assert view.says("relative_ce") == "begins with the first mask"
        assert view.size() == "200"
        expect(view.page.locator("#whole")).to_be_hidden()
        view.keep(pictures, "warm-up")
        site.append(*events(400, 800))
        first = decided(1, 800)
        plan = first.rebuild
        assert plan is not None
        plan = plan.model_copy(update={"reason": "first", "end": 1_000})
        site.append(first.model_copy(update={"rebuild": plan}), *events(800, 900))
        expect(phase).to_contain_text("First mask under way: 100 of 200 events")
        site.append(*events(900, 1_000), first_mask(), *events(1_000, 1_400))
        expect(phase).to_be_hidden()
        view.until(lambda: view.says("relative_ce").startswith("sparse +1.00 %"))
        view.page.close()
        assert view.complaints == []


def test_a_run_that_ended_before_its_first_mask_says_when_there_is_one(
    browser: Browser, tmp_path: Path
) -> None:
    told = [*events(0, 400), progress("evaluator", 4, 400, done=True)]
    with served(tmp_path, *told, live=False, timetable=PLAN) as site:
        view = opened(browser, site)
        expect(view.page.locator("#phase")).to_have_text(
            "400 events are not enough for a first mask: it is made after 800 events and takes "
            "over at 1,000."
        )
        view.page.close()


def test_it_begins_with_the_first_mask_and_the_warm_up_is_a_click_away(
    browser: Browser, tmp_path: Path
) -> None:
    with served(tmp_path, *events(0, 2_000), first_mask(), timetable=PLAN) as site:
        view = opened(browser, site)
        assert view.size() == "200"
        # That which ends where the mask takes over, and those after it.
        assert view.windows() == 6
        ids = view.page.locator("main section").evaluate_all("all => all.map((one) => one.id)")
        assert ids[:2] == ["relative_ce", "ne"]
        whole = view.page.locator("#whole")
        expect(whole).to_have_text("with the warm-up")
        whole.click()
        view.wait_for_windows(10)
        expect(whole).to_have_text("from the first mask")
        view.page.keyboard.press("0")
        view.until(lambda: view.windows() == 6)
        view.page.locator('#sizes input[value="100"]').click()
        view.until(lambda: view.windows() == 11)
        site.append(*events(2_000, 2_200))
        view.until(lambda: view.windows() == 13)
        assert view.size() == "100"
        view.page.close()
        assert view.complaints == []


def test_a_rebuild_under_way_is_in_the_header_with_what_it_costs(
    browser: Browser, tmp_path: Path, pictures: Path
) -> None:
    with served(tmp_path, *events(0, 2_000), first_mask(), timetable=PLAN) as site:
        view = opened(browser, site)
        expect(view.page.locator("#phase")).to_be_hidden()
        site.append(decided(2, 2_000))
        phase = view.page.locator("#phase")
        expect(phase).to_contain_text("rebuild 2 (divergence) under way: 0 of 100 events")
        expect(phase).to_contain_text("takes over if it is better at 2,100")
        site.append(*events(2_000, 2_100))
        expect(phase).to_contain_text("100 of 100 events")
        expect(phase).to_contain_text("Meanwhile sparse loses +1.00 % to dense.")
        view.keep(pictures, "rebuild")
        site.append(masked(2, 2_100, top=(40_000, 8_000, 0.5)), *events(2_100, 2_200))
        expect(phase).to_be_hidden()
        happened = view.page.locator("#events button").first
        expect(happened).to_contain_text("meanwhile sparse lost 1.00 % to dense, 1 nats in all")
        view.page.close()
        assert view.complaints == []


def test_what_is_saved_has_a_tile(browser: Browser, tmp_path: Path) -> None:
    """50,000 weights of 4 bytes; of them 10,000 are kept, beside a bit for each that says which."""
    with served(tmp_path, *events(0, 2_000), first_mask(), timetable=PLAN) as site:
        view = opened(browser, site)
        tile = view.page.locator("#tiles div", has_text="saved")
        expect(tile).to_contain_text("40k of 50k weights and multiply-adds an event")
        expect(tile).to_contain_text("154 kB of 200 kB")
        expect(tile).to_have_attribute("title", "Of the fully connected layers; " + WORDS)
        view.page.close()


WORDS = (
    "embeddings are not pruned. Bytes: the weights that are kept, and a bit for each that says "
    "which; an event takes a multiply-add for each weight, and a program saves those only where it "
    "is made for sparse weights."
)


@pytest.mark.parametrize("width", [1_280, 390])
def test_figures_and_lines_are_explained_where_they_stand(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    with served(tmp_path, *events(0, 2_000), first_mask(), timetable=PLAN) as site:
        view = opened(browser, site, width)
        says = view.page.locator
        expect(says("#ne .explains")).to_contain_text("at 1 a model is no better than the click")
        expect(says("#relative_ce .explains")).to_contain_text("what pruning costs")
        expect(says("#relative_ce .explains")).to_contain_text("Dashed: the threshold")
        written = [one.text for one in view.texts("relative_ce")]
        assert "as good as dense" in written
        assert "threshold" in written
        view.page.get_by_label("figure").select_option("regret")
        expect(says("#figure .explains")).to_contain_text("does not know the true chance")
        view.page.close()
        assert view.complaints == []


def test_on_a_phone_plots_take_the_whole_width_and_wide_tables_say_that_they_scroll(
    browser: Browser, tmp_path: Path, pictures: Path
) -> None:
    masks = [masked(n, 900 + 100 * n, bottom_layer=(200, 40, 0.5)) for n in range(1, 8)]
    with served(tmp_path, *events(0, 2_000), *masks, timetable=PLAN) as site:
        view = opened(browser, site, 390)
        over = view.page.locator("#relative_ce .u-over").bounding_box()
        assert over is not None
        assert over["width"] > 300
        assert over["x"] + over["width"] > 360
        names = {one.text for one in view.texts("relative_ce")}
        assert "sparse" in names
        expect(view.page.locator("#sparsity .hint")).to_be_visible()
        expect(view.page.locator("#sparsity .hint")).to_contain_text("scroll sideways")
        assert view.page.evaluate("document.documentElement.scrollWidth") <= 390
        view.page.set_viewport_size({"width": 1_280, "height": 900})
        expect(view.page.locator("#sparsity .hint")).to_be_hidden()
        view.page.close()
        assert view.complaints == []


def test_a_model_that_a_simple_one_beats_is_named_on_top(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path, *events(0, 2_000), first_mask(), timetable=PLAN) as site:
        view = opened(browser, site)
        warnings = view.page.locator("#warnings")
        expect(warnings).to_be_hidden()
        told: list[Baselines] = [compared(number, 0.05) for number in range(10)]
        site.append(*told)
        expect(warnings).to_contain_text("dense is worse than a logistic regression")
        view.page.close()
        assert view.complaints == []


def test_the_report_fits_a_screen_and_a_phone(browser: Browser, tmp_path: Path) -> None:
    """Only tables that are folded, and say so, are wider than 1280 pixels."""
    told = [one for one in events(0, 2_000) if isinstance(one, Window)]
    masks = [masked(n, 900 + 100 * n, bottom_layer=(200, 40, 0.5)) for n in range(1, 8)]
    simple = [compared(number, 0.05) for number in range(10)]
    history = RunHistory.of([*told, lifetime(0, 2_000), *masks, *simple])
    results = RunTables.of(history).results(1)
    about = About("A run", {"Seed": "7"}, results, tuple(warnings(history)), ())
    path = tmp_path / "report.html"
    path.write_bytes(report(history, about))
    for width in (1_280, 390):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cut = page.locator(".wide").evaluate_all(
            "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1)"
            ".filter((one) => !one.closest('details')).length"
        )
        hint = page.locator(".hint")
        if width == 1_280:
            assert cut == 0
            expect(hint).to_be_hidden()
        else:
            assert cut > 0
            expect(hint).to_contain_text("scroll sideways")
        expect(page.locator("body")).to_contain_text("dense is worse than a logistic regression")
        expect(page.locator("body")).to_contain_text(
            "at 1 a model is no better than the click rate"
        )
        page.close()
