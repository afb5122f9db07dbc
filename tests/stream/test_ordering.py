from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import topics
from stream.codec import Invalid
from stream.columnar import predictions_to_bytes
from stream.log import Record
from stream.log.local import LocalLogStore
from stream.messages import Position, PositionRange, PredictionBatch
from stream.ordering import LOG, Recorded, Resumed, RoundRobin, open_order
from stream.reader import ClickCursor, ClickReader, CountedBatch, nothing_follows
from stream.spec import Waiting
from tests.stream import clicklog
from tests.stream.clicklog import END, SCHEMA, append, columnar, numbers, read_all, same

SIZE = 4
FIRST, SECOND = (
    PositionRange(0, Position(0, 0), Position(0, 1), 2),
    PositionRange(1, Position(0, 0), Position(0, 1), 2),
)


@dataclass
class World:
    """A log of clicks in several partitions, and dense as far as the order goes."""

    folder: Path
    partitions: int = 2
    size: int = SIZE
    home: LocalLogStore = field(init=False)

    def __post_init__(self) -> None:
        self.home = LocalLogStore(self.folder)
        self.home.create({topics.CLICKS: self.partitions})

    def write(self, partition: int, *records: Record) -> None:
        append(self.home, records, partition)

    def publish(self, begin: int, *spans: PositionRange) -> None:
        """Publish predictions as dense does, with its order."""
        n = sum(span.events for span in spans)
        batch = PredictionBatch("dense", 0, begin, spans, {}, np.full(n, 0.5))
        with closing(self.home.writer(LOG)) as writer:
            writer.append([Record(predictions_to_bytes(batch))])

    def chooser(self) -> ClickReader:
        """Read in an order that nobody is told of."""
        return ClickReader(self.home.reader(topics.CLICKS), SCHEMA, self.size, None, RoundRobin())

    def follower(self, cursor: ClickCursor | None = None) -> ClickReader:
        clicks = self.home.reader(topics.CLICKS)
        return ClickReader(clicks, SCHEMA, self.size, cursor, Recorded(self.home.reader(LOG)))


