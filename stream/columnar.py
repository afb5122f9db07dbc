"""Arrow streams of one record batch of numbers: written, read, and read again by their form."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from stream.batch import ClickBatch
from stream.messages import DriftSpan, Position, PositionRange, PredictionBatch
from stream.schema import FeatureSchema

_MESSAGE_START: Final = b"\xff\xff\xff\xff"
"""Begins a message of a stream; the length of its head follows."""
_LENGTHS: Final = 8
_END: Final = _MESSAGE_START + bytes(4)
MAX_ROWS: Final = 1_000_000
"""Rows of a record at most."""
MAX_UNPACKED_BYTES: Final = 256 * 1024 * 1024
"""What the columns of a record take at most, once they are no longer compressed."""
_RECORD_BATCH: Final = 3
"""The number of that kind of message."""


@dataclass(frozen=True, slots=True)
class Views:
    """The numbers of a batch, where they stand in its bytes."""

    layout: pa.Schema
    columns: dict[str, NDArray[Any]]
    """Flat, also those that are lists."""


def write_stream(columns: list[pa.Array], layout: pa.Schema) -> bytes:
    """Write the Arrow stream of one record batch, message by message.

    Arrow's stream writer writes the same bytes, and takes four times as long for small batches.
    """
    batch = pa.RecordBatch.from_arrays(columns, schema=layout)
    return b"".join((layout.serialize(), batch.serialize(), _END))


def read_stream(value: bytes) -> pa.RecordBatch:
    """Read the one record batch of an Arrow stream; refuse more, which would be lost.

    What it would take in memory is looked at before anything is unpacked: some kilobytes can claim
    to be millions of rows.
    """
    _check_size(value)
    source = pa.BufferReader(value)
    try:
        with pa.ipc.open_stream(source) as reader:
            batch = reader.read_next_batch()
            more = next(reader, None) is not None or source.tell() < len(value)
        batch.validate()
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise ValueError(f"not an Arrow stream: {str(error) or 'it holds no batch'}") from error
    if more:
        raise ValueError("not an Arrow stream of one batch: more follows it")
    return batch


def _check_size(value: bytes) -> None:
    """Refuse a stream that is too large once unpacked, from what stands before its columns."""
    try:
        rows, unpacked = _claimed(value)
    except struct.error as error:
        raise ValueError(f"not an Arrow stream: its head is damaged ({error})") from error
    if rows > MAX_ROWS or unpacked > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"an Arrow stream of {rows:,} rows in {unpacked:,} bytes once unpacked; a record takes "
            f"at most {MAX_ROWS:,} rows and {MAX_UNPACKED_BYTES:,} bytes: send several"
        )


def _claimed(value: bytes) -> tuple[int, int]:
    """Return the rows of the first batch of a stream, and the bytes of its columns unpacked.

    Both are 0 where no batch follows the layout; columns with a dictionary are refused, which would
    stand in a message of its own. A message is its length, a flatbuffer that describes it, and its
    body; a compressed buffer of the body begins with its length unpacked, or -1 where it is not.
    """
    at = 0
    for message in ("schema", "batch"):
        at += 4 * (value[at : at + 4] == _MESSAGE_START)
        length = struct.unpack_from("<i", value, at)[0] if at + 4 <= len(value) else 0
        if length <= 0:
            return 0, 0
        head, at = value[at + 4 : at + 4 + length], at + 4 + length
        place = struct.unpack_from("<I", head)[0]
        kind, body = _field(head, place, 1), _field(head, place, 3)
        if message == "batch":
            break
        at += struct.unpack_from("<q", head, body)[0] if body else 0
    if not kind or head[kind] != _RECORD_BATCH:
        raise ValueError("not an Arrow stream of one batch: something else follows the layout")
    place = _target(head, _field(head, place, 2))
    rows_at, is_compressed = _field(head, place, 0), _field(head, place, 3)
    rows = struct.unpack_from("<q", head, rows_at)[0] if rows_at else 0
    unpacked = 0
    for offset, size in _pairs(head, _target(head, _field(head, place, 2))):
        claimed = -1
        if is_compressed and size >= _LENGTHS and 0 <= offset <= len(value) - at - _LENGTHS:
            claimed = struct.unpack_from("<q", value, at + offset)[0]
        unpacked += size if claimed < 0 else claimed
    return rows, unpacked


def _field(buffer: bytes, table: int, number: int) -> int:
    """Return where a field of a table in a flatbuffer stands; 0 where it is left out."""
    places = table - struct.unpack_from("<i", buffer, table)[0]
    if not 0 <= places <= len(buffer) - 2:
        raise struct.error("a table outside")
    at = 4 + 2 * number
    if at + 2 > struct.unpack_from("<H", buffer, places)[0]:
        return 0
    found: int = struct.unpack_from("<H", buffer, places + at)[0]
    if table + found >= len(buffer):
        raise struct.error("a field outside")
    return found and table + found


def _target(buffer: bytes, at: int) -> int:
    """Return the place that a field of a flatbuffer refers to."""
    found: int = at + struct.unpack_from("<I", buffer, at)[0]
    if not at or found >= len(buffer):
        raise struct.error("a reference outside")
    return found


def _pairs(buffer: bytes, at: int) -> Iterator[tuple[Any, ...]]:
    """Yield the pairs of long integers that a vector of a flatbuffer holds."""
    count = struct.unpack_from("<I", buffer, at)[0]
    if at + 4 + 16 * count > len(buffer):
        raise struct.error("a vector outside")
    return struct.iter_unpack("<qq", buffer[at + 4 : at + 4 + 16 * count])


def view_numbers(batch: pa.RecordBatch) -> Views:
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


def view_stream(value: bytes) -> Views | None:
    """View the numbers of a stream in a tenth of the time that :func:`read_stream` takes.

    What stands before the numbers of a stream says all about it but their values: its columns,
    their lengths and where they begin. So Arrow is asked once for each such head.

    Returns
    -------
    None where the numbers cannot be viewed: in bytes that are not such a stream or continue after
    it, in columns of anything else, with empty cells or without rows, and where they are
    compressed. :func:`read_stream` and :func:`view_numbers` then say what is wrong.
    """
    head = 0
    for _ in ("schema", "batch"):
        if value[head : head + 4] != _MESSAGE_START:
            return None
        head += _LENGTHS + int.from_bytes(value[head + 4 : head + _LENGTHS], "little")
    form = _arrow_form(value[:head], len(value))
    if form is None or value[form[2] :] != _END:
        return None
    layout, places, _ = form
    return Views(
        layout, {name: np.frombuffer(value, kind, count, at) for name, kind, count, at in places}
    )


@lru_cache(maxsize=64)
def _arrow_form(
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
        found = view_numbers(read_stream(value))
    except (ValueError, KeyError, EOFError, pa.ArrowException, OSError):
        # KeyError: pyarrow knows no arrays of some types that Arrow has.
        return None
    whole, end = np.frombuffer(value, np.uint8).ctypes.data, len(value)
    places = tuple(
        (name, one.dtype, one.size, one.ctypes.data - whole) for name, one in found.columns.items()
    )
    inside = all(0 <= at <= end - count * kind.itemsize for _, kind, count, at in places)
    return (found.layout, places, end) if inside else None


_DIGEST = b"resprout.schema"
_MESSAGE = b"resprout.message"
_KINDS: dict[str, tuple[type[np.generic], ...]] = {
    "label": (np.uint8, np.float32),
    "weight": (np.float32,),
    "time_ms": (np.int64,),
    "numeric": (np.float32,),
    "categorical": (np.uint16, np.int32),
}
"""The columns of a batch of clicks: what each is made of comes last, what holds most of them in
fewer bytes before it."""
_TEXT_BYTES = 64
"""Messages are made as long as a multiple of this."""


class SchemaMismatchError(ValueError):
    """A columnar record was encoded with another feature schema."""


@dataclass(frozen=True, slots=True)
class TruthBatch:
    """The truth about a stretch of synthetic clicks; only the evaluator opens it."""

    begin: int
    """Events before this batch."""
    probability: NDArray[np.float64]
    """Shape (n,), the true chance of a click."""
    drift: tuple[DriftSpan, ...] = ()
    """Drifts that begin in this stretch."""

    @property
    def end(self) -> int:
        """Events through the end of this batch."""
        return self.begin + len(self.probability)


def to_bytes(batch: ClickBatch, schema_digest: str) -> bytes:
    """Write clicks, naming the schema that encoded them, in as few bytes as hold them exactly.

    Labels take a byte and buckets two where they fit; weights are left out where all are 1.

    >>> from stream.schema import NumericFeature
    >>> schema = FeatureSchema(numeric=(NumericFeature(name="price"),))
    >>> value = to_bytes(ClickBatch.empty(numeric=1, columns=0), schema.digest)
    >>> len(gather([opened(value, schema)], schema))
    0
    """
    columns = {name: _array(getattr(batch, name), name) for name in _KINDS}
    if (batch.weight == 1).all():
        del columns["weight"]
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    layout = pa.schema(fields, metadata={_DIGEST: schema_digest.encode()})
    return write_stream(list(columns.values()), layout)


def opened(value: bytes, schema: FeatureSchema, checked: pa.Schema | None = None) -> Views:
    """View clicks where they are.

    Raises :class:`SchemaMismatchError` for clicks of another schema and :class:`ValueError` for
    bytes that are no clicks. The rows themselves are not looked at. ``checked`` is the layout of
    other clicks of this schema: the same one is not checked again, which takes half of the time.
    """
    views = view_stream(value)
    if views is None:
        batch = read_stream(value)
        _check(batch.schema, schema)
        views = view_numbers(batch)
    elif views.layout is not checked:
        _check(views.layout, schema)
    if "weight" not in views.columns:
        views.columns["weight"] = np.ones(len(views.columns["label"]), np.float32)
    return views


def gather(clicks: Sequence[Views], schema: FeatureSchema) -> ClickBatch:
    """Copy the clicks of one or more :func:`opened` values out, in order.

    Many at once cost little more than one: what takes time is the way through Python.
    """
    label, weight, time_ms, numeric, categorical = (
        np.concatenate([one.columns[name] for one in clicks], dtype=kinds[-1])
        for name, kinds in _KINDS.items()
    )
    return ClickBatch(
        label,
        weight,
        time_ms,
        numeric.reshape(len(label), schema.numeric_count),
        categorical.reshape(len(label), schema.column_count),
    )


def predictions_to_bytes(batch: PredictionBatch) -> bytes:
    """Write one model's predictions for one batch."""
    message: dict[str, object] = {
        "model": batch.model,
        "version": batch.version,
        "begin": batch.begin,
        "spans": [[s.partition, *s.first, *s.last, s.events] for s in batch.spans],
        "trained_through": [[p, *place] for p, place in sorted(batch.trained_through.items())],
    }
    if batch.set_aside:
        message["set_aside"] = [[p, *place] for p, place in batch.set_aside]
    return _write_probability(batch.probability, message)


