from __future__ import annotations

import re

import pytest

from evaluator.run.history import RunHistory
from evaluator.run.plot import PALETTES
from evaluator.run.report import About, report
from evaluator.run.tables import MAX_ROWS, TextTable
from stream.messages import (
    Alarm,
    AnyMessage,
    DeadLetter,
    Decision,
    Interval,
    Judgement,
    Layer,
    Lifetime,
    ModelScore,
    Request,
    Segment,
    Stability,
    Verdict,
    Window,
)
from stream.spec import MODELS
from tests.evaluator.messages import grafted
from tests.evaluator.runs import drifting_run as laid_out
from tests.evaluator.runs import rollback, score, verdict, window
from tests.html_page import Element, check, read, tables

HOSTILE = "<script>alert(1)</script>&\"'</td><img src=x onerror=y>"
ABOUT = About(
    title="A run",
    facts={"Seed": "7"},
    results=TextTable("Results of all models", ("model", "CE"), (("dense", "0.4000"),)),
    remarks=("The input was short.",),
    appendix=(TextTable("Configuration", ("setting", "value"), (("seed", "7"),)),),
)


def drifting_run() -> list[AnyMessage]:
    return [one for one in laid_out() if isinstance(one, Window | Verdict | Decision)]


def page(*messages: AnyMessage, about: About = ABOUT) -> Element:
    return read(report(RunHistory.of(messages), about))


def letter(reason: str, row: int, detail: str = "no", file: str | None = None) -> DeadLetter:
    return DeadLetter(
        reason=reason,
        detail=detail,
        partition=0,
        offset=5,
        row=row,
        file=file,
        line=None if file is None else row,
        raw="",
    )


def alarm(count: int, feature: str | None = None, reason: str = "it rose") -> Alarm:
    return Alarm(
        detector="input" if feature else "dense_loss",
        feature=feature,
        count=count,
        since=count - 100,
        statistic=0.25,
        threshold=0.2,
        reason=reason,
    )


def asked(count: int, declined: str | None) -> Decision:
    request = Request(
        id="a", action="rollback", version=1, reason="clicks fell", time_ms=1_700_000_000_000
    )
    return Decision(count=count, why_not="no", request=request, declined=declined)


def test_equal_runs_give_equal_bytes_and_repeats_are_passed_over() -> None:
    run = drifting_run()
    once, twice = RunHistory.of(run), RunHistory.of([*run, *run])
    assert report(once, ABOUT) == report(twice, ABOUT)


def test_it_stands_alone_and_everybody_can_read_it() -> None:
    run = [*drifting_run(), alarm(900), letter("label", 3), asked(1_100, "no such version")]
    found = page(*run)
    check(found)
    assert [heading.text for heading in found.all("h1", "h2")] == [
        "A run",
        "Results",
        "Over the whole run",
        "What happened",
        "Alarms",
        "Masks",
        "Windows",
        "Dead letters",
        "How it was run",
    ]
    assert "script" not in {one.tag for one in found.all()}


def test_names_from_outside_are_shown_and_do_nothing() -> None:
    run: list[AnyMessage] = [
        *(window(100, n, {"dense": 0.4}, drift=(HOSTILE,)) for n in range(4)),
        alarm(300, HOSTILE, HOSTILE),
        letter(HOSTILE, 1, HOSTILE, file=HOSTILE),
        Stability(begin=0, end=100, psi={HOSTILE: 0.1}),
        asked(400, HOSTILE),
    ]
    about = About(
        HOSTILE,
        {HOSTILE: HOSTILE},
        TextTable(HOSTILE, (HOSTILE,), ((HOSTILE,),)),
        (HOSTILE,),
        (TextTable(HOSTILE + "2", (HOSTILE,), ((HOSTILE,),)),),
    )
    found = page(*run, about=about)
    check(found)
    assert found.one("h1").text == HOSTILE
    letters = tables(found)["Events that did not validate"]
    assert letters[1] == [HOSTILE, "1", f"{HOSTILE}:1", HOSTILE]


def test_what_html_has_no_place_for_is_replaced() -> None:
    odd = "a\x00b\x1bc\x85d\ufffee"
    found = page(letter("label", 1, odd))
    text = tables(found)["Events that did not validate"][1][-1]
    assert text == "a\ufffdb\ufffdc\ufffdd\ufffde"


def test_the_picture_has_no_colour_of_its_own_but_those_of_the_page() -> None:
    found = page(*drifting_run())
    picture, style = found.one("svg"), found.all("style")[0].text
    inside = " ".join(" ".join(one.attributes.values()) for one in picture.all())
    assert not re.findall("#[0-9a-fA-F]{6}", inside)
    used = set(re.findall(r"var\(--([a-z]+)\)", inside))
    assert {"ground", "ink", "dense", "sparse"} <= used
    light, dark = style.split("prefers-color-scheme: dark")
    for name in used:
        assert f"--{name}: {PALETTES['light'].hues(MODELS)[name]};" in light
        assert f"--{name}: {PALETTES['dark'].hues(MODELS)[name]};" in dark
    assert "sparse +0.40 % against dense" in picture.one("title").text


