from __future__ import annotations

import logging
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from evaluator.run.history import RunHistory
from evaluator.run.plot import PALETTES, Paper, Theme, draw, save
from stream.messages import Interval
from tests.evaluator.messages import alarm, grafted
from tests.evaluator.runs import drifting_run, rollback, score, verdict, window

HISTORY = RunHistory.of(drifting_run())


def places(svg: bytes) -> list[tuple[str, tuple[float, float]]]:
    """Return all texts of a picture that are not turned, and where each stands."""
    found = []
    for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        x, y = text.get("x"), text.get("y")
        at = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", text.get("transform", ""))
        place = (at[1], at[2]) if at else (x or "nan", y or "nan")
        found.append(
            (" ".join("".join(text.itertext()).split()), (float(place[0]), float(place[1])))
        )
    return found


def words(svg: bytes) -> list[str]:
    """Return all texts of a picture."""
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return [" ".join("".join(text.itertext()).split()) for text in found]


def test_both_pictures_are_written_to_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = save(HISTORY, tmp_path / "first")
    second = save(RunHistory.of(drifting_run()), tmp_path / "second")
    assert [path.name for path in first] == ["run-light.svg", "run-dark.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_picture_does_not_depend_on_the_settings_of_its_user() -> None:
    before = draw(HISTORY)
    with mpl.rc_context({"lines.linewidth": 9, "axes.grid": True, "font.size": 30}):
        assert draw(HISTORY) == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_picture_has_the_colours_of_its_theme(theme: Theme) -> None:
    svg = draw(HISTORY, theme).decode().upper()
    palette = PALETTES[theme]
    for colour in (palette.ground, palette.ink, palette.muted, "#0072B2", "#D55E00"):
        assert f": {colour}" in svg


def test_lines_bear_their_names_and_what_they_lost() -> None:
    found = words(draw(HISTORY))
    assert found.count("dense") == 2
    assert {"sparse", "never rebuilt", "sparse +0.40 %*", "never rebuilt +1.85 %*"} <= set(found)
    assert "over the last half since the first mask" in found


def test_rebuilds_and_drift_are_explained_where_there_are_any() -> None:
    found = words(draw(HISTORY))
    assert {"new mask takes over", "candidate rejected", "true drift: gradual"} <= set(found)


def test_what_is_not_there_is_not_explained() -> None:
    found = words(draw(RunHistory.of([window(100, n, {"dense": 0.4}) for n in range(9)])))
    assert found.count("dense") == 1
    assert not {"new mask takes over", "candidate rejected"} & set(found)
    assert not any("drift" in text or "relative" in text for text in found)


def test_it_has_a_name_for_those_who_hear_it_and_no_date() -> None:
    svg = draw(HISTORY).decode()
    title = re.search("<title>(.*)</title>", svg)
    assert title is not None
    assert "sparse +0.40 % against dense over the last half" in title[1]
    assert "<dc:date>" not in svg


def test_names_that_are_no_xml_do_no_harm() -> None:
    odd = [window(100, n, {"dense": 0.4}, drift=("<b>&",)) for n in range(4)]
    assert "true drift: <b>&" in words(draw(RunHistory.of(odd)))


def test_it_uses_the_font_of_its_reader() -> None:
    svg = draw(HISTORY).decode()
    assert "system-ui" in svg
    assert "DejaVu" not in svg


@pytest.mark.parametrize("windows", [1, 2, 40])
def test_a_run_of_any_length_can_be_drawn(windows: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for start in (0, 100 * (windows - 1)):
        draw(RunHistory.of(drifting_run(windows=windows, start=start)))
    assert caplog.records == []


def test_a_model_whose_entropy_is_never_defined_has_no_line_to_name() -> None:
    plain = window(100, 0, {"dense": 0.4, "sparse": 0.4})
    odd = plain.model_copy(
        update={
            "models": {
                "dense": score(0.8),
                "sparse": score(None, 0.4, Interval(mean=0, low=None, high=None)),
            }
        }
    )
    assert words(draw(RunHistory.of([odd]))).count("sparse") == 1


def test_a_long_run_counts_in_millions_and_a_short_one_in_thousands() -> None:
    assert "1 M" in words(draw(RunHistory.of(drifting_run(size=100_000, start=800_000))))
    assert "1 k" in words(draw(RunHistory.of(drifting_run(size=100))))


def test_a_verdict_beyond_the_last_window_is_not_marked() -> None:
    late = [window(100, n, {"dense": 0.4}) for n in range(9)]
    assert "new mask takes over" not in words(draw(RunHistory.of([*late, verdict(1, 5000)])))


def test_a_picture_can_be_had_as_png_of_any_size() -> None:
    png = draw(HISTORY, "dark", "png", Paper(width=6, height=4, dpi=50))
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (300, 200)


@pytest.mark.parametrize(
    ("paper", "fault"),
    [
        ((4, 5.2), "a picture of 4 x 5.2 inches; it takes 4.5 x 3.5 at least"),
        ((9.2, 3), "a picture of 9.2 x 3 inches; it takes 4.5 x 3.5 at least"),
        ((float("nan"), 5), "a picture of nan x 5 inches"),
        ((9, 5, 0), "a picture of 9 x 5 inches at 0 dpi; use 1 dpi or more"),
        ((90, 50, 600), "no more than 100,000,000 pixels in all"),
        ((float("inf"), 5), "no more than 100,000,000 pixels in all"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(paper: Sequence[Any], fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        Paper(*paper)


@pytest.mark.parametrize("size", [(4.5, 3.5), (7, 4), (20, 12)])
def test_nothing_stands_outside_or_over_the_key_on_any_paper(size: tuple[float, float]) -> None:
    svg = draw(HISTORY, paper=Paper(*size))
    width, height = (72 * inches for inches in size)
    assert f'viewBox="0 0 {width:g} {height:g}"' in svg.decode()
    key = ("new mask takes over", "candidate rejected", "true drift: gradual", "over the last half")
    rows = {word: y for words_, (x, y) in places(svg) for word in key if words_.startswith(word)}
    assert len(rows) == len(key)
    axis = max(y for words_, (x, y) in places(svg) if words_.startswith("0 events"))
    assert all(axis < y < height for y in rows.values())
    assert (len(set(rows.values())) == 1) == (size[0] > 9)


def test_letters_can_be_drawn_as_shapes() -> None:
    svg = draw(HISTORY, paper=Paper(outlines=True))
    assert words(svg) == []
    assert b"font" not in svg


def test_alarms_are_marked_and_explained_where_they_were_raised() -> None:
    assert "alarm" in words(draw(RunHistory.of([*drifting_run(), alarm(500), alarm(900)])))
    assert "alarm" not in words(draw(RunHistory.of([*drifting_run(), alarm(2_500)])))
    assert "alarm" not in words(draw(HISTORY))
    one, two, late = (
        draw(RunHistory.of([*drifting_run(), *map(alarm, at)])).count(b"<use ")
        for at in ((500,), (500, 900, 900), (500, 2_500))
    )
    assert (two, late) == (one + 1, one)


def test_a_rollback_is_marked_and_explained_where_it_took_effect() -> None:
    back = "rollback"
    assert back in words(draw(RunHistory.of([*drifting_run(), rollback(1700, 1750)])))
    assert back not in words(draw(RunHistory.of([*drifting_run(), rollback(1900, 2100)])))
    assert back not in words(draw(HISTORY))


def drawn_with(*counts: int) -> bytes:
    return draw(RunHistory.of([*drifting_run(), *(grafted(n, top=(50, 1)) for n in counts)]))


def test_grafts_are_ticks_in_both_panels_and_explained_where_there_are_any() -> None:
    sign = "graft: the mask moves without a rebuild"
    assert sign in words(drawn_with(900, 1_000))
    assert sign not in words(draw(HISTORY))
    # One use of a marker for each tick in each panel.
    assert [drawn_with(*counts).count(b"<use") for counts in ((900,), (900, 1_000, 1_500))] == [
        drawn_with(900).count(b"<use"),
        drawn_with(900).count(b"<use") + 2 * 2,
    ]
    # What the last window does not reach is not drawn.
    assert drawn_with(1_900, 5_000).count(b"<use") == drawn_with(1_900).count(b"<use")
    assert drawn_with(5_000) == draw(HISTORY)


def test_very_many_grafts_are_no_more_ticks_than_can_be_told_apart() -> None:
    counts = range(800, 2_001)
    ticks = drawn_with(*counts).count(b"<use") - drawn_with(900).count(b"<use") + 2
    assert 2 * 600 <= ticks <= 2 * 602
