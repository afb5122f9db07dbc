from __future__ import annotations

import base64

from stream.codec import Invalid
from stream.deadletters import dead_letter
from stream.events import Reason
from stream.messages import DeadLetter, dump, parse


def test_a_dead_letter_keeps_reason_position_and_raw_bytes() -> None:
    raw = b"1,\xff,\x00"
    invalid = Invalid(0, 12, 3, Reason.UNPARSABLE, "3 cells", raw, file="clicks.csv", line=9)
    letter = parse(dump(dead_letter(invalid)))
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.detail) == ("unparsable", "3 cells")
    assert (letter.partition, letter.offset, letter.row) == (0, 12, 3)
    assert (letter.file, letter.line) == ("clicks.csv", 9)
    assert base64.b64decode(letter.raw) == raw
