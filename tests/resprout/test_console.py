from __future__ import annotations

import io

import pytest

from evaluator.worker import EvaluatorStep
from learner import LearnerStep
from pruner import PruneStep
from resprout.monitoring.console import ProgressLine, View, closing_table, line
from resprout.run import Outcome, Result
from resprout.settings import Settings
from stream.messages import AnyMessage, DeadLetter, Decision, Verdict, Window
from stream.spec import Waiting
from tests.evaluator.messages import grafted
from tests.resprout.test_summary import back, history_of, score, verdict, window


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def scored(ne_dense: float, ne_sparse: float, relative: float) -> Window:
    given = window(0, dense=0.3, sparse=0.3)
    models = {
        "dense": score(0.3, ne=ne_dense),
        "sparse": score(0.3, ne=ne_sparse, relative_ce=relative),
    }
    return given.model_copy(update={"models": models})


def test_the_line_says_how_the_run_goes() -> None:
    view = View()
    view.update("source", LearnerStep(1_240_000, 500), 0.0)
    closed = (scored(0.812, 0.818, 0.007),)
    view.update("evaluator", EvaluatorStep(1_200_000, 500, closed), 0.0)
    view.update("pruner", PruneStep(1, verdict=verdict(1, 100)), 0.0)
    view.update("pruner", PruneStep(1, verdict=verdict(2, 200)), 0.0)
    assert line(view, rate=41_300, now=0.0) == (
        "1.20M events  41k/s  lag 40k  NE dense 0.812  sparse 0.818 (+0.7%)  sparsity 80%  "
        "rebuilds 1"
    )


def test_the_line_names_the_commonest_reasons_of_invalid_events() -> None:
    view = View()
    reasons = ["label"] * 1_200 + ["time"] * 3 + ["numeric"] * 2
    for n, reason in enumerate(reasons):
        view.update("evaluator", EvaluatorStep(500, dead_letters=(letter(n, reason),)), 0.0)
    said = line(view, rate=0, now=0.0)
    assert said.endswith("  invalid 1k (1,200 label, 3 time, 2 numeric)")


@pytest.mark.parametrize(
    ("rare", "rest"), [(["weight"], "and 1 other"), (["weight", "schema"], "and 2 others")]
)
def test_the_reasons_that_are_named_and_the_others_are_all(rare: list[str], rest: str) -> None:
    view = View()
    for n, reason in enumerate(["label"] * 4 + ["time"] * 3 + ["numeric"] * 2 + rare):
        view.update("evaluator", EvaluatorStep(500, dead_letters=(letter(n, reason),)), 0.0)
    said = line(view, rate=0, now=0.0)
    assert said.endswith(f"  invalid {9 + len(rare)} (4 label, 3 time, 2 numeric {rest})")


def sized(size: int, ne: float, *, partial: bool = False) -> Window:
    given = scored(ne, ne, 0.0)
    return given.model_copy(update={"size": size, "partial": partial})


def shown(view: View, *closed: Window) -> str:
    view.update("evaluator", EvaluatorStep(100, 50, closed), 0.0)
    return line(view, rate=0, now=0.0).partition("lag 0")[2].strip()


def test_the_line_keeps_to_windows_of_the_size_given() -> None:
    view = View(window_events=50)
    assert shown(view, sized(10, 0.1)) == ""
    expected = "NE dense 0.500  sparse 0.500 (+0.0%)"
    assert shown(view, sized(10, 0.2), sized(50, 0.5), sized(100, 0.9)) == expected
    assert shown(view, sized(10, 0.3)) == expected


def test_the_line_keeps_to_the_smallest_windows_where_no_size_is_given() -> None:
    view = View()
    assert shown(view, sized(10, 0.1), sized(50, 0.5)).startswith("NE dense 0.100")
    assert shown(view, sized(50, 0.6)).startswith("NE dense 0.100")
    assert shown(view, sized(10, 0.2), sized(100, 0.9)).startswith("NE dense 0.200")


def test_the_line_passes_over_what_is_left_of_a_window_at_the_end() -> None:
    view = View()
    shown(view, sized(50, 0.5))
    assert shown(view, sized(50, 0.9, partial=True)).startswith("NE dense 0.500")