def predictions_from_bytes(value: bytes) -> PredictionBatch:
    """Read one model's predictions.

    >>> batch = PredictionBatch("dense", 0, 0, (), {0: Position(7, 1)}, np.array([0.25]))
    >>> predictions_from_bytes(predictions_to_bytes(batch))
    PredictionBatch(model='dense', version=0, begin=0, spans=(),
        trained_through={0: Position(offset=7, row=1)}, probability=array([0.25]), set_aside=())
    """
    probability, message = _read_probability(value)
    return PredictionBatch(
        model=message["model"],
        version=message["version"],
        begin=message["begin"],
        spans=tuple(
            PositionRange(partition, Position(o, r), Position(last_o, last_r), events)
            for partition, o, r, last_o, last_r, events in message["spans"]
        ),
        trained_through={p: Position(o, r) for p, o, r in message["trained_through"]},
        probability=probability,
        set_aside=tuple((p, Position(o, r)) for p, o, r in message.get("set_aside", ())),
    )


def truth_to_bytes(batch: TruthBatch) -> bytes:
    """Write the true probabilities of a stretch of clicks."""
    drift = [[span.drift, span.begin, span.end] for span in batch.drift]
    return _write_probability(batch.probability, {"begin": batch.begin, "drift": drift})


def truth_from_bytes(value: bytes) -> TruthBatch:
    """Read the truth back.

    >>> truth_from_bytes(truth_to_bytes(TruthBatch(500, np.array([0.5])))).end
    501
    """
    probability, message = _read_probability(value)
    drift = tuple(DriftSpan(drift=k, begin=b, end=e) for k, b, e in message["drift"])
    return TruthBatch(message["begin"], probability, drift)


