"""The click event: one impression joined with its outcome; and many as arrays for learners."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from sys import getsizeof
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from stream.schema import MISSING, PADDING, CategoricalFeature, FeatureSchema, NumericFeature

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


class Reason(StrEnum):
    """Why an event is not valid; a fixed set, so that reasons can be counted."""

    UNPARSABLE = "unparsable"
    """The bytes are no event at all."""
    EVENT_ID = "event_id"
    TIME = "time"
    LABEL = "label"
    WEIGHT = "weight"
    NUMERIC = "numeric"
    """A numeric feature is no finite number, or beyond its limit once standardised."""
    CATEGORICAL = "categorical"
    """A categorical feature is no text, or a bucket is out of range."""
    TOO_MANY_VALUES = "too_many_values"
    UNKNOWN_FEATURE = "unknown_feature"
    """The event has a feature that the schema does not name."""
    UNKNOWN_FIELD = "unknown_field"
    SCHEMA = "schema"
    """A columnar record was encoded with another schema."""
    DUPLICATE = "duplicate"
    """An event of the same id stands shortly before it, where ``stream.deduplicate_events`` looks
    for that."""
    NOT_LEARNED = "not_learned"
    """The event is valid, and was predicted and scored; but what a model would have learned from it
    is not finite, so the model did without it."""


def printable(text: str) -> str:
    r"""Write text of somebody else so that it can be shown, and steers no terminal.

    What cannot be printed is escaped as in Python. A byte that is not UTF-8, which reading has made
    a surrogate, is ``\xff``.

    >>> print(printable("café"), printable(b"caf\xe9".decode("utf-8", "surrogateescape")))
    café caf\xe9
    >>> print(printable("a\tb\x07"))
    a\tb\x07
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


class Fault(NamedTuple):
    """What is wrong with one event of several."""

    row: int
    """Index of the event among those that were looked at."""
    reason: Reason
    detail: str


_TIME: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt _][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
_Text = Annotated[str, WithJsonSchema({"type": ["string", "number"]})]
_Time = Annotated[
    datetime,
    AfterValidator(lambda time: time if time.tzinfo is not None else time.replace(tzinfo=UTC)),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _TIME}, {"type": "number"}]}),
]


