from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.log import Record
from stream.log.frame import MAX_BYTES, decode, encode, end, holds_later, time_ms, wanted

some_records = st.builds(
    Record,
    st.binary(max_size=100),
    st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=3).map(tuple),
    st.integers(-(2**63), 2**63 - 1),
)


@given(record=some_records, offset=st.integers(0, 2**63 - 1), before=st.binary(max_size=20))
def test_a_record_comes_back_from_its_frame(record: Record, offset: int, before: bytes) -> None:
    buffer = before + encode(offset, record) + b"more"
    stop = end(buffer, len(before), offset)
    assert stop == len(buffer) - 4
    stored = decode(buffer, len(before), stop, partition=3)
    assert (stored.record, stored.offset, stored.next_offset) == (record, offset, offset + 1)
    assert stored.partition == 3
    assert time_ms(buffer, len(before)) == record.time_ms
    assert wanted(buffer[len(before) :]) == stop - len(before)


def test_a_frame_is_laid_out_as_documented() -> None:
    body = struct.pack("<qqH", 7, 1000, 1) + struct.pack("<HI", 4, 2) + b"kindraclick"
    expected = struct.pack("<4sII", b"\xf7rs\x01", len(body), zlib.crc32(body)) + body
    assert encode(7, Record(b"click", (("kind", b"ra"),), 1000)) == expected


def test_no_single_flipped_bit_goes_unnoticed() -> None:
    frame = encode(7, Record(b"click", (("kind", b"json"),), 1000))
    for bit in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        assert end(bytes(damaged), 0, 7) == 0


def test_a_length_beyond_belief_is_not_asked_for() -> None:
    assert wanted(struct.pack("<4sII", b"\xf7rs\x01", 2**32 - 1, 0)) == 0
    assert wanted(b"\xf7rs") == 0


def test_a_later_frame_is_found_wherever_it_stands() -> None:
    later = encode(9, Record(b"click"))
    assert holds_later(b"\xf7rs\x01 is no frame" + later, 7)
    assert not holds_later(b"\xf7rs\x01 is no frame" + later[:-1], 7)
    assert not holds_later(later, 9)


def test_a_record_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"record of 268435457 bytes; .* split it"):
        encode(0, Record(bytes(MAX_BYTES + 1)))