def _check(layout: pa.Schema, schema: FeatureSchema) -> None:
    """Refuse columns that are not those of clicks, or that another schema encoded."""
    digest = (layout.metadata or {}).get(_DIGEST, b"").decode(errors="replace")
    if digest and digest != schema.digest:
        raise SchemaMismatchError(
            f"clicks were encoded with schema {digest}, this schema is {schema.digest}; "
            "use the schema file that wrote them"
        )
    # Of lists, neither the name of the items counts nor whether these may be empty.
    found = {
        field.name: pa.list_(field.type.value_type, field.type.list_size)
        if pa.types.is_fixed_size_list(field.type)
        else field.type
        for field in layout
    }
    faults = []
    for name, kinds in _column_types(schema.numeric_count, schema.column_count).items():
        kind = found.pop(name, None)
        if kind is None and name != "weight":
            faults.append(f"{name!r} is missing")
        elif kind is not None and kind not in kinds:
            faults.append(f"{name!r} is {kind}, not {' or '.join(map(str, kinds))}")
    faults += [f"{name!r} is unknown" for name in found]
    if faults:
        raise ValueError(
            f"not a batch of clicks: its columns are not those of the schema: {'; '.join(faults)}"
        )


@lru_cache(maxsize=64)
def _column_types(d: int, c: int) -> dict[str, tuple[pa.DataType, ...]]:
    """Say what the columns of ``d`` numeric features and ``c`` categorical columns may be."""
    widths, types = {"numeric": d, "categorical": c}, {}
    for name, kinds in _KINDS.items():
        flat = map(pa.from_numpy_dtype, kinds)
        types[name] = tuple(pa.list_(t, widths[name]) if name in widths else t for t in flat)
    return types