class ClickEvent(BaseModel):
    """One impression joined with its outcome.

    Examples
    --------
    >>> event = ClickEvent.model_validate_json(
    ...     '{"event_id": "a1", "event_time": "2024-05-01T12:00:00Z", "label": 1,'
    ...     ' "numeric": {"price": 9.5}, "categorical": {"site": 17, "tags": ["a", "b"]}}'
    ... )
    >>> event.label, event.weight, event.categorical
    (1, 1.0, {'site': '17', 'tags': ['a', 'b']})
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
    )

    event_id: _Text
    """Names the event; a number becomes text."""
    event_time: _Time
    """When the impression happened, ISO 8601; a time without a zone is UTC, a number is a Unix
    time in seconds, or in milliseconds from 2e10 on."""
    label: Literal[0, 1]
    """1 for a click."""
    weight: float = Field(default=1.0, gt=0)
    """1 / sampling rate, where negatives were down-sampled."""
    numeric: dict[str, float | None] = {}
    """By feature name; absent or null is missing."""
    categorical: dict[
        str, Annotated[_Text | list[_Text] | None, Field(union_mode="left_to_right")]
    ] = {}
    """By feature name; absent, null or an empty list is missing. A number becomes text."""

    @property
    def time_ms(self) -> int:
        """Event time, whole milliseconds since 1970-01-01 UTC."""
        return (self.event_time - EPOCH) // MILLISECOND


_BY_FIELD: Final = {
    name: Reason("time" if name == "event_time" else name) for name in ClickEvent.model_fields
}


def first_of(error: ValidationError) -> ErrorDetails:
    """Return the first thing that is wrong with an event."""
    return error.errors(include_url=False, include_context=False, include_input=False)[0]


def explain(error: ValidationError, first: ErrorDetails | None = None) -> tuple[Reason, str]:
    """Put the first thing that is wrong with an event into a reason and a sentence.

    >>> try:
    ...     ClickEvent.model_validate_json('{"event_id": "a", "event_time": 0, "label": 2}')
    ... except ValidationError as error:
    ...     explain(error)
    (<Reason.LABEL: 'label'>, 'label: Input should be 0 or 1')
    """
    first = first_of(error) if first is None else first
    where = first["loc"]
    if not where:
        return Reason.UNPARSABLE, first["msg"]
    reason = _BY_FIELD.get(str(where[0]), Reason.UNKNOWN_FIELD)
    return reason, f"{'.'.join(str(part) for part in where[:2])}: {first['msg']}"


_EXAMPLE: Final[dict[str, Any]] = {
    "event_id": "a1",
    "event_time": "2024-05-01T12:00:00Z",
    "label": 1,
    "weight": 2.5,
    "numeric": {"price": 9.5},
    "categorical": {"site": "17", "tags": ["a", "b"]},
}


def json_schema(schema: FeatureSchema | None = None) -> dict[str, Any]:
    """Return the JSON Schema of one event; with a feature schema, it knows the features' names.

    It is what producers should keep to. What it cannot say, and where an event that it refuses is
    taken nevertheless, stands in ``docs/events.md``.

    Examples
    --------
    >>> from stream.schema import NumericFeature
    >>> found = json_schema(FeatureSchema(numeric=(NumericFeature(name="price"),)))
    >>> found["required"], list(found["properties"]["numeric"]["properties"])
    (['event_id', 'event_time', 'label'], ['price'])
    """
    event = ClickEvent.model_json_schema()
    fields: dict[str, dict[str, Any]] = event["properties"]
    for field in fields.values():
        del field["title"]
        field["description"] = " ".join(field["description"].split())
    example = _EXAMPLE
    if schema is not None:
        number, null = {"type": "number"}, {"type": "null"}
        numeric = {
            one.name: {"anyOf": [{**number, "exclusiveMinimum": -1} if one.log1p else number, null]}
            for one in schema.numeric
        }
        kinds = fields["categorical"]["additionalProperties"]["anyOf"]
        categorical = {
            one.name: {
                "anyOf": [
                    kind | {"maxItems": one.max_values} if kind["type"] == "array" else kind
                    for kind in kinds
                ]
            }
            for one in schema.categorical
        }
        fields["numeric"] |= {"properties": numeric, "additionalProperties": False}
        fields["categorical"] |= {"properties": categorical, "additionalProperties": False}
        example = _EXAMPLE | {
            "numeric": {one.name: 9.5 for one in schema.numeric},
            "categorical": {
                one.name: "17" if one.max_values == 1 else ["a", "b"] for one in schema.categorical
            },
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Click event",
        "description": "One impression joined with its outcome: a record of the topic `clicks`.",
        "type": "object",
        "properties": fields,
        "required": event["required"],
        "additionalProperties": event["additionalProperties"],
        "examples": [example],
    }


@dataclass(frozen=True, slots=True)
class ClickBatch:
    """Events as columns, encoded by a feature schema.

    ``n`` events, ``d`` numeric features, ``c`` categorical columns (a feature with up to ``k``
    values takes ``k`` columns, padded with bucket 0).

    Examples
    --------
    >>> batch = ClickBatch.empty(numeric=2, columns=3)
    >>> len(batch), batch.numeric.shape, batch.categorical.shape
    (0, (0, 2), (0, 3))
    """

    label: NDArray[np.float32]
    """Shape (n,), 0 or 1."""
    weight: NDArray[np.float32]
    """Shape (n,), positive; 1 / sampling rate of down-sampled negatives."""
    time_ms: NDArray[np.int64]
    """Shape (n,), event time in milliseconds since 1970-01-01 UTC."""
    numeric: NDArray[np.float32]
    """Shape (n, d), standardised by the schema."""
    categorical: NDArray[np.int32]
    """Shape (n, c), bucket of each column, counted inside its own feature."""

    def __post_init__(self) -> None:
        n = len(self.label)
        for name in ("weight", "time_ms", "numeric", "categorical"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, label has {n}")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All columns, in their order."""
        return self.label, self.weight, self.time_ms, self.numeric, self.categorical

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> ClickBatch:
        """Take some rows, as a view where numpy can."""
        return ClickBatch(*[array[rows] for array in self.arrays])

    @classmethod
    def empty(cls, numeric: int, columns: int) -> ClickBatch:
        """Make a batch of no events."""
        return cls(
            np.empty(0, np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.int64),
            np.empty((0, numeric), np.float32),
            np.empty((0, columns), np.int32),
        )

    @classmethod
    def concat(cls, parts: Sequence[ClickBatch]) -> ClickBatch:
        """Join batches of one schema, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*map(np.concatenate, zip(*(part.arrays for part in parts), strict=True)))


MAX_WEIGHT: Final = 1e9
"""The largest weight of a valid event."""
_CACHE_BYTES: Final = 16 * 1024 * 1024
"""What the values of a feature take at most whose buckets are kept at hand: some 100,000 words."""
_ENTRY_BYTES: Final = 100
"""What a value takes there beside itself."""


def encode(events: Sequence[ClickEvent], schema: FeatureSchema) -> ClickBatch:
    """Encode events that all fit the schema.

    Raises :class:`ValueError` naming the first that does not; :func:`encode_valid` continues.

    Examples
    --------
    >>> schema = FeatureSchema(
    ...     numeric=(NumericFeature(name="price", mean=5.0, scale=2.0),),
    ...     categorical=(CategoricalFeature(name="tags", buckets=10, max_values=3),),
    ... )
    >>> event = ClickEvent(
    ...     event_id="a",
    ...     event_time="2024-05-01",
    ...     label=1,
    ...     numeric={"price": 9.0},
    ...     categorical={"tags": ["new", "red"]},
    ... )
    >>> batch = encode([event], schema)
    >>> batch.numeric.tolist(), batch.categorical.tolist()
    ([[2.0]], [[2, 7, 0]])
    """
    batch, faults = encode_valid(events, schema)
    if faults:
        row, reason, detail = faults[0]
        raise ValueError(f"event {events[row].event_id!r} is not valid: {reason}: {detail}")
    return batch


def encode_valid(
    events: Sequence[ClickEvent], schema: FeatureSchema
) -> tuple[ClickBatch, list[Fault]]:
    """Encode the events that fit the schema, in order, and say which others do not, and why."""
    faults = list(_bad_features(events, schema))
    skipped = {fault.row for fault in faults}
    rows = [row for row in range(len(events)) if row not in skipped]
    kept = [events[row] for row in rows] if skipped else events
    try:
        batch = _columns(kept, schema)
    except UnicodeEncodeError:
        faults += _not_utf8(kept, rows)
        skipped = {fault.row for fault in faults}
        rows = [row for row in rows if row not in skipped]
        kept = [events[row] for row in rows]
        batch = _columns(kept, schema)
    bad = list(_bad_numbers(batch, kept, schema))
    if bad:
        faults += [Fault(rows[row], reason, detail) for row, reason, detail in bad]
        is_valid = np.ones(len(batch), np.bool_)
        is_valid[[fault.row for fault in bad]] = False
        batch = batch[is_valid]
    return batch, sorted(faults)


def _bad_features(events: Sequence[ClickEvent], schema: FeatureSchema) -> Iterator[Fault]:
    """Find events with features that the schema does not know, or with too many values."""
    numeric = frozenset(feature.name for feature in schema.numeric)
    most = {feature.name: feature.max_values for feature in schema.categorical}
    for row, event in enumerate(events):
        if not (event.numeric.keys() <= numeric and event.categorical.keys() <= most.keys()):
            names = (event.numeric.keys() - numeric) | (event.categorical.keys() - most.keys())
            yield Fault(row, Reason.UNKNOWN_FEATURE, f"the schema has no {sorted(names)[0]!r}")
            continue
        if list not in map(type, event.categorical.values()):
            continue
        for name, value in event.categorical.items():
            if isinstance(value, list) and len(value) > most[name]:
                detail = f"{name} has {len(value)} values, max_values is {most[name]}"
                yield Fault(row, Reason.TOO_MANY_VALUES, detail)
                break


def _not_utf8(events: Sequence[ClickEvent], rows: Sequence[int]) -> Iterator[Fault]:
    """Find events with values that cannot be hashed, since they are no text in UTF-8."""
    for row, event in zip(rows, events, strict=True):
        for name, value in event.categorical.items():
            text = "".join(value) if isinstance(value, list) else value or ""
            try:
                text.encode()
            except UnicodeEncodeError as error:
                wrong = printable(text[error.start : error.end])
                detail = (
                    f"{name} is no text in UTF-8: it has {wrong} at character {error.start + 1}"
                )
                yield Fault(row, Reason.CATEGORICAL, f"{detail}; write the input in UTF-8")
                break


def _columns(events: Sequence[ClickEvent], schema: FeatureSchema) -> ClickBatch:
    numeric = np.empty((len(events), schema.numeric_count), np.float32)
    for column, feature in enumerate(schema.numeric):
        values = [event.numeric.get(feature.name) for event in events]
        numeric[:, column] = standardise(np.array(values, np.float64), feature)
    categorical = np.empty((len(events), schema.column_count), np.int32)
    for known in schema.categorical:
        names = [event.categorical.get(known.name) for event in events]
        categorical[:, schema.columns_of(known.name)] = _buckets(names, known)
    with np.errstate(over="ignore", under="ignore"):
        weight = np.array([event.weight for event in events], np.float64).astype(np.float32)
    return ClickBatch(
        label=np.array([event.label for event in events], np.float32),
        weight=weight,
        time_ms=np.array([event.time_ms for event in events], np.int64),
        numeric=numeric,
        categorical=categorical,
    )


def log1p(values: NDArray[np.float64], form: Literal[True, "signed"]) -> NDArray[np.float64]:
    """Take log(1 + x), or in the signed form sign(x) log(1 + abs(x))."""
    signed = form == "signed"
    return np.sign(values) * np.log1p(np.abs(values)) if signed else np.log1p(values)


def standardise(values: NDArray[np.float64], feature: NumericFeature) -> NDArray[np.float32]:
    """Standardise one numeric feature; NaN stands for a missing value and becomes 0.

    A value outside the domain, or too large for float32, comes back as NaN or infinity.

    >>> standardise(np.array([9.0, np.nan]), NumericFeature(name="x", mean=5.0, scale=2.0))
    array([2., 0.], dtype=float32)
    """
    with np.errstate(all="ignore"):
        changed = log1p(values, feature.log1p) if feature.log1p else values
        scaled = ((changed - feature.mean) / feature.scale).astype(np.float32)
    scaled[np.isnan(values)] = 0.0
    return scaled


def _bad_numbers(
    batch: ClickBatch, events: Sequence[ClickEvent], schema: FeatureSchema
) -> Iterator[Fault]:
    """Find weights and numeric features that are out of range once encoded."""
    fits, heavy = fitting(batch, schema)
    wrong = np.flatnonzero(~(fits.all(axis=1) & heavy))
    if not len(wrong):
        return
    first = fits[wrong].argmin(axis=1) if schema.numeric else np.zeros(len(wrong), np.int64)
    found = wrong.tolist(), first.tolist(), heavy[wrong].tolist(), batch.numeric[wrong].tolist()
    for row, at, is_weight_right, numbers in zip(*found, strict=True):
        if not is_weight_right:
            yield Fault(row, Reason.WEIGHT, describe_weight(events[row].weight))
        else:
            given = events[row].numeric[schema.numeric[at].name]
            detail = describe_number(schema.numeric[at], numbers[at], given)
            yield Fault(row, Reason.NUMERIC, detail)


def fitting(
    batch: ClickBatch, schema: FeatureSchema
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which numeric features, shape (n, d), and which weights, shape (n,), are in range.

    What is not a number is not.
    """
    weight = batch.weight
    return np.abs(batch.numeric) <= schema.limits, (weight > 0) & (weight <= MAX_WEIGHT)


