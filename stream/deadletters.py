"""Dead letters: events that did not validate, as messages."""

from __future__ import annotations

import base64
from typing import Final

from stream.codec import Invalid
from stream.messages import DeadLetter

_DETAIL: Final = 500
"""Characters of a detail at most: it may quote a name that the event itself brings."""


def dead_letter(invalid: Invalid) -> DeadLetter:
    """Turn an invalid event into the message that the ``deadletters`` log keeps.

    >>> from stream.events import Reason
    >>> letter = dead_letter(Invalid(0, 7, 2, Reason.LABEL, "label is not 0 or 1", b"2"))
    >>> letter.key, letter.reason, letter.raw
    ('dead_letter/0/7/2', 'label', 'Mg==')
    """
    return DeadLetter(
        reason=invalid.reason.value,
        detail=_short(invalid.detail),
        partition=invalid.partition,
        offset=invalid.offset,
        row=invalid.row,
        file=invalid.file,
        line=invalid.line,
        raw=_text(invalid.raw),
        headers=tuple((name, _text(value)) for name, value in invalid.headers),
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _short(detail: str) -> str:
    return detail if len(detail) <= _DETAIL else f"{detail[: _DETAIL - 1]}…"