def test_a_run_without_a_whole_window_says_so() -> None:
    for run in ([], [window(100, 0, {"dense": 0.4}, events=30)]):
        found = page(*run)
        check(found)
        assert found.all("svg") == []
        assert "there is nothing to draw" in found.text
    assert "There was no alarm." in page().text
    assert "All events were valid." in page().text
    assert "No rebuild was decided on." in page().text


def test_what_is_known_beside_the_messages_stands_there() -> None:
    found = page()
    assert [one.text for one in found.all("dt", "dd")] == ["Seed", "7"]
    assert "The input was short." in found.text
    assert tables(found)["Results of all models"] == [["model", "CE"], ["dense", "0.4000"]]
    assert [one.text for one in found.all("summary")] == ["Configuration"]


def test_every_window_stands_there_with_the_figures_that_there_are() -> None:
    found = tables(page(*drifting_run(), window(100, 20, {"dense": 0.5}, events=30)))
    header, *rows = found["21 windows of 100 events"]
    assert header[:6] == [
        "window",
        "first event",
        "last event",
        "click rate",
        "true drift",
        "dense CE",
    ]
    assert "sparse vs dense" in header
    assert not {"truth CE", "dense regret", "sparse 95 % interval"} & set(header)
    first, last = (dict(zip(header, row, strict=True)) for row in (rows[0], rows[-1]))
    assert (first["first event"], first["last event"], first["dense CE"]) == ("1", "100", "0.5000")
    assert (first["dense NE"], first["sparse CE"], first["sparse vs dense"]) == ("1.0000", "", "")
    assert (last["window"], last["last event"]) == ("21 (partial)", "2,030")
    middle = dict(zip(header, rows[10], strict=True))
    assert (middle["sparse vs dense"], middle["true drift"]) == ("+0.40%", "gradual")