def describe_weight(weight: float) -> str:
    """Say what is wrong with a weight."""
    return f"weight is {weight:g}, not a float32 above 0 and at most {MAX_WEIGHT:g}"


def describe_number(
    feature: NumericFeature, standardised: float, given: float | None = None
) -> str:
    """Say what is wrong with a numeric feature, and the way out.

    >>> describe_number(NumericFeature(name="price", scale=2.0), 1.5e38, 3e38)
    'price is 3e+38, 1.5e+38 once standardised; the largest size that the schema takes is 1e+06'
    """
    if math.isfinite(standardised):
        value = "" if given is None else f"{given:g}, "
        return (
            f"{feature.name} is {value}{standardised:g} once standardised; the largest size that "
            f"the schema takes is {feature.limit:g}"
        )
    said = f"{feature.name} is not finite once standardised"
    if given is None:
        return f"{said}: {standardised:g}"
    if feature.log1p is True and given <= -1:
        way_out = 'and log1p takes numbers above -1 (log1p = "signed" takes any)'
    else:
        way_out = "too large for float32 (its mean, scale or log1p in the schema brings it down)"
    return f"{said}: it is {given:g}, {way_out}"


class _Buckets(dict[str | None, int]):
    """The buckets of the values of a feature, looked up once and kept while there is room."""

    def __init__(self, feature: CategoricalFeature) -> None:
        super().__init__({None: MISSING})
        self._feature, self._bytes = feature, 0

    def __missing__(self, value: str) -> int:
        bucket, size = self._feature.bucket(value), getsizeof(value) + _ENTRY_BYTES
        if self._bytes + size > _CACHE_BYTES:
            # All of them at once: what is needed again is soon there again.
            self.clear()
            self[None], self._bytes = MISSING, 0
        if size <= _CACHE_BYTES:
            self[value] = bucket
            self._bytes += size
        return bucket


@lru_cache(maxsize=1024)
def hashing(feature: CategoricalFeature) -> Callable[[str | None], int]:
    """Return what finds the bucket of a value, and has those of many at hand."""
    return _Buckets(feature).__getitem__


def _buckets(
    values: Sequence[str | list[str] | None], feature: CategoricalFeature
) -> NDArray[np.int32]:
    """Hash one feature of many events into shape (n, max_values)."""
    bucket, width = hashing(feature), feature.max_values
    if width == 1:
        alone = [(one[0] if one else None) if isinstance(one, list) else one for one in values]
        return np.array([*map(bucket, alone)], np.int32).reshape(len(values), 1)
    rows = []
    for value in values:
        several = value if isinstance(value, list) else [value]
        found = [*map(bucket, several)] or [MISSING]
        rows.append(found + [PADDING] * (width - len(found)))
    return np.array(rows, np.int32).reshape(len(values), width)