def test_the_progress_shows_windows_of_the_size_given() -> None:
    out, ticks = io.StringIO(), iter([0.0, 10.0])
    progress = ProgressLine(out, lambda: next(ticks), window_events=50)
    progress("evaluator", EvaluatorStep(100, 100, (sized(50, 0.5), sized(100, 0.9))))
    assert out.getvalue().startswith("100 events  10/s  lag 0  NE dense 0.500  sparse")


def test_a_rejected_candidate_is_no_rebuild() -> None:
    view = View()
    view.update("pruner", PruneStep(1, verdict=verdict(2, 200, "rejected")), 0.0)
    assert view.rebuilds == 0


def test_a_sparse_learner_that_waits_is_seen_waiting() -> None:
    view = View()
    view.update("sparse", LearnerStep(500, waiting_for=Waiting("the verdict on rebuild 3")), 10.0)
    assert "waits" not in line(view, 0, now=11.0)
    view.update("sparse", LearnerStep(500, waiting_for=Waiting("the verdict on rebuild 3")), 12.5)
    assert line(view, 0, now=12.5).endswith("sparse waits for the verdict on rebuild 3")
    view.update("sparse", LearnerStep(1_000, 500), 13.0)
    assert "waits" not in line(view, 0, now=20.0)


def test_a_pipe_gets_plain_lines_and_seldom() -> None:
    out, ticks = io.StringIO(), iter([0.0, 1.0, 9.0, 10.0, 11.0])
    progress = ProgressLine(out, lambda: next(ticks))
    for count in (500, 1_000, 1_500, 2_000):
        progress("evaluator", EvaluatorStep(count, 500))
    progress.message("rebuild 2 promoted")
    progress.finish()
    assert out.getvalue() == "2k events  150/s  lag 0\nrebuild 2 promoted\n"


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    out, ticks = Terminal(), iter([0.0, 1.0, 2.0])
    progress = ProgressLine(out, lambda: next(ticks))
    progress("evaluator", EvaluatorStep(500, 500))
    progress("evaluator", EvaluatorStep(1_000, 500))
    progress.finish()
    assert out.getvalue() == (
        "\r\x1b[K500 events  500/s  lag 0\r\x1b[K1k events  500/s  lag 0\r\x1b[K"
    )


def test_the_rate_is_that_of_this_process() -> None:
    out, ticks = io.StringIO(), iter([0.0, 10.0])
    progress = ProgressLine(out, lambda: next(ticks))
    progress("evaluator", EvaluatorStep(1_000_500, 500))
    assert out.getvalue() == "1.00M events  50/s  lag 0\n"


def of(*messages: AnyMessage, finished: bool = True) -> Result:
    return Result(Settings(), history_of(*messages), Outcome(finished=finished))


def test_the_table_sets_models_side_by_side() -> None:
    rows = [window(n, bayes=0.1, dense=0.5, sparse=0.55, never_rebuilt=0.6) for n in range(4)]
    text = closing_table(of(verdict(1, 0), *rows))
    lines = text.splitlines()
    assert lines[0].split() == ["CE", "NE", "vs", "dense", "NE,", "last", "half", "vs", "dense"]
    assert lines[2].split() == ["sparse", "0.5500", "0.7935", "+10.00%", "0.7935", "+10.00%"]
    assert lines[3].startswith("never rebuilt")
    assert lines[4].split() == ["truth", "(Bayes)", "0.1000"]
    assert lines[-2:] == [
        "first mask decided at -200, promoted at 0: lower",
        "no rebuild: the input ended at 400 events, and none can take over before 200,000",
    ]


def test_the_table_of_a_run_without_a_mask_is_of_dense_alone() -> None:
    text = closing_table(of(window(0, dense=0.5), finished=False))
    assert [row.split()[0] for row in text.splitlines()] == ["CE", "dense"]


