"""Messages as bytes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from stream.messages.decisions import Decision, Verdict
from stream.messages.drift import Alarm, Stability
from stream.messages.letters import DeadLetter, DeadLetters
from stream.messages.message import Message
from stream.messages.progress import Progress
from stream.messages.scores import Judgement, Lifetime, Window

AnyMessage = (
    Window
    | Lifetime
    | Alarm
    | Stability
    | Judgement
    | Decision
    | Verdict
    | DeadLetter
    | DeadLetters
    | Progress
)
_ADAPTER: TypeAdapter[AnyMessage] = TypeAdapter(Annotated[AnyMessage, Field(discriminator="kind")])


def dump(message: Message) -> bytes:
    """Write a message as JSON bytes; equal messages give equal bytes."""
    return message.model_dump_json().encode()


def parse(value: bytes) -> AnyMessage:
    """Read any message back.

    >>> parse(dump(Decision(count=500, why_not="maturing"))).key
    'decision/500'
    """
    return _ADAPTER.validate_json(value)
