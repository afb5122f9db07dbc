"""The feature schema: which features there are, and how each becomes numbers."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from xxhash import xxh3_64_intdigest

PADDING = 0
"""Bucket of a column that a feature with several values leaves unused."""
MISSING = 1
"""Bucket of a feature without a value."""
RESERVED = 2
"""Buckets before the first that a value can fall into."""


def hash_value(feature: str, value: str) -> int:
    """Hash one value of one feature with XXH3-64, seed 0, of ``feature=value`` in UTF-8.

    The same on every machine and in every version, so that a model trained here can be served
    elsewhere.

    >>> hash_value("site", "17")
    15733946290809892074
    """
    return xxh3_64_intdigest(f"{feature}={value}".encode())


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NumericFeature(_Frozen):
    r"""A number, standardised as :math:`(f(x) - mean) / scale`; a missing one becomes 0.

    :math:`f` is ``log1p`` where asked for, else the identity.
    """

    name: str = Field(min_length=1)
    mean: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    log1p: bool = False
    """Take log(1 + x) first; a value of −1 or less is then not valid."""


class CategoricalFeature(_Frozen):
    """A feature whose values are names, hashed into buckets."""

    name: str = Field(min_length=1)
    buckets: int = Field(gt=RESERVED, lt=2**31)
    """All buckets, those for padding and missing included."""
    max_values: int = Field(default=1, gt=0)
    """Columns it takes; an event with more values is not valid."""

    def bucket(self, value: str) -> int:
        """Return the bucket of one value.

        >>> CategoricalFeature(name="site", buckets=10).bucket("17")
        4
        """
        return RESERVED + hash_value(self.name, value) % (self.buckets - RESERVED)


class Columns(_Frozen):
    """Where a file keeps what; a feature that is not named stands in the column of its name."""

    event_time: str = "event_time"
    time_format: Literal["iso", "seconds", "milliseconds"] = "iso"
    """Text, or a count since 1970-01-01 UTC."""
    label: str = "label"
    event_id: str | None = None
    """None: the number of the line is the id."""
    weight: str | None = None
    """None: every event weighs 1."""
    separator: str = Field(default="|", min_length=1)
    """What stands between the values of a feature with ``max_values`` above 1."""
    features: dict[str, str] = {}
    """Column of a feature, by feature."""

    def of(self, feature: str) -> str:
        """Return the column of a feature."""
        return self.features.get(feature, feature)


class FeatureSchema(_Frozen):
    """The features of a stream, in the order in which models see them.

    Examples
    --------
    >>> schema = FeatureSchema(
    ...     numeric=(NumericFeature(name="price"),),
    ...     categorical=(
    ...         CategoricalFeature(name="site", buckets=100),
    ...         CategoricalFeature(name="tags", buckets=50, max_values=3),
    ...     ),
    ... )
    >>> schema.numeric_count, schema.column_count, schema.columns_of("tags")
    (1, 4, slice(1, 4, None))
    """

    numeric: tuple[NumericFeature, ...] = ()
    categorical: tuple[CategoricalFeature, ...] = ()
    columns: Columns | None = None
    """How files are laid out. None: columns have the names of the fields and features, and a line
    of JSON is a whole :class:`~stream.batch.ClickEvent`; else a line of JSON is one flat object.
    """
    settings: dict[str, object] = {}
    """Settings that suit this data, kept as they are; the user's own go on top of them."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = self.names
        if not names:
            raise ValueError("a schema needs at least one feature under numeric or categorical")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"feature {twice[0]!r} is named twice; every name stands once")
        unknown = sorted(set(self.columns.features if self.columns else ()) - set(names))
        if unknown:
            known = ", ".join(names)
            raise ValueError(
                f"columns.features names no feature with {unknown[0]!r}; known: {known}"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """All features, numeric ones first."""
        numeric = tuple(feature.name for feature in self.numeric)
        return numeric + tuple(feature.name for feature in self.categorical)

    @property
    def numeric_count(self) -> int:
        """``d``: numeric features."""
        return len(self.numeric)

    @cached_property
    def column_count(self) -> int:
        """``c``: categorical columns, a feature of up to ``k`` values counting ``k`` times."""
        return sum(feature.max_values for feature in self.categorical)

    def columns_of(self, feature: str) -> slice:
        """Return the columns that one categorical feature takes."""
        start = 0
        for known in self.categorical:
            if known.name == feature:
                return slice(start, start + known.max_values)
            start += known.max_values
        names = ", ".join(f.name for f in self.categorical)
        raise ValueError(f"unknown categorical feature {feature!r}; known: {names}")

    @cached_property
    def column_buckets(self) -> NDArray[np.int32]:
        """Shape (c,), how many buckets each categorical column has."""
        buckets = [f.buckets for f in self.categorical for _ in range(f.max_values)]
        return np.array(buckets, dtype=np.int64).astype(np.int32)

    @cached_property
    def digest(self) -> str:
        """Name what decides the encoding, as 16 hex digits: features, their order, the hash."""
        features = self.model_dump(mode="json", include={"numeric", "categorical"})
        text = json.dumps({"hash": "xxh3_64", **features}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_schema(path: Path | str) -> FeatureSchema:
    """Read a schema from a TOML file.

    Raises :class:`FileNotFoundError` where there is none, and :class:`ValueError` naming the file
    and the key where it does not say a schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no schema file {path}; write one as in examples/clicks.toml")
    try:
        return FeatureSchema.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(_complaints(error))}") from error


_TABLES: dict[str, type[BaseModel]] = {
    "numeric": NumericFeature,
    "categorical": CategoricalFeature,
    "columns": Columns,
}


def _complaints(error: ValidationError) -> Iterable[str]:
    """Say each thing that is wrong, and for an unknown key which are known."""
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            owner = _TABLES[str(item["loc"][0])] if len(item["loc"]) > 1 else FeatureSchema
            yield f"unknown key {where}; known: {', '.join(owner.model_fields)}"
        else:
            yield f"{where}: {item['msg']}" if where else item["msg"]
