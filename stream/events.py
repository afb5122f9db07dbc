"""The click event: one impression joined with its outcome, and what can be wrong with one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from stream.schema import FeatureSchema

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
    fields: dict[str, dict[str, Any]] = {
        name: {**field, "description": " ".join(field["description"].split())}
        for name, field in event["properties"].items()
    }
    for field in fields.values():
        del field["title"]
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
