from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pruner.triggers import Score
from pruner.worker import WindowFollower
from stream import topics
from stream.messages import Decision
from tests.pruner.worlds import World, judgement, window


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
    assert windows.scores == [Score(100, 200, 0.0025)]
    assert windows.judgements[3] == judgement(3, 200, -1.0)
    assert 2 not in windows.judgements


def test_windows_before_a_swap_are_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.find(*(window(end, 0.1) for end in (100, 200, 300)))
    with closing(world.home.reader(topics.WINDOWS)) as reader:
        windows = WindowFollower(reader, 100)
        windows.poll()
        windows.forget(150)
    assert [score.begin for score in windows.scores] == [200]
    assert windows.closed == 300
