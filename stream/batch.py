"""The columnar batch that learners work on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.events import ClickEvent, Fault, Reason
from stream.schema import MISSING, PADDING, CategoricalFeature, FeatureSchema, NumericFeature


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


_REMEMBERED: Final = 200_000
"""Values of a feature whose buckets are kept at hand."""


def encode(events: Sequence[ClickEvent], schema: FeatureSchema) -> ClickBatch:
    """Encode events that all fit the schema.

    Raises :class:`ValueError` naming the first that does not; :func:`encode_valid` goes on.

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
    batch = _columns([events[row] for row in rows] if skipped else events, schema)
    bad = list(_bad_numbers(batch, schema))
    if bad:
        faults += [Fault(rows[row], reason, detail) for row, reason, detail in bad]
        batch = batch[~np.isin(np.arange(len(batch)), [fault.row for fault in bad])]
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


def standardise(values: NDArray[np.float64], feature: NumericFeature) -> NDArray[np.float32]:
    """Standardise one numeric feature; NaN stands for a missing value and becomes 0.

    A value outside the domain, or too large for float32, comes back as NaN or infinity.

    >>> standardise(np.array([9.0, np.nan]), NumericFeature(name="x", mean=5.0, scale=2.0))
    array([2., 0.], dtype=float32)
    """
    missing = np.isnan(values)
    with np.errstate(all="ignore"):
        if feature.log1p:
            values = np.log1p(values)
        scaled = ((values - feature.mean) / feature.scale).astype(np.float32)
    scaled[missing] = 0.0
    return scaled


def _bad_numbers(batch: ClickBatch, schema: FeatureSchema) -> Iterator[Fault]:
    """Find weights and numeric features that are no finite numbers once encoded."""
    finite = np.isfinite(batch.numeric)
    heavy = np.isfinite(batch.weight) & (batch.weight > 0)
    for row in np.flatnonzero(~(finite.all(axis=1) & heavy)).tolist():
        if not heavy[row]:
            yield Fault(row, Reason.WEIGHT, "weight is out of the range of float32")
        else:
            name = schema.numeric[int(np.argmin(finite[row]))].name
            yield Fault(row, Reason.NUMERIC, f"{name} is not finite once standardised")


@lru_cache(maxsize=1024)
def _hashing(feature: CategoricalFeature) -> Callable[[str | None], int]:
    """Return what finds the bucket of a value, and has those of many at hand."""
    return lru_cache(_REMEMBERED)(lambda one: MISSING if one is None else feature.bucket(one))


def _buckets(
    values: Sequence[str | list[str] | None], feature: CategoricalFeature
) -> NDArray[np.int32]:
    """Hash one feature of many events into shape (n, max_values)."""
    bucket, width = _hashing(feature), feature.max_values
    if width == 1:
        alone = [(one[0] if one else None) if isinstance(one, list) else one for one in values]
        return np.array([*map(bucket, alone)], np.int32).reshape(len(values), 1)
    rows = []
    for value in values:
        several = value if isinstance(value, list) else [value]
        found = [*map(bucket, several)] or [MISSING]
        rows.append(found + [PADDING] * (width - len(found)))
    return np.array(rows, np.int32).reshape(len(values), width)
