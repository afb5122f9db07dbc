from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from stream.batch import ClickBatch
from stream.columnar import (
    SchemaMismatchError,
    TruthBatch,
    gather,
    opened,
    predictions_from_bytes,
    predictions_to_bytes,
    to_bytes,
    truth_from_bytes,
    truth_to_bytes,
)
from stream.messages import DriftSpan, Position, PositionRange, PredictionBatch
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature


def schema_of(d: int, c: int) -> FeatureSchema:
    return FeatureSchema(
        numeric=tuple(NumericFeature(name=f"x{i}") for i in range(d)),
        categorical=tuple(CategoricalFeature(name=f"c{i}", buckets=10) for i in range(c)),
    )


def batch_of(n: int, d: int, c: int) -> ClickBatch:
    rng = np.random.default_rng(0)
    return ClickBatch(
        rng.integers(0, 2, n).astype(np.float32),
        rng.random(n, np.float32) + 0.5,
        np.arange(n, dtype=np.int64) * 1000,
        rng.normal(size=(n, d)).astype(np.float32),
        rng.integers(0, 10, (n, c)).astype(np.int32),
    )


SCHEMA = schema_of(2, 3)


def written() -> dict[str, pa.Array]:
    """Return the columns of two clicks as they are written."""
    found = pa.ipc.open_stream(to_bytes(batch_of(2, 2, 3), SCHEMA.digest)).read_next_batch()
    return dict(zip(found.schema.names, found.columns, strict=True))


def stream_of(columns: dict[str, pa.Array], digest: str | None = "") -> bytes:
    """Let Arrow's own writer write columns, as clicks of a schema."""
    digest = SCHEMA.digest if digest == "" else digest
    metadata = {} if digest is None else {"resprout.schema": digest}
    layout = pa.schema([(name, array.type) for name, array in columns.items()], metadata)
    return stream_bytes(pa.RecordBatch.from_arrays(list(columns.values()), schema=layout))


def stream_bytes(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def from_bytes(value: bytes, schema: FeatureSchema) -> ClickBatch:
    return gather([opened(value, schema)], schema)


def assert_same(left: ClickBatch, right: ClickBatch) -> None:
    for name in ClickBatch.__slots__:
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize(("d", "c"), [(2, 3), (0, 3), (2, 0), (1, 1)])
@pytest.mark.parametrize("n", [0, 1, 500])
def test_clicks_come_back_as_they_were(n: int, d: int, c: int) -> None:
    schema, batch = schema_of(d, c), batch_of(n, d, c)
    assert_same(from_bytes(to_bytes(batch, schema.digest), schema), batch)


def test_equal_clicks_give_equal_bytes_though_one_is_a_view() -> None:
    batch = batch_of(20, 2, 3)
    view = ClickBatch.concat([batch, batch])[20:]
    strided = batch_of(40, 2, 3)[::2]
    assert to_bytes(view, SCHEMA.digest) == to_bytes(batch, SCHEMA.digest)
    assert_same(from_bytes(to_bytes(strided, SCHEMA.digest), SCHEMA), strided)


def test_what_was_read_belongs_to_the_caller() -> None:
    """torch refuses arrays that it may not write to."""
    batch = from_bytes(to_bytes(batch_of(3, 2, 3), SCHEMA.digest), SCHEMA)
    assert all(getattr(batch, name).flags.writeable for name in ClickBatch.__slots__)


def test_clicks_of_another_schema_are_refused_with_both_digests() -> None:
    other = schema_of(3, 2)
    with pytest.raises(SchemaMismatchError, match=f"{SCHEMA.digest}.*{other.digest}"):
        from_bytes(to_bytes(batch_of(3, 2, 3), SCHEMA.digest), other)


def test_a_batch_that_belies_its_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="its columns are not those of the schema"):
        from_bytes(to_bytes(batch_of(3, 1, 3), SCHEMA.digest), SCHEMA)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": pa.array([1.0, 0.0])}, "'label' is double, not uint8 or float"),
        ({"label": None}, "'label' is missing"),
        ({"weigth": pa.array([1.0, 2.0], pa.float32())}, "'weigth' is unknown"),
        (
            {"categorical": pa.array([[1, 2]] * 2, pa.list_(pa.int32(), 2))},
            r"'categorical' is .*\[2\], not .*\[3\]",
        ),
    ],
)
def test_columns_that_are_not_those_of_the_schema_are_named(
    change: dict[str, pa.Array | None], said: str
) -> None:
    columns = {name: array for name, array in (written() | change).items() if array is not None}
    for _ in range(2):
        with pytest.raises(ValueError, match=f"its columns are not those of the schema: {said}"):
            from_bytes(stream_of(columns), SCHEMA)


