from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from scipy import stats

from pruner.triggers import Score
from pruner.worker import WindowFollower
from stream import topics
from stream.messages import Decision, ModelScore
from tests.pruner.worlds import WINDOW, World, judgement, window


def test_it_reads_windows_of_one_size_judgements_and_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path)
    with closing(world.home.reader(topics.WINDOWS)) as reader:
        windows = WindowFollower(reader, 100)
        windows.poll()
        assert (windows.closed, windows.scores) == (0, [])
        world.find(
            window(100),
            window(20, 7.0, size=20),
            window(200, 0.25),
            Decision(count=200, why_not="maturing"),
            judgement(3, 200, -1.0),
            window(300, 0.5).model_copy(update={"partial": True}),
            window(200, 0.25),
        )
        windows.poll()
    assert windows.closed == 200
    assert windows.scores == [Score(100, 200, 0.0025)]  # an interval was not given
    assert windows.judgements[3] == judgement(3, 200, -1.0)
    assert 2 not in windows.judgements


def test_a_score_has_the_standard_error_behind_the_interval_of_its_window(tmp_path: Path) -> None:
    world = World(tmp_path)
    low, high = stats.t.interval(0.95, WINDOW - 1, loc=0.0025, scale=0.0004)
    score = ModelScore(
        versions=(1,),
        metrics={"relative_ce": 0.0025},
        intervals={"relative_ce": (float(low), float(high))},
    )
    world.find(window(200, 0.25).model_copy(update={"models": {"sparse": score}}))
    with closing(world.home.reader(topics.WINDOWS)) as reader:
        windows = WindowFollower(reader, WINDOW)
        windows.poll()
    (found,) = windows.scores
    assert (found.begin, found.end, found.relative_ce) == (100, 200, 0.0025)
    assert found.error == pytest.approx(0.0004)


def test_windows_before_a_swap_are_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.find(*(window(end, 0.1) for end in (100, 200, 300)))
    with closing(world.home.reader(topics.WINDOWS)) as reader:
        windows = WindowFollower(reader, 100)
        windows.poll()
        windows.forget(150)
    assert [score.begin for score in windows.scores] == [200]
    assert windows.closed == 300
