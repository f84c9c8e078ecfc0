"""Batches of records as bytes, for what no producer of ours would write."""

import struct
from collections.abc import Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

CRC_AT, CHECKED_FROM, RECORDS_FROM = 17, 21, 61
NONE, GZIP = 0, 1
MARK, MISNAMED = b"h-mark", b"h-\xff\xfe!!"

Contents = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""Key, value and headers."""


def batch(records: Sequence[Contents], *, first: int = 0, codec: int = NONE) -> bytearray:
    """Records at ``first`` and behind it."""
    made = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 99999)
    for number, (key, value, headers) in enumerate(records):
        made.append(number, timestamp=1, key=key, value=value, headers=list(headers))
    built = bytearray(made.build())
    built[:8] = struct.pack(">q", first)
    return built


def signed(built: bytearray) -> bytes:
    """The batch with a checksum that is right for what it now holds."""
    built[CRC_AT:CHECKED_FROM] = struct.pack(">I", calc_crc32c(bytes(built[CHECKED_FROM:])))
    return bytes(built)


def misnamed(built: bytearray, which: int) -> bytes:
    """The header ``MARK`` of one record gets a name that is not UTF-8."""
    at = -1
    for _ in range(which + 1):
        at = built.index(MARK, at + 1)
    built[at : at + len(MARK)] = MISNAMED
    return signed(built)
