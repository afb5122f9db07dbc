from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import columnar

LAYOUT = pa.schema(
    [pa.field("label", pa.float32()), pa.field("row", pa.list_(pa.int32(), 3))],
    metadata={b"digest": b"7f"},
)


def stream(
    rows: int, layout: pa.Schema = LAYOUT, options: pa.ipc.IpcWriteOptions | None = None
) -> bytes:
    """Let Arrow's own writer write a stream of numbers that count up."""
    label = pa.array(np.arange(rows, dtype=np.float32))
    flat = pa.array(np.arange(3 * rows, dtype=np.int32))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, layout, options=options) as writer:
        lists = pa.FixedSizeListArray.from_arrays(flat, 3)
        writer.write_batch(pa.RecordBatch.from_arrays([label, lists], schema=layout))
    return bytes(sink.getvalue().to_pybytes())


def numbers_of(value: bytes) -> list[list[float]]:
    """Read them as anybody would."""
    (batch,) = pa.ipc.open_stream(value)
    batch.validate(full=True)
    return [batch.column(0).to_pylist(), batch.column(1).flatten().to_pylist()]


def test_the_bytes_are_those_of_arrows_own_writer() -> None:
    batch = pa.ipc.open_stream(stream(5)).read_next_batch()
    assert columnar.write_stream(batch.columns, LAYOUT) == stream(5)


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_views_are_the_numbers_that_arrow_reads(rows: int) -> None:
    for _ in range(2):
        found = columnar.view_stream(stream(rows))
        assert found is not None
        assert found.layout.equals(LAYOUT, check_metadata=True)
        assert list(found.columns) == LAYOUT.names
        assert [one.tolist() for one in found.columns.values()] == numbers_of(stream(rows))
        assert [one.dtype for one in found.columns.values()] == [np.float32, np.int32]


def test_streams_of_one_form_keep_their_own_numbers() -> None:
    first, second = stream(4), bytearray(stream(4))
    at = second.index(np.arange(4, dtype=np.float32).tobytes())
    second[at : at + 4] = np.float32(9).tobytes()
    found = [columnar.view_stream(value) for value in (first, bytes(second))]
    labels = [one.columns["label"].tolist() for one in found if one is not None]
    assert labels == [[0, 1, 2, 3], [9, 1, 2, 3]]


def test_what_is_compressed_cannot_be_viewed_and_can_be_read() -> None:
    value = stream(500, options=pa.ipc.IpcWriteOptions(compression="lz4"))
    assert columnar.view_stream(value) is None
    found = columnar.view_numbers(columnar.read_stream(value))
    assert [one.tolist() for one in found.columns.values()] == numbers_of(value)


@pytest.mark.parametrize(
    "layout",
    [
        LAYOUT.with_metadata({b"digest": b"80"}),
        LAYOUT.remove_metadata(),
        LAYOUT.set(0, pa.field("click", pa.float32())),
        LAYOUT.set(0, pa.field("label", pa.float32(), nullable=False)),
    ],
    ids=["other metadata", "no metadata", "other name", "never empty"],
)
def test_layouts_of_the_same_numbers_are_told_apart(layout: pa.Schema) -> None:
    assert columnar.view_stream(stream(3)) is not None
    found = columnar.view_stream(stream(3, layout))
    assert found is not None
    assert found.layout.equals(layout, check_metadata=True)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cell", ["a", True, [1], None])
def test_what_holds_no_numbers_is_not_viewed(cell: object, rows: int) -> None:
    column = pa.array([cell] * rows)
    assert (
        columnar.view_stream(columnar.write_stream([column], pa.schema([("label", column.type)])))
        is None
    )


def test_empty_cells_are_not_viewed_and_are_refused() -> None:
    whole = pa.ipc.open_stream(stream(2)).read_next_batch()
    columns = [pa.array([None, 1.0], pa.float32()), whole.column(1)]
    value = columnar.write_stream(columns, LAYOUT)
    assert columnar.view_stream(value) is None
    with pytest.raises(ValueError, match="column 'label' has empty cells"):
        columnar.view_numbers(columnar.read_stream(value))


@given(st.integers(0, len(stream(7)) - 1), st.integers(1, 255), st.integers(0, len(stream(7))))
def test_damaged_bytes_are_viewed_as_arrow_reads_them_or_not_at_all(
    at: int, change: int, keep: int
) -> None:
    damaged = bytearray(stream(7))
    damaged[at] ^= change
    for value in (bytes(damaged), bytes(damaged[:keep])):
        found = columnar.view_stream(value)
        if found is not None:
            batch = columnar.read_stream(value)
            expected = [batch.column(0).to_numpy(), batch.column(1).flatten().to_numpy()]
            assert [a.tobytes() for a in found.columns.values()] == [b.tobytes() for b in expected]


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff\xff\xff\xff", b"\xff" * 64])
def test_what_is_no_stream_is_not_viewed(value: bytes) -> None:
    assert columnar.view_stream(value) is None