def test_windows_that_are_too_many_are_left_out_and_named() -> None:
    many = [window(10, n, {"dense": 0.4}) for n in range(MAX_ROWS + 1)]
    few = [window(1_000, n, {"dense": 0.4}) for n in range(MAX_ROWS // 100)]
    found = page(*many, *few)
    assert "Too many to be shown here: 2,001 of 10 events." in found.text
    assert "20 windows of 1,000 events" in tables(found)


def test_a_rebuild_is_told_with_cause_judgement_and_layers() -> None:
    plan = verdict(2, 1_000).rebuild.model_copy(update={"cause": "sparse fell behind"})
    judgement = Judgement(
        rebuild=2,
        begin=900,
        end=1_000,
        candidate_ce=0.39,
        incumbent_ce=0.4,
        dense_ce=0.38,
        difference=Interval(mean=-0.01, low=-0.015, high=-0.005),
        relative=Interval(mean=-0.025, low=-0.03, high=-0.01),
    )
    layer = Layer(weights=10, kept=2, sparsity=0.8, overlap=0.75)
    first = verdict(1, 800).model_copy(
        update={"layers": {"top": layer.model_copy(update={"overlap": None})}}
    )
    second = verdict(2, 1_000).model_copy(
        update={"rebuild": plan, "judgement": judgement, "layers": {"top": layer}}
    )
    stays = "not shown better, so the incumbent stays"
    rejected = verdict(3, 1_200, "rejected").model_copy(
        update={"version": None, "reason": f"{stays}: CE -0.100 % against the incumbent's"}
    )
    windows = [one for one in drifting_run() if isinstance(one, Window)]
    found = tables(page(*windows, first, second, rejected))
    header, *rows = found["Every rebuild"]
    told = [dict(zip(header, row, strict=True)) for row in rows]
    assert [one["verdict"] for one in told] == ["promoted", "promoted", "rejected"]
    assert told[2]["because"] == stays
    assert told[0]["reason"] == "first mask"
    assert told[1]["against the one in force"] == "-2.50% [-3.00%, -1.00%]"
    assert told[1]["nats per event"] == "-0.01000 [-0.01500, -0.00500]"
    assert (told[1]["ended at"], told[1]["cost in events"]) == ("1,000", "100")
    words = found["In the order of events"]
    (cause,) = [row for row in words if row[1] == "rebuild 2 (divergence) promoted"]
    assert cause[0] == "1,000"
    (kept,) = [row for row in words if row[1].endswith("rejected")]
    assert f"{stays}: CE -0.100 %" in kept[2]
    assert "sparse fell behind" in cause[2]
    sparsity = found["Sparsity: the share of a layer's weights that is removed"]
    assert sparsity[1:] == [["1", "801", "80.00%"], ["2", "1,001", "80.00%"]]
    overlap = found["Overlap: the share of the kept weights that the mask before kept too"]
    assert overlap == [["version", "from event", "top"], ["2", "1,001", "75.00%"]]


def test_what_people_asked_for_is_told_with_its_answer() -> None:
    granted = asked(1_700, None).model_copy(
        update={"rollback": rollback(1_700, 1_750, version=4).rollback}
    )
    found = tables(page(*drifting_run(), asked(1_600, "version 1 is not kept"), granted))
    assert found["What people asked for"][1:] == [
        ["1,600", "rollback to version 1", "clicks fell", "no: version 1 is not kept", ""],
        ["1,700", "rollback to version 1", "clicks fell", "as version 4", "1,750"],
    ]
    words = {row[1]: row[0] for row in found["In the order of events"]}
    assert words["request declined"] == "1,600"
    assert words["rolled back to version 1"] == "1,750"


def test_alarms_and_dead_letters_are_told_by_kind() -> None:
    letters = [letter("label", 1), letter("numeric", 2, "x is 'a'"), letter("numeric", 3)]
    found = tables(page(alarm(500), alarm(600, "site"), *letters))
    header, *alarms = found["Drift, by what the evaluator sees"]
    assert header[2] == "feature"
    assert [row[1:3] for row in alarms] == [["dense loss", ""], ["input", "site"]]
    assert found["Events that did not validate"][1:] == [
        ["numeric", "2", "partition 0, offset 5, row 2", "x is 'a'"],
        ["label", "1", "partition 0, offset 5, row 1", "no"],
    ]


@pytest.mark.parametrize("known", [True, False])
def test_the_whole_run_and_its_segments_are_told_as_they_stood_last(known: bool) -> None:
    rich = ModelScore(
        versions=(1,),
        metrics={
            "ce": 0.41,
            "ne": 0.82,
            "ne_training": 0.83,
            "calibration": 1.01,
            "ece": 0.002,
            "roc_auc": 0.75 if known else None,
            "pr_auc": 0.3,
            "regret": 0.01,
            "relative_ce": 0.025,
        },
        errors={"pr_auc": 0.004} | ({"roc_auc": 0.00151} if known else {}),
        intervals={"relative_ce": (0.02, 0.03)},
    )

    def lifetime(end: int) -> Lifetime:
        models: dict[str, ModelScore | None] = {"dense": score(0.8), "sparse": rich}
        segment = Segment(
            feature="site",
            value="rest",
            events=end,
            weight=end,
            clicks=0.2 * end,
            click_rate=0.2,
            models=models,
            bayes_ce=None,
        )
        return Lifetime(
            begin=100,
            end=end,
            weight=end,
            clicks=0.2 * end,
            click_rate=0.2,
            models=models,
            bayes_ce=None,
            drift=(),
            segments=(segment,),
        )

    html = page(lifetime(200), lifetime(300))
    assert "A number that names a segment is that of a bucket" in html.text
    assert "that of a bucket" not in page(*drifting_run()).text
    found = tables(html)
    header, dense, sparse = found["Since event 101, through 300"]
    assert ("ROC AUC" in header) == known
    told = dict(zip(header, sparse, strict=True))
    assert told["95 % interval"] == "[+2.00%, +3.00%]"
    assert told.get("ROC AUC") == ("0.7500 ± 0.0016" if known else None)
    assert told["PR AUC"] == "0.3000 ± 0.0040"
    assert (told["NE"], told["NE by the click rate so far"]) == ("0.8200", "0.8300")
    assert dict(zip(header, dense, strict=True))["CE"] == "0.4000"
    segments = found["By site"]
    assert [row[:4] for row in segments[1:]] == [
        ["rest", "300", "20.00%", "dense"],
        ["rest", "300", "20.00%", "sparse"],
    ]


def test_the_input_is_told_by_its_farthest_window() -> None:
    run = [Stability(begin=e - 100, end=e, psi={"site": p}) for e, p in ((200, 0.3), (300, 0.1))]
    found = tables(page(*run))["Population stability index of every feature"]
    assert found[1] == ["site", "0.3000", "200", "0.1000"]


def test_grafts_are_counted_by_the_version_whose_mask_they_moved() -> None:
    """One at the count after which a version begins is of the version before."""
    run = drifting_run()
    counts = {900: 1, 1_200: 3, 1_300: 5, 1_400: 10}
    grafts = [grafted(count, top=(40, new), low=(60, 0)) for count, new in counts.items()]
    back = rollback(1_500, 1_600, version=3)
    found = tables(page(*run, back, *grafts))
    caption = "Grafts: the mask of a version moves while it is in force"
    assert found[caption] == [
        ["version", "from event", "grafts", "kept weights that each replaced", "last at"],
        ["1", "801", "2", "2.00%", "1,200"],
        ["2", "1,201", "2", "7.50%", "1,400"],
        ["3", "1,601", "0", "", ""],
    ]
    assert caption not in tables(page(*run, back))
