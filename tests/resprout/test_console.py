from __future__ import annotations

import io

from evaluator.worker import EvaluatorStep
from learner.step import LearnerStep
from pruner.worker import PruneStep
from resprout.console import Progress, View, line, table
from resprout.summary import Cost, summarise
from stream.messages import Interval, Window
from tests.resprout.test_summary import score, verdict, window


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def scored(ne_dense: float, ne_sparse: float, relative: float) -> Window:
    given = window(0, dense=0.3, sparse=0.3)
    models = {
        name: score(0.3).model_copy(update={"ne": ne})
        for name, ne in (("dense", ne_dense), ("sparse", ne_sparse))
    }
    interval = Interval(mean=relative, low=None, high=None)
    return given.model_copy(update={"models": models, "relative_ce": {"sparse": interval}})


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


def test_a_rejected_candidate_is_no_rebuild() -> None:
    view = View()
    view.update("pruner", PruneStep(1, verdict=verdict(2, 200, "rejected")), 0.0)
    assert view.rebuilds == 0


def test_a_sparse_learner_that_waits_is_seen_waiting() -> None:
    view = View()
    view.update("sparse", LearnerStep(500, waiting_for="the verdict on rebuild 3"), 10.0)
    assert "waits" not in line(view, 0, now=11.0)
    view.update("sparse", LearnerStep(500, waiting_for="the verdict on rebuild 3"), 12.5)
    assert line(view, 0, now=12.5).endswith("sparse waits for the verdict on rebuild 3")
    view.update("sparse", LearnerStep(1_000, 500), 13.0)
    assert "waits" not in line(view, 0, now=20.0)


def test_a_pipe_gets_plain_lines_and_seldom() -> None:
    out, ticks = io.StringIO(), iter([0.0, 1.0, 9.0, 10.0, 11.0])
    progress = Progress(out, lambda: next(ticks))
    for count in (500, 1_000, 1_500, 2_000):
        progress("evaluator", EvaluatorStep(count, 500))
    progress.message("rebuild 2 promoted")
    progress.finish()
    assert out.getvalue() == "2k events  150/s  lag 0\nrebuild 2 promoted\n"


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    out, ticks = Terminal(), iter([0.0, 1.0, 2.0])
    progress = Progress(out, lambda: next(ticks))
    progress("evaluator", EvaluatorStep(500, 500))
    progress("evaluator", EvaluatorStep(1_000, 500))
    progress.finish()
    assert out.getvalue() == (
        "\r\x1b[K500 events  500/s  lag 0\r\x1b[K1k events  500/s  lag 0\r\x1b[K"
    )


def test_the_rate_is_that_of_this_process() -> None:
    out, ticks = io.StringIO(), iter([0.0, 10.0])
    progress = Progress(out, lambda: next(ticks))
    progress("evaluator", EvaluatorStep(1_000_500, 500))
    assert out.getvalue() == "1.00M events  50/s  lag 0\n"


def test_the_table_sets_models_side_by_side() -> None:
    rows = [window(n, bayes=0.1, dense=0.5, sparse=0.55, never_rebuilt=0.6) for n in range(4)]
    text = table(summarise(rows, [verdict(1, 0)], Cost(0, 0.0), 0, 0))
    lines = text.splitlines()
    assert lines[0].split() == ["CE", "NE", "vs", "dense", "NE,", "last", "half", "vs", "dense"]
    assert lines[2].split() == ["sparse", "0.5500", "0.7935", "+10.00%", "0.7935", "+10.00%"]
    assert lines[3].startswith("never rebuilt")
    assert lines[4].split() == ["truth", "(Bayes)", "0.1000"]
    assert lines[-1] == "first mask decided at -200, promoted at 0: lower"


def test_the_table_of_a_run_without_a_mask_is_of_dense_alone() -> None:
    text = table(summarise([window(0, dense=0.5)], [], Cost(0, 0.0), 0, 0))
    assert [row.split()[0] for row in text.splitlines()] == ["CE", "dense"]


def test_a_run_of_nothing_has_a_table_of_nothing() -> None:
    (heading,) = table(summarise([], [], Cost(0, 0.0), 0, 0)).splitlines()
    assert heading.split()[:2] == ["CE", "NE"]