def test_clicks_that_name_no_schema_are_taken_for_this_one() -> None:
    found = from_bytes(stream_of(written(), digest=None), SCHEMA)
    assert_same(found, batch_of(2, 2, 3))


@pytest.mark.parametrize(
    "behind", [b"\0", b"x", to_bytes(batch_of(1, 2, 3), SCHEMA.digest)], ids=["0", "x", "clicks"]
)
@pytest.mark.parametrize("rows", [0, 2])
def test_what_stands_behind_a_batch_is_not_lost_in_silence(rows: int, behind: bytes) -> None:
    value = to_bytes(batch_of(rows, 2, 3), SCHEMA.digest)
    for _ in range(2):
        with pytest.raises(ValueError, match="not an Arrow stream of one batch: more follows it"):
            from_bytes(value + behind, SCHEMA)


def test_a_second_batch_is_not_lost_in_silence() -> None:
    table = pa.Table.from_batches([pa.RecordBatch.from_pydict(written())] * 2)
    table = table.replace_schema_metadata({"resprout.schema": SCHEMA.digest})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="not an Arrow stream of one batch"):
        from_bytes(sink.getvalue().to_pybytes(), SCHEMA)


@pytest.mark.parametrize("end", [b"", bytes(4), b"\xff\xff\xff\xff" + bytes(4)])
def test_a_stream_may_end_in_all_ways_that_arrow_knows(end: bytes) -> None:
    value = to_bytes(batch_of(2, 2, 3), SCHEMA.digest)[:-8]
    assert_same(from_bytes(value + end, SCHEMA), batch_of(2, 2, 3))


def test_a_type_that_pyarrow_does_not_know_is_refused() -> None:
    """It writes no column of days and milliseconds: another interval is made one."""
    column = pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval())
    value = stream_of({"label": column})
    found = set()
    for at, old in enumerate(value[:400]):
        if old == 2:
            changed = value[:at] + b"\1" + value[at + 1 :]
            with pytest.raises(ValueError, match="not a") as refused:
                from_bytes(changed, SCHEMA)
            found.add(str(refused.value))
    assert any("'label' is day_time_interval, not uint8 or float" in one for one in found)


def test_two_columns_of_one_name_are_refused() -> None:
    columns = written()
    layout = pa.schema(
        [*((n, a.type) for n, a in columns.items()), ("label", pa.uint8())],
        {"resprout.schema": SCHEMA.digest},
    )
    both = pa.RecordBatch.from_arrays([*columns.values(), columns["label"]], schema=layout)
    with pytest.raises(ValueError, match="two columns have the same name: label, weight"):
        from_bytes(stream_bytes(both), SCHEMA)


def test_how_the_items_of_lists_are_called_does_not_matter() -> None:
    columns = written()
    item = pa.field("element", pa.float32(), nullable=False)
    flat = columns["numeric"].values
    columns["numeric"] = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(item, 2))
    assert_same(from_bytes(stream_of(columns), SCHEMA), batch_of(2, 2, 3))


LABELS = [pa.array([1, 0], kind) for kind in (pa.uint8(), pa.float32())]
WEIGHTS = [pa.array(w, pa.float32()) for w in ([1, 1], [1, 2.5])] + [None]
BUCKETS = [
    pa.array([[9, 0, 65535], [1, 2, 3]], pa.list_(kind, 3)) for kind in (pa.uint16(), pa.int32())
]


