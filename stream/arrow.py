"""Arrow streams of one record batch of numbers: written, read, and read again by their form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_MESSAGE: Final = b"\xff\xff\xff\xff"
"""Begins a message of a stream; the length of its head follows."""
_LENGTHS: Final = 8
_END: Final = _MESSAGE + bytes(4)


@dataclass(frozen=True, slots=True)
class Views:
    """The numbers of a batch, where they stand in its bytes."""

    layout: pa.Schema
    columns: dict[str, NDArray[Any]]
    """Flat, also those that are lists."""


def write(columns: list[pa.Array], layout: pa.Schema) -> bytes:
    """Write the Arrow stream of one record batch, message by message.

    Arrow's stream writer writes the same bytes, and takes four times as long for small batches.
    """
    batch = pa.RecordBatch.from_arrays(columns, schema=layout)
    return b"".join((layout.serialize(), batch.serialize(), _END))


def read(value: bytes) -> pa.RecordBatch:
    """Read the one record batch of an Arrow stream; refuse more, which would be lost."""
    source = pa.BufferReader(value)
    try:
        with pa.ipc.open_stream(source) as reader:
            batch = reader.read_next_batch()
            more = next(reader, None) is not None or source.tell() < len(value)
        batch.validate()
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise ValueError(f"not an Arrow stream: {str(error) or 'it holds no batch'}") from error
    if more:
        raise ValueError("not an Arrow stream of one batch: more stands behind it")
    return batch


def numbers(batch: pa.RecordBatch) -> Views:
    """View the numbers of columns, also those in fixed-size lists; refuse empty cells."""
    names = batch.schema.names
    if len(set(names)) < len(names):
        raise ValueError(f"two columns have the same name: {', '.join(names)}")
    found = {}
    for name, column in zip(names, batch.columns, strict=True):
        lists = pa.types.is_fixed_size_list(column.type)
        values = column.values if lists else column
        size = len(column) * column.type.list_size if lists else len(column)
        if column.null_count or values.null_count or len(values) != size:
            raise ValueError(f"column {name!r} has empty cells")
        found[name] = values.to_numpy(zero_copy_only=True)
    return Views(batch.schema, found)


def views(value: bytes) -> Views | None:
    """View the numbers of a stream in a tenth of the time that :func:`read` takes.

    What stands before the numbers of a stream says all about it but their values: its columns,
    their lengths and where they begin. So Arrow is asked once for each such head.

    Returns
    -------
    None where the numbers cannot be viewed: in bytes that are no such stream or go on behind it, in
    columns of anything else, with empty cells or without rows, and where they are compressed.
    :func:`read` and :func:`numbers` then tell.
    """
    form = _form(_head(value), len(value))
    if form is None:
        return None
    layout, places, end = form
    if value[end:] != _END:
        return None
    return Views(
        layout, {name: np.frombuffer(value, kind, count, at) for name, kind, count, at in places}
    )


def _head(value: bytes) -> bytes:
    """Return what stands before the numbers; nothing of bytes that are no stream."""
    end = 0
    for _ in ("schema", "batch"):
        if value[end : end + 4] != _MESSAGE:
            return b""
        end += _LENGTHS + int.from_bytes(value[end + 4 : end + _LENGTHS], "little")
    return value[:end]


@lru_cache(maxsize=64)
def _form(
    head: bytes, size: int
) -> tuple[pa.Schema, tuple[tuple[str, np.dtype[Any], int, int], ...], int] | None:
    """Say what stands where in a stream of a head.

    Its layout; of each column the name, the type of its numbers, how many they are and from where;
    and the end of all numbers.
    """
    value = head + bytes(size - len(head))
    try:
        source = pa.BufferReader(value)
        for _ in ("schema", "batch"):
            pa.ipc.read_message(source)
        value = value[: source.tell()]
        found = numbers(read(value))
    except (ValueError, KeyError, EOFError, pa.ArrowException, OSError):
        # KeyError: pyarrow knows no arrays of some types that Arrow has.
        return None
    whole = np.frombuffer(value, np.uint8)
    places = tuple(
        (name, one.dtype, one.size, _address(one) - _address(whole))
        for name, one in found.columns.items()
    )
    end = len(value)
    inside = all(0 <= at <= end - count * kind.itemsize for _, kind, count, at in places)
    return (found.layout, places, end) if inside else None


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