class Dense:
    """Reads and publishes; a crash takes it back to any of its checkpoints."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.checkpoints: list[tuple[ClickCursor | None, int | None]] = [(None, None)]
        self.batches: list[CountedBatch] = []
        self.resume(0)

    def resume(self, checkpoint: int) -> None:
        """Come back to life; later checkpoints are damaged."""
        del self.checkpoints[checkpoint + 1 :]
        cursor, offset = self.checkpoints[-1]
        home = self.world.home
        self.order = Resumed(home.reader(LOG), offset)
        clicks = home.reader(topics.CLICKS)
        self.reader = ClickReader(clicks, SCHEMA, self.world.size, cursor, self.order)

    def step(self) -> bool:
        found = self.reader.next()
        if found is None:
            return False
        self.world.publish(found.begin, *found.spans)
        at = found.begin // self.world.size
        if at < len(self.batches):
            assert same([found], [self.batches[at]])
        else:
            self.batches.append(found)
        return True

    def checkpoint(self) -> None:
        self.checkpoints.append((self.reader.cursor, self.order.offset))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_partition_gives_an_equal_share_of_each_batch(world: World) -> None:
    world.write(0, columnar(0, 6))
    world.write(1, columnar(100, 6))
    assert numbers(read_all(world.chooser())) == [
        [0, 1, 100, 101],
        [102, 103, 2, 3],
        [4, 5, 104, 105],
    ]


def test_what_is_over_goes_round(tmp_path: Path) -> None:
    world = World(tmp_path, size=3)
    world.write(0, columnar(0, 6))
    world.write(1, columnar(100, 6))
    assert numbers(read_all(world.chooser())) == [
        [0, 1, 100],
        [101, 102, 2],
        [3, 4, 103],
        [104, 105, 5],
    ]


def test_nobody_waits_for_a_partition_that_rests(world: World) -> None:
    world.write(0, columnar(0, 9))
    reader = world.chooser()
    assert numbers(read_all(reader)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    world.write(1, columnar(100, 3))
    [found] = read_all(reader)
    assert numbers([found]) == [[8, 100, 101, 102]]
    assert found.spans == (
        PositionRange(0, Position(0, 8), Position(0, 8), 1),
        PositionRange(1, Position(0, 0), Position(0, 2), 3),
    )


def test_the_short_batch_comes_when_every_partition_has_ended(world: World) -> None:
    world.write(0, columnar(0, 3), END)
    world.write(1, columnar(100, 3))
    reader = world.chooser()
    assert numbers(read_all(reader)) == [[0, 1, 100, 101]]
    assert not reader.ended
    world.write(1, END)
    [found] = read_all(reader)
    assert (numbers([found]), found.last) == ([[102, 2]], True)
    assert reader.ended
    assert reader.cursor.ended


def test_an_input_that_ends_where_a_batch_does_has_no_short_batch(world: World) -> None:
    dense = Dense(world)
    world.write(0, columnar(0, 5), END)
    world.write(1, columnar(100, 3), END)
    while dense.step():
        pass
    follower = world.follower()
    assert same(read_all(follower), dense.batches)
    assert [b.last for b in dense.batches] == [False, False]
    assert (dense.reader.ended, follower.ended) == (True, True)
    assert dense.reader.waits_for == follower.waits_for == Waiting("clicks")


def test_an_input_of_nothing_ends_once_every_partition_has(world: World) -> None:
    dense, follower = Dense(world), world.follower()
    world.write(0, END)
    assert not dense.step()
    assert follower.next() is None
    assert (dense.reader.ended, follower.ended) == (False, False)
    world.write(1, clicklog.raw(1), END)
    assert not dense.step()
    assert follower.next() is None
    assert dense.reader.ended
    assert follower.ended
    assert follower.drain() == {"unparsable": 1}


def test_a_follower_waits_for_dense_and_then_for_the_clicks(world: World) -> None:
    follower = world.follower()
    world.write(0, columnar(0, 4))
    assert follower.next() is None
    assert (follower.waits_for, follower.ended) == (Waiting("predictions.dense"), False)
    world.publish(
        0,
        PositionRange(0, Position(0, 0), Position(0, 1), 2),
        PositionRange(1, Position(0, 0), Position(0, 1), 2),
    )
    assert follower.next() is None
    assert str(follower.waits_for) == "clicks"
    world.write(1, columnar(100, 4))
    assert numbers(read_all(follower)) == [[0, 1, 100, 101]]
    assert str(follower.waits_for) == "predictions.dense"


def test_dense_waits_for_the_clicks_alone(world: World) -> None:
    dense = Dense(world)
    assert not dense.step()
    assert dense.reader.waits_for == world.chooser().waits_for == Waiting("clicks")


def test_dense_repeats_the_order_that_it_had_published_whatever_has_come_since(
    world: World,
) -> None:
    dense = Dense(world)
    world.write(0, columnar(0, 12))
    assert [dense.step() for _ in range(4)] == [True, True, True, False]
    world.write(1, columnar(100, 12))
    dense.resume(0)
    while dense.step():
        pass
    assert numbers(dense.batches)[:4] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [100, 101, 102, 103],
    ]


def test_one_that_was_stopped_while_it_repeated_still_repeats_all(world: World) -> None:
    """Its log then ends with repeats that do not reach as far as the first time."""
    dense = Dense(world)
    world.write(0, columnar(0, 20))
    while dense.step():
        pass
    world.write(1, columnar(100, 20))
    dense.resume(0)
    dense.step()
    dense.checkpoint()
    dense.step()
    dense.resume(1)
    dense.step()
    dense.resume(1)
    while dense.step():
        pass
    assert numbers(dense.batches)[4] == [16, 17, 18, 19]
    assert same(read_all(world.follower()), dense.batches)


def test_dense_waits_for_clicks_that_it_had_read_and_cannot_see_yet(world: World) -> None:
    """A broker that has just lost its leader may be behind."""
    world.publish(0, FIRST, SECOND)
    world.write(0, columnar(0, 9))
    reader = ClickReader(
        world.home.reader(topics.CLICKS), SCHEMA, SIZE, None, Resumed(world.home.reader(LOG))
    )
    assert (reader.next(), reader.waits_for) == (None, Waiting("clicks"))
    world.write(1, columnar(100, 4))
    assert numbers(read_all(reader))[0] == [0, 1, 100, 101]


def test_the_log_of_the_order_is_opened_where_there_are_several_partitions(world: World) -> None:
    opened = open_order(world.home, world.home.reader(topics.CLICKS))
    assert opened is not None
    assert opened.identity == world.home.reader("predictions.dense").identity
    assert open_order(world.home, world.home.reader("truth")) is None


def test_an_order_with_a_hole_is_refused(world: World) -> None:
    world.publish(4, PositionRange(0, Position(0, 0), Position(0, 3), 4))
    with pytest.raises(
        ValueError, match="continues at 4: the order of the events after 0 is missi"
    ):
        world.follower().next()


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param(
            [FIRST, PositionRange(1, Position(0, 1), Position(0, 2), 2)], id="other events"
        ),
        pytest.param(
            [FIRST, PositionRange(2, Position(0, 0), Position(0, 1), 2)], id="another partition"
        ),
        pytest.param(
            [FIRST, PositionRange(1, Position(0, 0), Position(0, 2), 3)], id="more than a batch"
        ),
        pytest.param([FIRST], id="less than a batch in the middle"),
        pytest.param(
            [FIRST, PositionRange(1, Position(0, 0), Position(0, 9), 10)], id="more than there are"
        ),
    ],
)
def test_an_order_of_other_clicks_is_refused(world: World, spans: Sequence[PositionRange]) -> None:
    world.write(0, columnar(0, 4), END)
    world.write(1, columnar(100, 4), END)
    world.publish(0, *spans)
    with pytest.raises(
        ValueError, match=r"of dense from 0 on are of \d+ events in .*no batch of 4"
    ):
        world.follower().next()


def test_a_short_batch_is_believed_once_the_end_is_there(world: World) -> None:
    follower = world.follower()
    world.write(0, columnar(0, 2), END)
    world.publish(0, FIRST)
    assert (follower.next(), follower.waits_for) == (None, Waiting("clicks"))
    world.write(1, END)
    [found] = read_all(follower)
    assert (numbers([found]), found.last) == ([[0, 1]], True)


def test_it_can_be_told_without_an_order_that_nothing_follows(world: World) -> None:
    world.write(0, columnar(0, 4), clicklog.raw(1), END)
    world.write(1, columnar(100, 4))
    clicks, reader = world.home.reader(topics.CLICKS), world.chooser()
    read_all(reader)
    assert not nothing_follows(clicks, SCHEMA, reader.cursor)
    world.write(1, END)
    assert nothing_follows(clicks, SCHEMA, reader.cursor)
    assert not nothing_follows(clicks, SCHEMA, ClickCursor(identity=clicks.identity))


Kind = str | tuple[int, set[int]]
Act = tuple[str, int, Kind | None]
KIND = st.sampled_from(["json", "broken", "raw", "foreign"]) | st.tuples(
    st.integers(1, 12), st.sets(st.integers(0, 11), max_size=3)
)
ACT = (
    st.tuples(st.just("write"), st.integers(0, 2), KIND)
    | st.tuples(st.just("step"), st.integers(1, 5), st.none())
    | st.tuples(st.just("checkpoint"), st.just(0), st.none())
    | st.tuples(st.just("crash"), st.integers(0, 3), st.none())
)


@dataclass
class Written:
    """What stands in each partition: the valid events, and the places of the others."""

    valid: dict[int, list[int]] = field(default_factory=lambda: {0: [], 1: [], 2: []})
    invalid: set[tuple[int, Position]] = field(default_factory=set)
    records: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0, 2: 0})
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(100_000)))

    def record(self, partition: int, kind: Kind) -> Record:
        offset = self.records[partition]
        self.records[partition] += 1
        if isinstance(kind, tuple):
            size, bad = kind[0], sorted(row for row in kind[1] if row < kind[0])
            found = [next(self.numbers) for _ in range(size)]
            self.valid[partition] += [found[row] for row in range(size) if row not in bad]
            self.invalid |= {(partition, Position(offset, row)) for row in bad}
            return columnar(found[0], size, bad)
        if kind == "json":
            number = next(self.numbers)
            self.valid[partition].append(number)
            return clicklog.json(number)[0]
        self.invalid.add((partition, Position(offset, 0)))
        odd = {
            "broken": Record(b"{"),
            "raw": clicklog.raw(offset),
            "foreign": Record(b"", (("kind", b"x"),)),
        }
        return odd[kind]


def play(world: World, acts: Sequence[Act], written: Written) -> Dense:
    """Let clicks come and dense live, be stopped and be killed; in the end all of it is read."""
    dense = Dense(world)
    for act, number, kind in acts:
        if kind is not None:
            world.write(number, written.record(number, kind))
        elif act == "step":
            for _ in range(number):
                dense.step()
        elif act == "checkpoint":
            dense.checkpoint()
        else:
            dense.resume(min(number, len(dense.checkpoints) - 1))
    for partition in range(3):
        world.write(partition, END)
    while dense.step():
        pass
    return dense


def counted(batches: Sequence[CountedBatch], trailing: Mapping[str, int]) -> Counter[str]:
    """Add up what was skipped."""
    return sum((Counter(b.skipped) for b in batches), Counter(trailing))


@settings(max_examples=40, deadline=None)
@given(acts=st.lists(ACT, max_size=40), size=st.integers(1, 9))
def test_all_read_the_same_batches_of_several_partitions_whatever_happens_to_dense(
    acts: list[Act], size: int
) -> None:
    with TemporaryDirectory() as folder:
        world, written = World(Path(folder), 3, size), Written()
        dense = play(world, acts, written)
        assert dense.reader.ended

        follower = world.follower()
        met: list[Invalid] = []
        follower.on_invalid(met.extend)
        batches, cursors = [], [follower.cursor]
        while (found := follower.next()) is not None:
            batches.append(found)
            cursors.append(follower.cursor)
        trailing = follower.drain()
        assert follower.ended
        assert same(batches, dense.batches)

        read = [number for events in numbers(batches) for number in events]
        for valid in written.valid.values():
            assert [number for number in read if number in set(valid)] == valid
        assert len(read) == sum(map(len, written.valid.values()))
        assert [len(b.batch) for b in batches[:-1]] == [size] * (len(batches) - 1)
        places = [(one.partition, one.place) for one in met]
        assert len(places) == len(set(places))
        assert set(places) == written.invalid
        assert counted(batches, trailing) == Counter(one.reason.value for one in met)

        for at, cursor in enumerate(cursors):
            again = world.follower(cursor)
            assert same(read_all(again), batches[at:])
            assert again.drain() == trailing
