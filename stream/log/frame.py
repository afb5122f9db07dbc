"""How a record stands in a segment file: one frame after another, each with its checksum.

::

    magic   4 bytes         where to look for the next frame behind a damaged one
    length  u32             bytes of the body
    crc32   u32             of the body
    body    offset i64, time_ms i64, number of headers u16,
            for each header: bytes of name u16, bytes of value u32, name (UTF-8), value;
            the rest is the record's value

All numbers are little-endian.
"""

from __future__ import annotations

import struct
from zlib import crc32

from stream.log import Headers, Record, StoredRecord

MAGIC = b"\xf7rs\x01"
MAX_BYTES = 256 * 1024 * 1024
"""The largest value of a record, and the largest length that a reader believes."""
HEAD_BYTES = 12

_HEAD = struct.Struct("<4sII")
_BODY = struct.Struct("<qqH")
_HEADER = struct.Struct("<HI")
_PLACE = struct.Struct("<4sIIqq")
_MAX_BODY = 2 * MAX_BYTES
_BODY_AT = HEAD_BYTES + _BODY.size


def encode(offset: int, record: Record) -> bytes:
    """Write a record as a frame.

    >>> len(encode(0, Record(b"click"))), len(encode(0, Record(b"click", (("kind", b"json"),))))
    (35, 49)
    """
    if len(record.value) > MAX_BYTES:
        raise ValueError(f"record of {len(record.value)} bytes; the most is {MAX_BYTES}: split it")
    parts = [_BODY.pack(offset, record.time_ms, len(record.headers))]
    for name, value in record.headers:
        encoded = name.encode()
        parts += (_HEADER.pack(len(encoded), len(value)), encoded, value)
    parts.append(record.value)
    body = b"".join(parts)
    return _HEAD.pack(MAGIC, len(body), crc32(body)) + body


def wanted(buffer: bytes) -> int:
    """Return how many bytes the frame that begins ``buffer`` says it takes; 0 where it is none."""
    if len(buffer) < HEAD_BYTES:
        return 0
    magic, length, _ = _HEAD.unpack_from(buffer)
    return HEAD_BYTES + length if magic == MAGIC and length <= _MAX_BODY else 0


def end(buffer: bytes, at: int, offset: int) -> int:
    """Return where the frame of record ``offset`` at byte ``at`` ends.

    0 where no whole, undamaged frame of this record stands there.

    >>> frame = encode(7, Record(b"click"))
    >>> end(frame, 0, offset=7), end(frame, 0, offset=8), end(frame[:-1], 0, offset=7)
    (35, 0, 0)
    """
    if len(buffer) < at + _BODY_AT:
        return 0
    magic, length, checksum, found, _ = _PLACE.unpack_from(buffer, at)
    stop: int = at + HEAD_BYTES + length
    if magic != MAGIC or found != offset or length < _BODY.size or stop > len(buffer):
        return 0
    return stop if crc32(memoryview(buffer)[at + HEAD_BYTES : stop]) == checksum else 0


def holds_later(buffer: bytes, offset: int) -> bool:
    """Say whether an undamaged frame of a record after ``offset`` stands anywhere in ``buffer``.

    >>> holds_later(b"torn" + encode(8, Record(b"click")), offset=7)
    True
    """
    at = buffer.find(MAGIC)
    while 0 <= at <= len(buffer) - _BODY_AT:
        found: int = _PLACE.unpack_from(buffer, at)[3]
        if found > offset and end(buffer, at, found):
            return True
        at = buffer.find(MAGIC, at + 1)
    return False


def time_ms(buffer: bytes, at: int) -> int:
    """Return the event time of the frame at byte ``at``."""
    found: int = _PLACE.unpack_from(buffer, at)[4]
    return found


def decode(buffer: bytes, at: int, stop: int, partition: int = 0) -> StoredRecord:
    """Read the frame that stands between two bytes, already found undamaged by :func:`end`.

    >>> frame = encode(7, Record(b"click", (("kind", b"json"),), time_ms=1000))
    >>> decode(frame, 0, len(frame)).record
    Record(value=b'click', headers=(('kind', b'json'),), time_ms=1000)
    """
    offset, time, count = _BODY.unpack_from(buffer, at + HEAD_BYTES)
    headers: Headers = ()
    at += _BODY_AT
    for _ in range(count):
        name_bytes, value_bytes = _HEADER.unpack_from(buffer, at)
        split = at + _HEADER.size + name_bytes
        name = buffer[at + _HEADER.size : split].decode()
        at = split + value_bytes
        headers += ((name, buffer[split:at]),)
    return StoredRecord(partition, offset, offset + 1, Record(buffer[at:stop], headers, time))
