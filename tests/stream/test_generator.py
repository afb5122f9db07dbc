from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from stream import columnar, topics
from stream.batch import ClickBatch
from stream.codec import decode
from stream.log import Record
from stream.log.local import LocalLogStore
from stream.reader import ClickReader
from stream.sources.generator import GeneratorSource
from stream.sources.truth import GeneratorConfig

SMALL = GeneratorConfig(
    events=2_300, items=20, buckets=64, block_events=1_000, record_events=250, drifts=()
)


JSON = SMALL.model_copy(update={"codec": "json"})
BOTH = pytest.mark.parametrize("config", [SMALL, JSON], ids=["columnar", "json"])


def clicks(home: LocalLogStore, source: GeneratorSource) -> ClickBatch:
    reader = ClickReader(home.reader(topics.CLICKS), source.schema, 100)
    parts = []
    while (batch := reader.next()) is not None:
        parts.append(batch.batch)
    assert reader.ended
    return ClickBatch.concat(parts)


def truth(home: LocalLogStore) -> list[columnar.TruthBatch]:
    records = home.reader(topics.TRUTH).read(0, 0, 10_000)
    return [columnar.truth_from_bytes(stored.record.value) for stored in records]


def run(home: LocalLogStore, source: GeneratorSource, steps: int | None = None) -> None:
    feed = source.attach(home)
    while steps is None or steps > 0:
        if feed.step() is None:
            break
        steps = None if steps is None else steps - 1
    feed.close()


@BOTH
def test_the_stream_ends_at_its_count_and_the_truth_covers_every_click(
    tmp_path: Path, config: GeneratorConfig
) -> None:
    home, source = LocalLogStore(tmp_path), GeneratorSource(config, seed=3)
    run(home, source)
    assert len(clicks(home, source)) == 2_300
    begins = [batch.begin for batch in truth(home)]
    sizes = [len(batch.probability) for batch in truth(home)]
    assert begins == [0, *np.cumsum(sizes)[:-1].tolist()]
    assert sum(sizes) == 2_300


@BOTH
def test_a_stream_goes_on_where_its_log_ends(tmp_path: Path, config: GeneratorConfig) -> None:
    source = GeneratorSource(config, seed=3)
    whole, parts = LocalLogStore(tmp_path / "whole"), LocalLogStore(tmp_path / "parts")
    run(whole, source)
    for _ in range(5):
        run(parts, source, steps=1)
    for name in (topics.CLICKS, topics.TRUTH):
        expected = whole.reader(name).read(0, 0, 10_000)
        assert [s.record for s in parts.reader(name).read(0, 0, 10_000)] == [
            s.record for s in expected
        ]


@BOTH
def test_a_crash_between_truth_and_clicks_doubles_neither(
    tmp_path: Path, config: GeneratorConfig
) -> None:
    source = GeneratorSource(config, seed=3)
    home, ahead = LocalLogStore(tmp_path / "home"), LocalLogStore(tmp_path / "ahead")
    run(ahead, source, steps=1)
    writer = home.writer(topics.TRUTH)
    writer.append([s.record for s in ahead.reader(topics.TRUTH).read(0, 0, 3)])
    writer.close()
    run(home, source)
    assert len(clicks(home, source)) == 2_300
    assert sum(len(batch.probability) for batch in truth(home)) == 2_300


