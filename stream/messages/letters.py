"""Events that did not validate."""

from __future__ import annotations

from typing import Literal

from stream.messages.message import Message


class DeadLetter(Message):
    """An event that did not validate, and why."""

    kind: Literal["dead_letter"] = "dead_letter"
    reason: str
    """One of a fixed set, such as ``label``, ``numeric``, ``unparsable``."""
    detail: str
    partition: int
    offset: int
    row: int
    file: str | None
    line: int | None
    raw: str
    """The bytes as they came, base64."""
    headers: tuple[tuple[str, str], ...] = ()
    """Of the record, in order: name, and value as base64."""

    @property
    def key(self) -> str:
        """The position."""
        return f"dead_letter/{self.partition}/{self.offset}/{self.row}"


class DeadLetters(Message):
    """How many events did not validate, told whenever a window closes behind some."""

    kind: Literal["dead_letters"] = "dead_letters"
    begin: int
    """Valid events when the window before closed."""
    count: int
    """Valid events now."""
    reasons: dict[str, int]
    """How many by reason, as of :class:`DeadLetter`."""

    @property
    def key(self) -> str:
        """Kind, begin and count."""
        return f"dead_letters/{self.begin}/{self.count}"