def test_the_table_says_how_many_grafts_there_were_and_how_much_one_moves() -> None:
    rows = [window(n, dense=0.5, sparse=0.55) for n in range(4)]
    grafts = [grafted(count, top=(100, new)) for count, new in ((100, 1), (200, 2), (300, 3))]
    result = of(verdict(1, 0), *rows, *grafts)
    lines = closing_table(result).splitlines()
    said = "grafts: 3, each moves 2.0% of the kept weights on average"
    found = result.summary.model_dump()["grafts"]
    assert found == {"number": 3, "moved": pytest.approx(0.02), "last": 300}
    plain = of(verdict(1, 0), *rows)
    assert plain.summary.grafts is None
    assert [line for line in lines if line != said] == closing_table(plain).splitlines()
    assert lines.count(said) == 1


def test_a_run_of_nothing_has_a_table_of_nothing() -> None:
    (heading,) = closing_table(of(finished=False)).splitlines()
    assert heading.split()[:2] == ["CE", "NE"]


def letter(offset: int, reason: str, file: str | None = None) -> DeadLetter:
    return DeadLetter(
        reason=reason,
        detail="",
        partition=0,
        offset=offset,
        row=2,
        file=file,
        line=offset + 1 if file else None,
        raw="",
    )


def ran(
    events: int = 8_000,
    *letters: DeadLetter,
    verdicts: tuple[Verdict, ...] = (),
    finished: bool = True,
) -> Result:
    windows = (window(0, size=events, dense=0.5),) if events else ()
    return of(*verdicts, *windows, *letters, finished=finished)


def told(result: Result) -> list[str]:
    """The lines of the table after the models."""
    return closing_table(result).partition("\n\n")[2].splitlines()


def test_the_table_says_that_the_input_ended_before_the_first_mask() -> None:
    assert told(ran()) == [
        "no sparse model: the input ended at 8,000 events, the first mask is cut at 1,000,000 and "
        "takes over at 1,100,000 (pruner.first_mask_events, pruner.rebuild_events)"
    ]


def test_the_table_says_that_the_input_ended_inside_the_first_rebuild() -> None:
    lines = told(ran(verdicts=(verdict(1, 8_100, "unfinished"),)))
    assert lines[-1] == (
        "no sparse model: the input ended at 8,000 events, the first mask was cut at 7,900 and "
        "takes over at 8,100 (pruner.first_mask_events, pruner.rebuild_events)"
    )


def test_a_first_mask_that_failed_or_took_over_needs_no_remark() -> None:
    assert ran(verdicts=(verdict(1, 7_000, "failed"),)).remarks == ()
    later = (verdict(1, 7_000), verdict(2, 9_000, "unfinished"))
    assert ran(verdicts=later).remarks == ()


def test_a_run_that_was_stopped_says_nothing_of_the_end_of_the_input() -> None:
    assert ran(finished=False).remarks == ()


def test_the_table_says_why_events_were_left_out_and_where_the_first_stands() -> None:
    letters = (letter(6, "numeric", "c.csv"), letter(7, "label", "c.csv"), letter(9, "label"))
    assert told(ran(8_000, *letters))[-1] == (
        "3 dead letters (2 label, 1 numeric), the first at c.csv:7; kept in the log `deadletters` "
        "of the state folder"
    )


def test_a_dead_letter_that_came_from_no_file_stands_in_a_partition() -> None:
    assert told(ran(8_000, letter(6, "label")))[-1].startswith(
        "1 dead letter (1 label), the first at partition 0, offset 6, row 2; kept"
    )


def test_an_input_without_one_valid_event_is_called_that() -> None:
    assert told(ran(0, letter(1, "label", "c.csv"), letter(2, "label", "c.csv"))) == [
        "no event was valid: 2 dead letters (2 label), the first at c.csv:2; kept in the log "
        "`deadletters` of the state folder"
    ]


def test_remarks_are_no_part_of_the_json() -> None:
    assert "no sparse model" not in ran().summary.model_dump_json()


def test_the_table_tells_of_rollbacks_and_whether_they_came_to_anything() -> None:
    rows = [window(n, dense=0.5, sparse=0.5) for n in range(3)]
    ledger: list[Decision | Verdict] = [verdict(1, 0), back(200, 1, 3, 300), back(250, 2, 4, 350)]
    lines = closing_table(of(*ledger, *rows)).splitlines()
    assert lines[-3:-1] == [
        "back to version 1 as version 3 decided at 200, in force at 300: clicks fell",
        "back to version 2 as version 4 decided at 250, in force never: the input ended before "
        "350: clicks fell",
    ]
