from __future__ import annotations

from contextlib import closing
from pathlib import Path

from learner import LearnerState, ModelVersion
from pruner import History
from pruner.worker import PrunerNeeds, tidy_candidates, tidy_checkpoints, unused
from stream import topics
from stream.log import Record
from stream.messages import Decision, RebuildPlan, Verdict, dump
from stream.reader import ClickCursor
from stream.retention import RestartPoint
from tests.pruner.worlds import World, build

NAMES = [f"dense/{count:015d}-abcdefabcdef" for count in (100, 200, 300, 400)]


def plan(number: int, snapshot: int) -> RebuildPlan:
    return RebuildPlan(
        number=number, reason="", cause="", begin=snapshot, decided=snapshot, end=snapshot + 200
    )


def test_a_snapshot_stays_while_an_undecided_window_could_name_it() -> None:
    """With the grid at 100, the window at 399 still starts from 300."""
    assert unused(NAMES, History(decided=0), 100) == []
    assert unused(NAMES, History(decided=299), 100) == NAMES[:1]
    assert unused(NAMES, History(decided=300), 100) == NAMES[:2]


def test_the_snapshot_of_the_open_rebuild_and_the_newest_stay() -> None:
    assert unused(NAMES, History(decided=900, plan=plan(1, 200)), 100) == [NAMES[0], NAMES[2]]


def candidate(world: World, number: int) -> str:
    cursor = ClickCursor(identity="7f", count=100 * number)
    return world.snapshots.write(
        LearnerState(f"candidate-{number}", number, cursor, {}, build().state())
    )


def test_candidates_stay_while_they_are_among_the_last_versions_or_in_the_making(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    names = {number: candidate(world, number) for number in (1, 2, 3, 4)}
    kept = ModelVersion(2, names[2], 200)
    tidy_candidates(world.snapshots, History(plan=plan(4, 300), promoted=(kept,)))
    left = {number for number in names if world.snapshots.names(f"candidate-{number}")}
    assert left == {2, 4}
    assert not (world.snapshots.folder / "candidate-1").exists()


def test_only_the_open_rebuild_keeps_its_checkpoints(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"rebuild-{number:06d}" / "x").mkdir(parents=True)
    tidy_checkpoints(tmp_path, History(plan=plan(2, 300)))
    assert [path.name for path in tmp_path.iterdir()] == ["rebuild-000002"]
    tidy_checkpoints(tmp_path, History())
    assert list(tmp_path.iterdir()) == []


def test_clicks_are_needed_from_the_oldest_dense_snapshot_and_the_first_mask(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    needs = PrunerNeeds(world.home.reader(topics.LEDGER), world.snapshots, window_events=100)
    assert needs.poll() == RestartPoint([], windows_after=-100)
    for count in (300, 400):
        cursor = ClickCursor(identity="7f", count=count)
        world.snapshots.write(LearnerState("dense", 0, cursor, {}, build().state()))
    first = plan(1, 400)
    with closing(world.home.writer(topics.LEDGER)) as ledger:

        def write(message: Decision | Verdict) -> tuple[list[int], int | None]:
            ledger.append([Record(dump(message))])
            point = needs.poll()
            return [cursor.count for cursor in point.clicks], point.windows_after

        assert write(Decision(count=400, rebuild=first)) == ([300, 400], -100)
        assert needs.first is None
        world.snapshots.delete(world.snapshots.names("dense")[0])
        name = candidate(world, 6)
        assert write(promoted(first, version=1, snapshot=name)) == ([400], 300)
        assert needs.first == ClickCursor(identity="7f", count=600)
        assert write(Decision(count=800, rebuild=plan(2, 800))) == ([400], 500)
        assert write(Decision(count=900)) == ([400], 500)
        world.snapshots.delete(name)
        assert write(promoted(plan(2, 800), version=2, snapshot=candidate(world, 8)))[1] == 800
        assert needs.first is None


def promoted(plan: RebuildPlan, version: int, snapshot: str) -> Verdict:
    return Verdict(
        count=plan.end,
        rebuild=plan,
        verdict="promoted",
        reason="",
        version=version,
        snapshot=snapshot,
        mask="7f",
        cost_events=200,
    )