def test_clicks_are_the_same_in_columns_of_any_type_and_order() -> None:
    """As anybody may write them, and as earlier versions did."""
    whole = ClickBatch(
        np.array([1, 0], np.float32),
        np.ones(2, np.float32),
        np.array([5, 7]),
        np.array([[0.5, -1], [2, 3]], np.float32),
        np.array([[9, 0, 65535], [1, 2, 3]], np.int32),
    )
    found, expected = [], []
    for label, weight, buckets in product(LABELS, WEIGHTS, BUCKETS):
        columns = {
            "label": label,
            "weight": weight,
            "time_ms": pa.array([5, 7], pa.int64()),
            "numeric": pa.array([[0.5, -1], [2, 3]], pa.list_(pa.float32(), 2)),
            "categorical": buckets,
        }
        given = {name: array for name, array in columns.items() if array is not None}
        for one in (given, dict(reversed(given.items()))):
            found.append(opened(stream_of(one), SCHEMA))
            expected.append(whole if weight is None else replace(whole, weight=weight.to_numpy()))
            assert_same(gather(found[-1:], SCHEMA), expected[-1])
    assert_same(gather(found, SCHEMA), ClickBatch.concat(expected))


def kinds_of(value: bytes) -> dict[str, pa.DataType]:
    found = pa.ipc.open_stream(value).read_next_batch().schema
    return {field.name: field.type for field in found}


def test_clicks_are_written_in_as_few_bytes_as_hold_them() -> None:
    batch = replace(batch_of(500, 2, 3), weight=np.ones(500, np.float32))
    value = to_bytes(batch, SCHEMA.digest)
    assert kinds_of(value) == {
        "label": pa.uint8(),
        "time_ms": pa.int64(),
        "numeric": pa.list_(pa.float32(), 2),
        "categorical": pa.list_(pa.uint16(), 3),
    }
    assert_same(from_bytes(value, SCHEMA), batch)


@pytest.mark.parametrize(
    ("name", "odd", "kind"),
    [
        ("label", 0.5, pa.float32()),
        ("label", np.nan, pa.float32()),
        ("label", -1, pa.float32()),
        ("label", 256, pa.float32()),
        ("weight", 2, pa.float32()),
        ("weight", np.nan, pa.float32()),
        ("categorical", 65536, pa.list_(pa.int32(), 3)),
        ("categorical", -1, pa.list_(pa.int32(), 3)),
    ],
)
def test_what_does_not_fit_is_written_at_length(name: str, odd: float, kind: pa.DataType) -> None:
    """It may be invalid: that is for whoever reads it to say."""
    batch = replace(batch_of(3, 2, 3), weight=np.ones(3, np.float32))
    column = getattr(batch, name)
    column[1] = odd
    value = to_bytes(batch, SCHEMA.digest)
    assert kinds_of(value)[name] == kind
    assert_same(from_bytes(value, SCHEMA), batch)


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 600])
def test_torn_bytes_are_refused(keep: int) -> None:
    value = to_bytes(batch_of(3, 2, 3), SCHEMA.digest)
    with pytest.raises(ValueError, match="not an Arrow stream"):
        from_bytes(value[:keep], SCHEMA)


def test_a_stream_without_a_batch_is_refused() -> None:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, pa.schema([])).close()
    with pytest.raises(ValueError, match="not an Arrow stream: it holds no batch"):
        from_bytes(sink.getvalue().to_pybytes(), SCHEMA)


def test_empty_cells_are_refused() -> None:
    columns = written() | {"label": pa.array([None, 1], pa.uint8())}
    with pytest.raises(ValueError, match="column 'label' has empty cells"):
        from_bytes(stream_of(columns), SCHEMA)


@pytest.mark.parametrize("rows", [0, 1, 3, 500])
@pytest.mark.parametrize("name", ["m", "m" * 63, "größer"])
def test_predictions_are_what_arrow_itself_writes(rows: int, name: str) -> None:
    probability = np.random.default_rng(rows).random(rows)
    value = predictions_to_bytes(PredictionBatch(name, 0, 0, (), {}, probability))
    found = pa.ipc.open_stream(value)
    batch = found.read_next_batch()
    batch.validate(full=True)
    assert batch.column("probability").to_numpy().tolist() == probability.tolist()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_batch(batch)
    assert sink.getvalue().to_pybytes() == value