def _array(values: NDArray[Any], name: str) -> pa.Array:
    """Make the array of a column, of a smaller kind where that holds all; of a matrix its rows."""
    *smaller, kind = _KINDS[name]
    kept = np.ascontiguousarray(values, kind)
    for small in smaller:
        with np.errstate(invalid="ignore"):
            less = kept.astype(small)
        kept = less if np.array_equal(less, kept) else kept
    flat = pa.array(kept.reshape(-1))
    if kept.ndim == 1:
        return flat
    rows = pa.list_(flat.type, kept.shape[1])
    return pa.Array.from_buffers(rows, len(kept), [None], children=[flat])


def _write_probability(probability: NDArray[np.float64], message: dict[str, object]) -> bytes:
    text = to_json(message)
    text += b" " * (-len(text) % _TEXT_BYTES)
    before, between, after = _probability_form(len(probability), len(text))
    numbers = np.ascontiguousarray(probability, np.float64).tobytes()
    return b"".join((before, text, between, numbers, after))


@lru_cache(maxsize=64)
def _probability_form(rows: int, text_bytes: int) -> tuple[bytes, bytes, bytes]:
    """Let Arrow write probabilities and a message of a size; return what stands around both.

    A learner writes one of these after every batch it learns: only what differs is made anew.
    """
    text, numbers = b"\x1a" * text_bytes, np.full(rows, -np.pi)
    layout = pa.schema([pa.field("probability", pa.float64())], metadata={_MESSAGE: text})
    before, _, rest = write_stream([pa.array(numbers)], layout).partition(text)
    between, _, after = rest.partition(numbers.tobytes()) if rows else (rest, b"", b"")
    return before, between, after


def _read_probability(value: bytes) -> tuple[NDArray[np.float64], dict[str, Any]]:
    batch = read_stream(value)
    text = (batch.schema.metadata or {}).get(_MESSAGE)
    if text is None or batch.schema.names != ["probability"]:
        raise ValueError(f"not a batch of probabilities: columns {', '.join(batch.schema.names)}")
    return view_numbers(batch).columns["probability"].copy(), from_json(text)
