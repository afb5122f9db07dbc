"""A run that begins in the middle of clicks that somebody else writes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from resprout.cli import main
from resprout.folder import RunFolder, begun
from resprout.run import execute
from resprout.spec import ExternalSource, RunDefinition
from stream import topics
from stream.batch import ClickBatch
from stream.codec import columnar_record, end_record
from stream.columnar import predictions_from_bytes
from stream.log import KafkaConfig, LogIdentityError, LogTrimmedError, Record
from stream.log.kafka.store import KafkaLogStore
from stream.log.local import LocalLogStore
from stream.messages import DeadLetter, Position, parse
from stream.reader import ClickReader
from stream.sources.files import FileSource
from stream.start_position import parse_start_position
from tests.resprout.crew import LEARNERS, crew
from tests.resprout.eventful import BATCH, PLAN, TOTAL, eventful
from tests.resprout.left import Left

SCHEMA = PLAN.source.schema
BEFORE = 1_730
"""Events that stand before those of the run: no whole number of batches."""
RECORD = 330
FOREIGN = Record(b"<click/>", (("kind", b"xml"),))
TIME = "2026-01-01T00:00:00Z"
"""Of the first event of the run; those before are of the year before."""
SNAPSHOT = re.compile(rb"(?<=/\d{15})-[0-9a-f]{12}")
OFFSET = 7
"""Six records stand before, and one that is no event."""


@pytest.fixture(scope="module")
def events(whole: RunFolder) -> ClickBatch:
    """The events of the eventful run."""
    with closing(whole.home.reader(topics.CLICKS)) as log:
        reader = ClickReader(log, SCHEMA, BATCH)
        return ClickBatch.concat([counted.batch for counted in iter(reader.next, None)])


def columnar(events: ClickBatch) -> list[Record]:
    return [
        columnar_record(events[at : at + RECORD], SCHEMA) for at in range(0, len(events), RECORD)
    ]


def earlier(events: ClickBatch) -> list[Record]:
    """Make records of other events, of the year before, and one that is no event."""
    others = events[:BEFORE]
    others = replace(others, label=1 - others.label, time_ms=others.time_ms - 365 * 86_400_000)
    made = columnar(others)
    assert len(made) + 1 == OFFSET
    return [*made, FOREIGN]


def clicks(events: ClickBatch) -> list[Record]:
    return [*columnar(events[:10_000]), FOREIGN, *columnar(events[10_000:]), end_record()]


def write(folder: Path, made: Sequence[Record], trim: int = 0) -> None:
    """Write clicks, and trim some."""
    store = LocalLogStore(folder / "logs")
    with closing(store.writer(topics.CLICKS)) as writer:
        writer.append(made)
    store.trim(topics.CLICKS, 0, trim)


def plan(begin: Any = None) -> RunDefinition:
    return RunDefinition(eventful(stream__begin=begin), ExternalSource(SCHEMA))


@dataclass(frozen=True)
class Learned:
    """What a run came to, wherever its events stand: snapshots are named by their places too."""

    told: dict[str, bytes]
    """In the log ``windows``."""
    predicted: dict[str, tuple[int, bytes]]
    tensors: dict[str, Any]
    masks: tuple[str, ...]
    buried: list[Position]
    """What became a dead letter."""

    @classmethod
    def by(cls, left: Left) -> Learned:
        batches = {k: predictions_from_bytes(value) for k, value in left.predictions.items()}
        letters = [parse(value) for value in left.dead_letters.values()]
        return cls(
            told={k: SNAPSHOT.sub(b"", value) for k, value in left.windows.items()},
            predicted={k: (b.version, b.probability.tobytes()) for k, b in batches.items()},
            tensors={model: state["tensors"] for model, state in left.states.items()},
            masks=left.masks,
            buried=[
                Position(one.offset, one.row) for one in letters if isinstance(one, DeadLetter)
            ],
        )


@pytest.fixture(scope="module")
def expected(events: ClickBatch, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """What comes of a log that begins with the first event of the run."""
    folder = tmp_path_factory.mktemp("alone")
    write(folder, clicks(events))
    assert execute(plan(), folder).finished
    found = Learned.by(Left.by(RunFolder(folder)))
    [foreign] = found.buried
    return replace(found, buried=[Position(foreign.offset + OFFSET, 0)])


def check(found: Learned, expected: Learned) -> None:
    for part in fields(Learned):
        assert getattr(found, part.name) == getattr(expected, part.name), part.name


@pytest.mark.parametrize(("begin", "trim"), [(TIME, 0), ({"0": OFFSET}, 3)], ids=str)
def test_a_run_that_begins_in_the_middle_is_that_of_a_log_that_begins_there(
    begin: Any, trim: int, events: ClickBatch, expected: Learned, tmp_path: Path
) -> None:
    """Nothing that stands before is learned, scored or buried, and counts begin there with 0."""
    write(tmp_path, earlier(events) + clicks(events), trim)
    result = execute(plan(begin), tmp_path)
    assert result.finished
    assert result.summary.events == TOTAL
    check(Learned.by(Left.by(RunFolder(tmp_path))), expected)


def test_processes_begin_where_one_process_does(
    events: ClickBatch, expected: Learned, tmp_path: Path
) -> None:
    """They take their schema from a file, and share nothing but the state folder."""
    schema = tmp_path / "schema.toml"
    numeric = "".join(f'[[numeric]]\nname = "{one.name}"\n' for one in SCHEMA.numeric)
    categorical = "".join(
        f'[[categorical]]\nname = "{one.name}"\nbuckets = {one.buckets}\n'
        for one in SCHEMA.categorical
    )
    schema.write_text(numeric + categorical)
    write(tmp_path / "run", earlier(events) + clicks(events), trim=2)
    with crew(tmp_path, eventful(stream__begin=TIME)) as team:
        for name in LEARNERS:
            team.start(name, "--schema", str(schema))
        for name, hand in team.hands.items():
            assert (name, hand.wait()) == (name, 0), hand.text
    told = [
        hand.text.count("the run begins in the clicks with offset 7 of partition 0")
        for hand in team.hands.values()
    ]
    assert sum(told) >= 1
    check(Learned.by(Left.by(RunFolder(team.state))), expected)


def found_in(folder: RunFolder, begin: object) -> Mapping[int, int]:
    return begun(folder.home, parse_start_position(begin), folder)[1]


def test_the_place_of_a_time_is_found_once_for_all_workers(
    events: ClickBatch, tmp_path: Path
) -> None:
    """Nothing has come to that time yet: who starts later finds more there."""
    folder = RunFolder(tmp_path)
    write(tmp_path, columnar(events[:RECORD]))
    assert found_in(folder, "2027-01-01T00:00:00Z") == {0: 1}
    write(tmp_path, columnar(events[RECORD : 3 * RECORD]))
    assert found_in(folder, "2027-01-01T00:00:00Z") == {0: 1}
    assert {file.name for file in tmp_path.iterdir()} == {"begin.json", "logs"}


def test_a_place_that_has_been_trimmed_away_since_stays_the_place(tmp_path: Path) -> None:
    """Whoever has gone on from there does not need it any more."""
    folder = RunFolder(tmp_path)
    write(tmp_path, [FOREIGN] * 8)
    assert found_in(folder, {0: 2}) == {0: 2}
    write(tmp_path, [FOREIGN], trim=5)
    assert found_in(folder, {0: 2}) == {0: 2}
    with pytest.raises(ValueError, match="2 in partition 0: it has been trimmed away"):
        begun(folder.home, {0: 2}, RunFolder(tmp_path / "another run"))


DAMAGED = r"begin\.json is damaged .*; name another folder, or delete it and set stream\.begin to"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"log": "7f"}', b"\xff\xfe"])
def test_a_damaged_place_is_named(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    write(tmp_path, [FOREIGN] * 8)
    (tmp_path / "begin.json").write_bytes(content)
    with pytest.raises(ValueError, match=DAMAGED):
        found_in(folder, {0: 2})


def test_a_place_with_other_offsets_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(tmp_path, [FOREIGN] * 8)
    assert found_in(folder, {0: 2}) == {0: 2}
    file = tmp_path / "begin.json"
    file.write_text(file.read_text().replace('"0": 2', '"0": 3'))
    with pytest.raises(ValueError, match=DAMAGED):
        found_in(folder, {0: 2})
    file.unlink()
    assert found_in(folder, {0: 2}) == {0: 2}, "the way out that the message names"


def test_of_many_who_begin_at_once_all_begin_at_the_same_place(tmp_path: Path) -> None:
    folder, found = RunFolder(tmp_path), []
    write(tmp_path, [FOREIGN] * 8)
    gate = threading.Barrier(8)

    def begin(offset: int) -> None:
        gate.wait()
        found.append(found_in(folder, {0: offset}))

    threads = [threading.Thread(target=begin, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert found == [found[0]] * 8


def test_a_run_whose_clicks_were_made_again_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [FOREIGN])
    found_in(RunFolder(tmp_path), {0: 1})
    other = LocalLogStore(tmp_path / "made again")
    with pytest.raises(LogIdentityError, match=r"began in the clicks log \w+, this one is \w+: it"):
        begun(other, {0: 1}, RunFolder(tmp_path))


def test_all_workers_of_a_run_must_name_the_same_begin(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(plan(TIME))
    folder.check(plan("2026-01-01T01:00:00+01:00"))
    for other, told in (
        ({"0": 3}, r"is \{'0': 3\}"),
        (None, "is None"),
        (TIME[:-1] + "+01:00", "is '20"),
    ):
        with pytest.raises(ValueError, match=rf"settings\.stream\.begin was '{TIME}', {told}"):
            folder.check(plan(other))


def test_a_run_from_before_there_was_the_setting_goes_on(tmp_path: Path) -> None:
    folder, record = RunFolder(tmp_path), plan().record()
    del record["settings"]["stream"]["begin"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    folder.check(plan())


def test_a_run_that_is_cleared_may_begin_elsewhere(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(plan(TIME))
    write(tmp_path, [FOREIGN])
    found_in(folder, {0: 1})
    folder.clear()
    assert {file.name for file in tmp_path.iterdir()} == {"lock", "workers"}


def test_a_run_that_writes_its_clicks_itself_begins_with_the_first(tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    file.write_text("event_time,label," + ",".join(SCHEMA.names) + "\n")
    for source in (PLAN.source, FileSource(file, SCHEMA)):
        with pytest.raises(ValueError, match=r"stream\.begin is set, and this run writes its cl"):
            RunDefinition(eventful(stream__begin=TIME), source).check()


@pytest.mark.parametrize("command", [("run",), ("generate",), ("learn", "dense"), ("evaluate",)])
def test_it_is_refused_before_anything_is_made(command: Sequence[str], tmp_path: Path) -> None:
    state = tmp_path / "run"
    given = [*command, "--state", str(state), "--set", f"stream.begin={TIME}"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2
    assert "leave stream.begin out, or name with --schema the features" in result.stderr
    assert not state.exists()


def test_a_topic_that_has_lost_its_head_is_learned_from_what_it_keeps(
    kafka_home: KafkaLogStore,
    kafka_config: KafkaConfig,
    events: ClickBatch,
    expected: Learned,
    tmp_path: Path,
) -> None:
    """As one with retention: without the setting it is refused, and the words say what helps."""
    with closing(kafka_home.writer(topics.CLICKS)) as writer:
        writer.append(earlier(events) + clicks(events))
        writer.flush()
    kafka_home.trim(topics.CLICKS, 0, 4)
    on_broker = {"stream__home": "kafka", "stream__kafka__bootstrap": kafka_config.bootstrap}
    on_broker["stream__kafka__prefix"] = kafka_config.prefix

    def run(state: Path, **more: Any) -> Left:
        settings = eventful(**on_broker, **more)
        assert execute(RunDefinition(settings, ExternalSource(SCHEMA)), state).finished
        return Left.by(RunFolder(state), kafka_home)

    with pytest.raises(LogTrimmedError, match=r"offset 4 of partition 0, of 2025-.*stream\.begin"):
        run(tmp_path / "refused")
    check(Learned.by(run(tmp_path / "run", stream__begin=TIME)), expected)
