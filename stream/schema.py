"""The feature schema: which features there are, and how each becomes numbers."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
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


_RANGE: Final = re.compile(r"(.*?)([0-9]+)\.\.(.*?)([0-9]+)")


def expand_range(name: str) -> tuple[str, ...]:
    """Return the names that a range stands for; a name that is no range stands for itself.

    Numbers keep the zeros of the first one.

    Raises :class:`ValueError` for a range that ends before it begins.

    >>> expand_range("I1..I3"), expand_range("c08..c10"), expand_range("price")
    (('I1', 'I2', 'I3'), ('c08', 'c09', 'c10'), ('price',))
    """
    found = _RANGE.fullmatch(name)
    if found is None or found[1] != found[3]:
        return (name,)
    first, last = int(found[2]), int(found[4])
    if last < first:
        raise ValueError(
            f"the range {name!r} ends before it begins; write the smaller number first"
        )
    return tuple(f"{found[1]}{number:0{len(found[2])}d}" for number in range(first, last + 1))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NumericFeature(_Frozen):
    r"""A number, standardised as :math:`(f(x) - mean) / scale`; a missing one becomes 0.

    :math:`f` is ``log1p`` where asked for, else the identity; of the signed form it is
    :math:`\mathrm{sign}(x) \log(1 + |x|)`.
    """

    name: str = Field(min_length=1)
    mean: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    log1p: bool | Literal["signed"] = False
    """Take log(1 + x) first; a value of −1 or less is then not valid, except in the signed form."""
    limit: float = Field(default=1e6, gt=0, le=1e30)
    """The largest size of a valid value once it is standardised. Adagrad never forgets a gradient:
    one value far beyond all others would end what the model learns from this feature."""


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


UNITS: Final = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
"""Microseconds of each unit in which times may be counted."""


class Columns(_Frozen):
    """How a file is laid out; a feature that is not named stands in the column of its name."""

    event_time: str = "event_time"
    time_format: str = "iso"
    """``iso`` is text; ``seconds``, ``milliseconds`` or ``microseconds`` is a count since
    1970-01-01 UTC; with ``%`` it is a format of :meth:`datetime.datetime.strptime`, in UTC where it
    names no zone; ``none``: there is no such column, the events are in the order of the file, and
    the time is the number of the row in milliseconds."""
    label: str = "label"
    labels: dict[str, Literal[0, 1]] = {}
    """What the words of the label mean, such as ``{"-1" = 0, "1" = 1}``; any other word is then
    not valid. Empty: 0 and 1."""
    event_id: str | None = None
    """None: the number of the line is the id."""
    weight: str | None = None
    """None: every event weighs 1."""
    missing: tuple[str, ...] = ()
    """Words that stand for a missing value, such as ``NA``; an empty cell always does."""
    names: tuple[str, ...] = ()
    """The columns by position, of a file without a header; ``I1..I13`` names thirteen, and an empty
    name is a column that is not read. Empty: the first line names them."""
    delimiter: str | None = None
    """What stands between cells, one character; None: as the suffix says, a comma in ``.csv``, else
    a tab."""
    quote: str = '"'
    """What stands around a cell that holds delimiters; empty: nothing does."""
    separator: str = Field(default="|", min_length=1)
    """What stands between the values of a feature with ``max_values`` above 1."""
    features: dict[str, str] = {}
    """Column of a feature, by feature."""

    @field_validator("names")
    @classmethod
    def _expand(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        expanded = [one for name in names for one in expand_range(name)]
        twice = sorted({name for name in expanded if name and expanded.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is named twice; every column has a name of its own")
        return tuple(expanded)

    @field_validator("delimiter", "quote")
    @classmethod
    def _is_a_character(cls, given: str | None) -> str | None:
        if given and (len(given) > 1 or given in "\r\n"):
            raise ValueError(f"{given!r} must be one character, and no line break")
        return given

    @model_validator(mode="after")
    def _cells_can_be_told_apart(self) -> Self:
        if self.delimiter in ("", self.quote):
            raise ValueError(
                f"delimiter {self.delimiter!r} must be one character, and not that of quote"
            )
        return self

    @field_validator("time_format")
    @classmethod
    def _is_a_format(cls, given: str) -> str:
        if given in ("iso", "none", *UNITS):
            return given
        known = f"known: iso, {', '.join(UNITS)}, none, or a format such as %Y-%m-%d %H:%M:%S"
        if "%" not in given:
            raise ValueError(f"unknown time format {given!r}; {known}")
        moment = datetime(2024, 5, 17, 12, tzinfo=UTC)
        try:
            again = datetime.strptime(moment.strftime(given), given)  # noqa: DTZ007
        except ValueError as error:
            raise ValueError(f"time format {given!r}: {error}; {known}") from error
        if again.date() != moment.date():
            raise ValueError(f"time format {given!r} does not name year, month and day; {known}")
        return given

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

    @field_validator("numeric", "categorical", mode="before")
    @classmethod
    def _expand(cls, given: object) -> object:
        return list(_expanded(given)) if isinstance(given, list | tuple) else given

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
    def limits(self) -> NDArray[np.float32]:
        """Shape (d,), the largest size of each numeric feature once it is standardised."""
        return np.array([feature.limit for feature in self.numeric], np.float32)

    @cached_property
    def digest(self) -> str:
        """Name what decides the encoding, as 16 hex digits: features, their order, the hash.

        The limits of numeric features are not among it: they say which events are valid.
        """
        kept = {"numeric": {"__all__": {"limit"}}}
        features = self.model_dump(mode="json", include={"numeric", "categorical"}, exclude=kept)
        text = json.dumps({"hash": "xxh3_64", **features}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _expanded(given: Sequence[Any]) -> Iterator[Any]:
    """Put a feature for each name in the place of one whose name is a range."""
    for one in given:
        name = one.get("name") if isinstance(one, Mapping) else getattr(one, "name", None)
        names = expand_range(name) if isinstance(name, str) else ()
        if len(names) < 2:  # noqa: PLR2004
            yield one
        elif isinstance(one, Mapping):
            yield from ({**one, "name": each} for each in names)
        else:
            yield from (one.model_copy(update={"name": each}) for each in names)


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
