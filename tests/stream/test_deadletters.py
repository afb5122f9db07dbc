from __future__ import annotations

import base64
import hashlib
import json

import pytest

from stream.batch import Reason
from stream.codec import Invalid, dead_letter, decode
from stream.log import Record, StoredRecord
from stream.messages import DeadLetter, dump, parse
from tests.stream import clicklog
from tests.stream.clicklog import SCHEMA


def test_a_dead_letter_keeps_reason_position_and_raw_bytes() -> None:
    raw = b"1,\xff,\x00"
    invalid = Invalid(0, 12, 3, Reason.UNPARSABLE, "3 cells", raw, file="clicks.csv", line=9)
    letter = parse(dump(dead_letter(invalid)))
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.detail) == ("unparsable", "3 cells")
    assert (letter.partition, letter.offset, letter.row) == (0, 12, 3)
    assert (letter.file, letter.line) == ("clicks.csv", 9)
    assert base64.b64decode(letter.raw) == raw


def test_a_dead_letter_keeps_the_headers_in_order() -> None:
    headers = (("trace", b"a"), ("trace", b"\xff\x00"), ("kind", b"xml"))
    stored = StoredRecord(1, 12, 13, Record(b"<click/>", headers))
    letter = parse(dump(dead_letter(decode([stored], SCHEMA).invalid[0])))
    assert isinstance(letter, DeadLetter)
    assert [(name, base64.b64decode(value)) for name, value in letter.headers] == list(headers)
    assert base64.b64decode(letter.raw) == b"<click/>"


def test_a_bad_row_of_a_columnar_record_brings_the_headers_of_its_record() -> None:
    bad = clicklog.columnar(0, 3, bad=[1])
    record = Record(bad.value, (*bad.headers, ("from", b"site-7")))
    invalid = decode([StoredRecord(0, 4, 5, record)], SCHEMA).invalid[0]
    assert (invalid.row, invalid.headers) == (1, (("kind", b"columnar"), ("from", b"site-7")))


def test_a_dead_letter_from_before_headers_were_kept_can_be_read() -> None:
    letter = dead_letter(Invalid(0, 12, 3, Reason.LABEL, "label is 2", b"2"))
    old = json.loads(dump(letter))
    del old["headers"]
    assert parse(json.dumps(old).encode()) == letter


def test_a_detail_that_quotes_a_huge_name_is_cut() -> None:
    name = "x" * 1_000_000
    value = f'{{"event_id": "a", "event_time": 0, "label": 1, "numeric": {{"{name}": 1}}}}'
    stored = StoredRecord(0, 0, 1, Record(value.encode()))
    letter = dead_letter(decode([stored], SCHEMA).invalid[0])
    assert letter.reason == "unknown_feature"
    assert letter.detail.startswith("the schema has no 'xxx")
    assert (len(letter.detail), letter.detail[-1]) == (500, "…")
    assert base64.b64decode(letter.raw) == value.encode()


@pytest.mark.parametrize("most", [1_000, 1_024, 40_000, 200_000])
def test_a_letter_that_is_too_large_is_kept_in_part_with_length_and_hash(most: int) -> None:
    raw = bytes(range(256)) * 1_000
    letter = dead_letter(Invalid(0, 12, 3, Reason.LABEL, "label is 2", raw), most)
    kept = base64.b64decode(letter.raw)
    assert most - 4 <= len(dump(letter)) <= most
    assert kept == raw[: len(kept)]
    assert (letter.raw_bytes, letter.raw_sha256) == (256_000, hashlib.sha256(raw).hexdigest())
    assert parse(dump(letter)) == letter


def test_a_letter_that_just_fits_is_kept_whole() -> None:
    invalid = Invalid(0, 12, 3, Reason.LABEL, "label is 2", b"x" * 3_000)
    whole = dead_letter(invalid)
    assert dead_letter(invalid, len(dump(whole))) == whole
    assert (whole.raw_bytes, whole.raw_sha256) == (None, None)
    assert dead_letter(invalid, len(dump(whole)) - 1).raw_bytes == 3_000


def test_headers_that_are_too_large_are_left_out_before_the_event() -> None:
    headers = (("trace", b"y" * 5_000),)
    letter = dead_letter(Invalid(0, 1, 0, Reason.LABEL, "", b"2", headers=headers), 2_000)
    assert (letter.headers, base64.b64decode(letter.raw), letter.raw_bytes) == ((), b"2", 1)
