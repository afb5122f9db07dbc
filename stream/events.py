"""The click event: one impression joined with its outcome, and what can be wrong with one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Reason(StrEnum):
    """Why an event is not valid; a fixed set, so that reasons can be counted."""

    UNPARSABLE = "unparsable"
    """The bytes are no event at all."""
    EVENT_ID = "event_id"
    TIME = "time"
    LABEL = "label"
    WEIGHT = "weight"
    NUMERIC = "numeric"
    """A numeric feature is no finite number, as given or once standardised."""
    CATEGORICAL = "categorical"
    """A categorical feature is no text, or a bucket is out of range."""
    TOO_MANY_VALUES = "too_many_values"
    UNKNOWN_FEATURE = "unknown_feature"
    """The event has a feature that the schema does not name."""
    UNKNOWN_FIELD = "unknown_field"
    SCHEMA = "schema"
    """A columnar record was encoded with another schema."""


class Fault(NamedTuple):
    """What is wrong with one event of several."""

    row: int
    """Index of the event among those that were looked at."""
    reason: Reason
    detail: str


def _aware(time: datetime) -> datetime:
    """Take a time without a zone as UTC."""
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


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
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True
    )

    event_id: str
    event_time: Annotated[datetime, AfterValidator(_aware)]
    """When the impression happened; a time without a zone is UTC, a number is a Unix time."""
    label: Literal[0, 1]
    """1 for a click."""
    weight: float = Field(default=1.0, gt=0)
    """1 / sampling rate, where negatives were down-sampled."""
    numeric: dict[str, float | None] = {}
    """By feature name; absent or None is missing."""
    categorical: dict[
        str, Annotated[str | list[str] | None, Field(union_mode="left_to_right")]
    ] = {}
    """By feature name; absent, None or an empty list is missing. Whole numbers become text."""

    @property
    def time_ms(self) -> int:
        """Event time, whole milliseconds since 1970-01-01 UTC."""
        return (self.event_time - EPOCH) // _MILLISECOND


_BY_FIELD = {
    "event_id": Reason.EVENT_ID,
    "event_time": Reason.TIME,
    "label": Reason.LABEL,
    "weight": Reason.WEIGHT,
    "numeric": Reason.NUMERIC,
    "categorical": Reason.CATEGORICAL,
}


def explain(error: ValidationError) -> tuple[Reason, str]:
    """Put the first thing that is wrong with an event into a reason and a sentence.

    >>> try:
    ...     ClickEvent.model_validate_json('{"event_id": "a", "event_time": 0, "label": 2}')
    ... except ValidationError as error:
    ...     explain(error)
    (<Reason.LABEL: 'label'>, 'label: Input should be 0 or 1')
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = first["loc"]
    if not where:
        return Reason.UNPARSABLE, first["msg"]
    reason = _BY_FIELD.get(str(where[0]), Reason.UNKNOWN_FIELD)
    return reason, f"{'.'.join(str(part) for part in where[:2])}: {first['msg']}"
