"""Batches as bytes: Arrow IPC of clicks, of predictions and of the truth.

Each value is one Arrow stream of one record batch. Equal input gives equal bytes. Matrices travel
as fixed-size lists, which read about ten times faster than a column a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from stream import arrow
from stream.batch import ClickBatch
from stream.messages import DriftSpan, Place, PredictionBatch, Span
from stream.schema import FeatureSchema

_DIGEST = b"resprout.schema"
_MESSAGE = b"resprout.message"
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
    """Write clicks, naming the schema that encoded them.

    >>> from stream.schema import NumericFeature
    >>> schema = FeatureSchema(numeric=(NumericFeature(name="price"),))
    >>> value = to_bytes(ClickBatch.empty(numeric=1, columns=0), schema.digest)
    >>> len(from_bytes(value, schema))
    0
    """
    layout = _layout(batch.numeric.shape[1], batch.categorical.shape[1], schema_digest)
    columns = [
        pa.array(np.ascontiguousarray(batch.label, np.float32)),
        pa.array(np.ascontiguousarray(batch.weight, np.float32)),
        pa.array(np.ascontiguousarray(batch.time_ms, np.int64)),
        _lists(np.ascontiguousarray(batch.numeric, np.float32), layout.field("numeric").type),
        _lists(np.ascontiguousarray(batch.categorical, np.int32), layout.field("categorical").type),
    ]
    return arrow.write(columns, layout)


def from_bytes(value: bytes, schema: FeatureSchema) -> ClickBatch:
    """Read clicks; the arrays are the caller's own.

    Raises :class:`SchemaMismatchError` for clicks of another schema and :class:`ValueError` for
    bytes that are no clicks. The rows themselves are not looked at.
    """
    return gather([opened(value, schema)], schema)


def opened(value: bytes, schema: FeatureSchema) -> arrow.Views:
    """Check that bytes are clicks, as :func:`from_bytes` does, and view them where they are."""
    layout = _layout(schema.numeric_count, schema.column_count, schema.digest)
    views = arrow.views(value, layout)
    return _checked(value, schema, layout) if views is None else views


def gather(clicks: Sequence[arrow.Views], schema: FeatureSchema) -> ClickBatch:
    """Copy the clicks of one or more :func:`opened` values out, in order.

    Many at once cost little more than one: what takes time is the way through Python.
    """
    label, weight, time_ms, numeric, categorical = map(np.concatenate, zip(*clicks, strict=True))
    return ClickBatch(
        label=label,
        weight=weight,
        time_ms=time_ms,
        numeric=numeric.reshape(len(label), schema.numeric_count),
        categorical=categorical.reshape(len(label), schema.column_count),
    )


def predictions_to_bytes(batch: PredictionBatch) -> bytes:
    """Write one model's predictions for one batch."""
    message = {
        "model": batch.model,
        "version": batch.version,
        "begin": batch.begin,
        "spans": [[s.partition, *s.first, *s.last, s.events] for s in batch.spans],
        "trained_through": [[p, *place] for p, place in sorted(batch.trained_through.items())],
    }
    return _write_probability(batch.probability, message)


def predictions_from_bytes(value: bytes) -> PredictionBatch:
    """Read one model's predictions.

    >>> batch = PredictionBatch("dense", 0, 0, (), {0: Place(7, 1)}, np.array([0.25]))
    >>> predictions_from_bytes(predictions_to_bytes(batch))
    PredictionBatch(model='dense', version=0, begin=0, spans=(),
        trained_through={0: Place(offset=7, row=1)}, probability=array([0.25]))
    """
    probability, message = _read_probability(value)
    return PredictionBatch(
        model=message["model"],
        version=message["version"],
        begin=message["begin"],
        spans=tuple(
            Span(partition, Place(o, r), Place(last_o, last_r), events)
            for partition, o, r, last_o, last_r, events in message["spans"]
        ),
        trained_through={p: Place(o, r) for p, o, r in message["trained_through"]},
        probability=probability,
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


def _checked(value: bytes, schema: FeatureSchema, layout: pa.Schema) -> arrow.Views:
    """Let Arrow read clicks, and say what is wrong with them."""
    found = arrow.read(value)
    digest = (found.schema.metadata or {}).get(_DIGEST, b"").decode(errors="replace")
    if digest and digest != schema.digest:
        raise SchemaMismatchError(
            f"clicks were encoded with schema {digest}, this schema is {schema.digest}; "
            "use the schema file that wrote them"
        )
    if not found.schema.equals(layout):
        raise ValueError("not a batch of clicks: its columns are not those of the schema")
    return arrow.numbers(found)


@lru_cache(maxsize=64)
def _layout(d: int, c: int, digest: str) -> pa.Schema:
    """Lay out clicks of ``d`` numeric features and ``c`` categorical columns."""
    fields = [
        pa.field("label", pa.float32()),
        pa.field("weight", pa.float32()),
        pa.field("time_ms", pa.int64()),
        pa.field("numeric", pa.list_(pa.float32(), d)),
        pa.field("categorical", pa.list_(pa.int32(), c)),
    ]
    return pa.schema(fields, metadata={_DIGEST: digest.encode()})


def _lists(matrix: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """View a matrix as an array of fixed-size lists, without a copy."""
    flat = pa.array(matrix.reshape(-1))
    return pa.Array.from_buffers(kind, len(matrix), [None], children=[flat])


def _write_probability(probability: NDArray[np.float64], message: dict[str, object]) -> bytes:
    text = to_json(message)
    text += b" " * (-len(text) % _TEXT_BYTES)
    before, between, behind = _form(len(probability), len(text))
    numbers = np.ascontiguousarray(probability, np.float64).tobytes()
    return b"".join((before, text, between, numbers, behind))


@lru_cache(maxsize=64)
def _form(rows: int, text_bytes: int) -> tuple[bytes, bytes, bytes]:
    """Let Arrow write probabilities and a message of a size; return what stands around both.

    A learner writes one of these after every batch it learns: only what differs is made anew.
    """
    text, numbers = b"\x1a" * text_bytes, np.full(rows, -np.pi)
    layout = pa.schema([pa.field("probability", pa.float64())], metadata={_MESSAGE: text})
    before, _, rest = arrow.write([pa.array(numbers)], layout).partition(text)
    between, _, behind = rest.partition(numbers.tobytes()) if rows else (rest, b"", b"")
    return before, between, behind


def _read_probability(value: bytes) -> tuple[NDArray[np.float64], dict[str, Any]]:
    batch = arrow.read(value)
    text = (batch.schema.metadata or {}).get(_MESSAGE)
    if text is None or batch.schema.names != ["probability"]:
        raise ValueError(f"not a batch of probabilities: columns {', '.join(batch.schema.names)}")
    (probability,) = arrow.numbers(batch)
    return probability.copy(), from_json(text)