def test_another_seed_does_not_go_on_with_the_log_of_the_first(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    run(home, GeneratorSource(SMALL, seed=3), steps=1)
    with pytest.raises(ValueError, match="was made by source"):
        GeneratorSource(SMALL, seed=4).attach(home)


def test_more_events_of_the_same_stream_begin_with_the_same_events(tmp_path: Path) -> None:
    longer = SMALL.model_copy(update={"events": 5_000})
    a, b = LocalLogStore(tmp_path / "a"), LocalLogStore(tmp_path / "b")
    run(a, GeneratorSource(SMALL, 0))
    run(b, GeneratorSource(longer, 0))
    short, long = clicks(a, GeneratorSource(SMALL, 0)), clicks(b, GeneratorSource(longer, 0))
    assert np.array_equal(short.label, long.label[:2_300])
    assert np.array_equal(short.categorical, long.categorical[:2_300])


def test_churned_items_get_buckets_of_new_names(tmp_path: Path) -> None:
    churn = ({"kind": "churn", "begin": 1_000, "period_events": 1_000},)
    config = SMALL.model_copy(update={"drifts": churn, "events": 3_000})
    home, source = LocalLogStore(tmp_path), GeneratorSource(config, 0)
    run(home, source)
    column = clicks(home, source).categorical[:, 0]
    feature = source.schema.categorical[0]
    assert set(column[:1_000].tolist()) <= {feature.bucket(f"{item}.0") for item in range(20)}
    assert set(column[2_000:].tolist()) <= {feature.bucket(f"{item}.1") for item in range(20)}


def test_the_truth_names_the_drifts_that_run(tmp_path: Path) -> None:
    drifts = ({"kind": "gradual", "begin": 500}, {"kind": "abrupt", "begin": 1_250})
    home = LocalLogStore(tmp_path)
    run(home, GeneratorSource(SMALL.model_copy(update={"drifts": drifts}), 0))
    named = [[span.drift for span in batch.drift] for batch in truth(home)]
    alone, both = ["gradual"], ["gradual", "abrupt"]
    assert named[:7] == [[], [], alone, alone, alone, both, alone]


def test_a_stream_that_has_ended_goes_on_only_where_it_is_longer(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    run(home, GeneratorSource(SMALL, 0))
    run(home, GeneratorSource(SMALL, 0))
    longer = GeneratorSource(SMALL.model_copy(update={"events": 5_000}), 0)
    run(home, longer)
    shorter = GeneratorSource(SMALL, 0)
    with pytest.raises(ValueError, match=r"ended after 5000 events, and .* is 2300: let it be as"):
        shorter.attach(home)
    whole = LocalLogStore(tmp_path / "whole")
    run(whole, longer)
    parted, once = clicks(home, longer), clicks(whole, longer)
    assert np.array_equal(parted.label, once.label)
    assert np.array_equal(parted.categorical, once.categorical)
    chances = [np.concatenate([one.probability for one in truth(log)]) for log in (home, whole)]
    assert np.array_equal(chances[0], chances[1])


@BOTH
def test_a_stream_made_in_small_steps_is_the_same(tmp_path: Path, config: GeneratorConfig) -> None:
    source = GeneratorSource(config, seed=3)
    whole, parts = LocalLogStore(tmp_path / "whole"), LocalLogStore(tmp_path / "parts")
    run(whole, source)
    run(parts, source, steps=1)
    feed = source.attach(parts)
    feed.step_events = SMALL.record_events
    steps = []
    while (events := feed.step()) is not None:
        steps.append(events)
    feed.close()
    assert steps == [250, 250, 250, 250, 250, 50]
    for name in (topics.CLICKS, topics.TRUTH):
        assert parts.reader(name).read(0, 0, 10_000) == whole.reader(name).read(0, 0, 10_000)


def test_a_block_ends_with_a_shorter_record(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"record_events": 300})
    home = LocalLogStore(tmp_path)
    run(home, GeneratorSource(config, seed=3))
    clicks = [decode([one], config.features) for one in home.reader(topics.CLICKS).read(0, 0)]
    sizes = [len(one.batch) for one in clicks if not one.end]
    assert sizes == [300, 300, 300, 100, 300, 300, 300, 100, 300]


def cut(home: LocalLogStore, name: str, records: int) -> None:
    """Let a log hold only its first records, as after a crash of the machine."""
    kept = [stored.record for stored in home.reader(name).read(0, 0, records)]
    shutil.rmtree(home.folder / name)
    writer = home.writer(name)
    writer.append(kept)
    writer.close()


@pytest.mark.parametrize("kept", [1, 249, 250, 251, 777, 1_000, 1_001, 2_299, 2_300])
def test_json_goes_on_after_any_record(tmp_path: Path, kept: int) -> None:
    """A kill may fall between any two of the events that are written together."""
    source = GeneratorSource(JSON, seed=3)
    whole, killed = LocalLogStore(tmp_path / "whole"), LocalLogStore(tmp_path / "killed")
    run(whole, source)
    run(killed, source)
    cut(killed, topics.CLICKS, kept)
    run(killed, source)
    for name in (topics.CLICKS, topics.TRUTH):
        assert killed.reader(name).read(0, 0, 10_000) == whole.reader(name).read(0, 0, 10_000)


@BOTH
@pytest.mark.parametrize("kept", [0, 1, 3, 4, 6, 9])
def test_truth_that_a_crash_took_from_behind_the_clicks_is_written_again(
    tmp_path: Path, config: GeneratorConfig, kept: int
) -> None:
    source = GeneratorSource(config, seed=3)
    whole, killed = LocalLogStore(tmp_path / "whole"), LocalLogStore(tmp_path / "killed")
    run(whole, source)
    run(killed, source)
    cut(killed, topics.TRUTH, kept)
    run(killed, source)
    for name in (topics.CLICKS, topics.TRUTH):
        assert killed.reader(name).read(0, 0, 10_000) == whole.reader(name).read(0, 0, 10_000)


def test_json_holds_one_event_a_record_with_the_values_that_the_schema_hashes(
    tmp_path: Path,
) -> None:
    home = LocalLogStore(tmp_path)
    run(home, GeneratorSource(JSON, seed=3))
    records = [stored.record for stored in home.reader(topics.CLICKS).read(0, 0, 10_000)]
    assert len(records) == 2_300 + 1
    event = json.loads(records[1_200].value)
    assert (event["event_id"], event["event_time"]) == ("1200", "2026-01-01T00:00:00.600000Z")
    assert sorted(event["categorical"]) == sorted(f"item_{i}" for i in range(10))
    assert all(re.fullmatch(r"[0-9]+\.0", value) for value in event["categorical"].values())
    assert sorted(event["numeric"]) == [f"x_{i}" for i in range(8)]
    assert set(event) <= {"event_id", "event_time", "label", "numeric", "categorical"}


def test_json_and_columnar_give_the_same_batches_to_the_bit(tmp_path: Path) -> None:
    churn = ({"kind": "churn", "begin": 1_000, "period_events": 1_000},)
    read = {}
    for codec in ("columnar", "json"):
        config = SMALL.model_copy(update={"codec": codec, "drifts": churn})
        home, source = LocalLogStore(tmp_path / codec), GeneratorSource(config, seed=3)
        run(home, source)
        read[codec] = clicks(home, source)
    for name in ClickBatch.__slots__:
        one, other = getattr(read["columnar"], name), getattr(read["json"], name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def test_a_log_does_not_go_on_in_another_codec(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    run(home, GeneratorSource(SMALL, seed=3), steps=1)
    with pytest.raises(ValueError, match="was made by source"):
        GeneratorSource(JSON, seed=3).attach(home)


def test_clicks_of_somebody_else_are_not_gone_on_with(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    writer = home.writer(topics.CLICKS)
    writer.append([Record(b"{}", (("source", b"\xff"), ("count", b"1")))])
    writer.close()
    with pytest.raises(ValueError, match="was made by source \ufffd, not by this generator"):
        GeneratorSource(SMALL, 0).attach(home)


def test_a_log_of_several_partitions_is_refused(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    home.create({topics.CLICKS: 2})
    with pytest.raises(ValueError, match="has 2 partitions; the generator writes one of partition"):
        GeneratorSource(SMALL, 0).attach(home)