def test_predictions_come_back_bit_for_bit() -> None:
    batch = PredictionBatch(
        model="candidate-3",
        version=4,
        begin=1000,
        spans=(
            PositionRange(0, Position(7, 2), Position(9, 0), 2),
            PositionRange(1, Position(3, 0), Position(3, 0), 1),
        ),
        trained_through={1: Position(2, 499), 0: Position(7, 1)},
        probability=np.array([0.1, 1 / 3, np.nextafter(1.0, 0.0)]),
    )
    back = predictions_from_bytes(predictions_to_bytes(batch))
    np.testing.assert_array_equal(back.probability, batch.probability, strict=True)
    assert (back.model, back.version, back.begin, back.end) == ("candidate-3", 4, 1000, 1003)
    assert back.spans == batch.spans
    assert back.trained_through == batch.trained_through


def test_equal_predictions_give_equal_bytes_in_whatever_order_partitions_were_named() -> None:
    def value(through: dict[int, Position]) -> bytes:
        return predictions_to_bytes(PredictionBatch("dense", 0, 0, (), through, np.array([0.5])))

    one, two = (0, Position(1, 2)), (1, Position(3, 4))
    assert value(dict([one, two])) == value(dict([two, one]))


def test_the_truth_comes_back() -> None:
    drift = (DriftSpan(drift="gradual", begin=5, end=9),)
    back = truth_from_bytes(truth_to_bytes(TruthBatch(5, np.array([0.25, 0.75]), drift)))
    assert (back.begin, back.end, back.drift) == (5, 7, drift)
    assert back.probability.tolist() == [0.25, 0.75]


def test_clicks_are_no_predictions() -> None:
    value = to_bytes(batch_of(3, 2, 3), SCHEMA.digest)
    with pytest.raises(ValueError, match="not a batch of probabilities: columns label, weight"):
        predictions_from_bytes(value)


def packed(rows: int, codec: str | None) -> bytes:
    """Let Arrow write clicks that are all alike, compressed."""
    columns = {
        "label": pa.array(np.zeros(rows, np.uint8)),
        "time_ms": pa.array(np.zeros(rows, np.int64)),
        "numeric": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * rows, np.float32)), 2),
        "categorical": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(3 * rows, np.uint16)), 3),
    }
    layout = pa.schema(
        [(name, array.type) for name, array in columns.items()], {"resprout.schema": SCHEMA.digest}
    )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, layout, options=options) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=layout))
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_record_of_many_rows_is_refused_before_it_is_unpacked(codec: str) -> None:
    value = packed(10_000_000, codec)
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="10,000,000 rows in 230,000,000 bytes once unpacked; a"):
        opened(value, SCHEMA)
    assert pa.total_allocated_bytes() == before
    assert len(gather([opened(packed(5_000, codec), SCHEMA)], SCHEMA)) == 5_000


def test_a_record_that_claims_more_bytes_than_rows_take_is_refused() -> None:
    value = packed(5_000, "zstd")
    claimed = (15_000 * 2).to_bytes(8, "little")
    assert value.count(claimed) == 1, "the length of the buckets"
    with pytest.raises(ValueError, match="5,000 rows in 1,099,511,"):
        opened(value.replace(claimed, (2**40).to_bytes(8, "little")), SCHEMA)


def test_a_record_of_as_many_rows_as_are_allowed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1_000
    monkeypatch.setattr("stream.columnar.MAX_ROWS", rows)
    assert len(gather([opened(packed(rows, "zstd"), SCHEMA)], SCHEMA)) == rows
    for codec in ("zstd", None):
        with pytest.raises(ValueError, match=r"1,001 rows in .* at most 1,000 rows"):
            opened(packed(rows + 1, codec), SCHEMA)


def test_columns_with_a_dictionary_are_refused_before_it_is_read() -> None:
    column = pa.array(["a", "b"]).dictionary_encode()
    value = stream_of({"label": column})
    with pytest.raises(ValueError, match="not an Arrow stream of one batch: something else"):
        opened(value, SCHEMA)
