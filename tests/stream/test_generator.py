from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream import columnar, topics
from stream.batch import ClickBatch
from stream.clicks import ClickReader
from stream.config import GeneratorConfig
from stream.embedded import EmbeddedHome
from stream.generator import GeneratorSource

SMALL = GeneratorConfig(
    events=2_300, items=20, buckets=64, block_events=1_000, record_events=250, drifts=()
)


def clicks(home: EmbeddedHome, source: GeneratorSource) -> ClickBatch:
    reader = ClickReader(home.reader(topics.CLICKS), source.schema, 100)
    parts = []
    while (batch := reader.next()) is not None:
        parts.append(batch.batch)
    assert reader.ended
    return ClickBatch.concat(parts)


def truth(home: EmbeddedHome) -> list[columnar.TruthBatch]:
    records = home.reader(topics.TRUTH).read(0, 0, 1_000)
    return [columnar.truth_from_bytes(stored.record.value) for stored in records]


def run(home: EmbeddedHome, source: GeneratorSource, steps: int | None = None) -> None:
    feed = source.attach(home)
    while steps is None or steps > 0:
        if feed.step() is None:
            break
        steps = None if steps is None else steps - 1
    feed.close()


def test_the_stream_ends_at_its_count_and_the_truth_covers_every_click(tmp_path: Path) -> None:
    home, source = EmbeddedHome(tmp_path), GeneratorSource(SMALL, seed=3)
    run(home, source)
    assert len(clicks(home, source)) == 2_300
    begins = [batch.begin for batch in truth(home)]
    sizes = [len(batch.probability) for batch in truth(home)]
    assert begins == [0, *np.cumsum(sizes)[:-1].tolist()]
    assert sum(sizes) == 2_300


def test_a_stream_goes_on_where_its_log_ends(tmp_path: Path) -> None:
    source = GeneratorSource(SMALL, seed=3)
    whole, parts = EmbeddedHome(tmp_path / "whole"), EmbeddedHome(tmp_path / "parts")
    run(whole, source)
    for _ in range(5):
        run(parts, source, steps=1)
    for name in (topics.CLICKS, topics.TRUTH):
        expected = whole.reader(name).read(0, 0, 1_000)
        assert [s.record for s in parts.reader(name).read(0, 0, 1_000)] == [
            s.record for s in expected
        ]


def test_a_crash_between_truth_and_clicks_doubles_neither(tmp_path: Path) -> None:
    source = GeneratorSource(SMALL, seed=3)
    home, ahead = EmbeddedHome(tmp_path / "home"), EmbeddedHome(tmp_path / "ahead")
    run(ahead, source, steps=1)
    writer = home.writer(topics.TRUTH)
    writer.append([s.record for s in ahead.reader(topics.TRUTH).read(0, 0, 3)])
    writer.close()
    run(home, source)
    assert len(clicks(home, source)) == 2_300
    assert sum(len(batch.probability) for batch in truth(home)) == 2_300


def test_another_seed_does_not_go_on_with_the_log_of_the_first(tmp_path: Path) -> None:
    home = EmbeddedHome(tmp_path)
    run(home, GeneratorSource(SMALL, seed=3), steps=1)
    with pytest.raises(ValueError, match="was made by source"):
        GeneratorSource(SMALL, seed=4).attach(home)


def test_more_events_of_the_same_stream_begin_with_the_same_events(tmp_path: Path) -> None:
    longer = SMALL.model_copy(update={"events": 5_000})
    a, b = EmbeddedHome(tmp_path / "a"), EmbeddedHome(tmp_path / "b")
    run(a, GeneratorSource(SMALL, 0))
    run(b, GeneratorSource(longer, 0))
    short, long = clicks(a, GeneratorSource(SMALL, 0)), clicks(b, GeneratorSource(longer, 0))
    assert np.array_equal(short.label, long.label[:2_300])
    assert np.array_equal(short.categorical, long.categorical[:2_300])


def test_churned_items_get_buckets_of_new_names(tmp_path: Path) -> None:
    churn = ({"kind": "churn", "begin": 1_000, "period_events": 1_000},)
    config = SMALL.model_copy(update={"drifts": churn, "events": 3_000})
    home, source = EmbeddedHome(tmp_path), GeneratorSource(config, 0)
    run(home, source)
    column = clicks(home, source).categorical[:, 0]
    feature = source.schema.categorical[0]
    assert set(column[:1_000].tolist()) <= {feature.bucket(f"{item}.0") for item in range(20)}
    assert set(column[2_000:].tolist()) <= {feature.bucket(f"{item}.1") for item in range(20)}


def test_the_truth_names_the_drifts_that_run(tmp_path: Path) -> None:
    drifts = ({"kind": "gradual", "begin": 500}, {"kind": "abrupt", "begin": 1_250})
    home = EmbeddedHome(tmp_path)
    run(home, GeneratorSource(SMALL.model_copy(update={"drifts": drifts}), 0))
    named = [[span.drift for span in batch.drift] for batch in truth(home)]
    alone, both = ["gradual"], ["gradual", "abrupt"]
    assert named[:7] == [[], [], alone, alone, alone, both, alone]


def test_a_stream_that_has_ended_does_not_go_on(tmp_path: Path) -> None:
    home = EmbeddedHome(tmp_path)
    run(home, GeneratorSource(SMALL, 0))
    run(home, GeneratorSource(SMALL, 0))
    longer = GeneratorSource(SMALL.model_copy(update={"events": 5_000}), 0)
    with pytest.raises(ValueError, match="has ended after 2300 events and cannot go on to 5000"):
        longer.attach(home)
