"""Dead letters: events that did not validate, as messages."""

from __future__ import annotations

import base64

from stream.codec import Invalid
from stream.messages import DeadLetter


def dead_letter(invalid: Invalid) -> DeadLetter:
    """Turn an invalid event into the message that the ``deadletters`` log keeps.

    >>> from stream.events import Reason
    >>> letter = dead_letter(Invalid(0, 7, 2, Reason.LABEL, "label is not 0 or 1", b"2"))
    >>> letter.key, letter.reason, letter.raw
    ('dead_letter/0/7/2', 'label', 'Mg==')
    """
    return DeadLetter(
        reason=invalid.reason.value,
        detail=invalid.detail,
        partition=invalid.partition,
        offset=invalid.offset,
        row=invalid.row,
        file=invalid.file,
        line=invalid.line,
        raw=base64.b64encode(invalid.raw).decode(),
    )
