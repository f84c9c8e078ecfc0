"""Replaces aiokafka's record reader with one that tolerates header keys that are not UTF-8.

aiokafka decodes header keys strictly: one that is not UTF-8 stops its partition for good, because brokers hand out
whole batches and no offset gets past it. Here such a key comes out with its bytes escaped. A batch that cannot be
decoded at all comes out as one marked record, which ends where the batch does and has its bytes for a value, and is
dead-lettered like any other. A wrong checksum or a missing codec is still an error: it is not the producer's fault.

aiokafka has no public hook for this, so its version has an upper bound, and ``test_tolerant_record_reader.py`` fails
when it changes.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecord, DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint_py

from bucketline.kafka.dead_letters import INCOMPLETE

LOG_OVERHEAD = 12
"""Bytes of a batch's offset and length, which the length does not count."""


def install() -> None:
    """Use this reader for every consumer of the process."""
    fetcher.MemoryRecords = Records


class Records:
    """Iterates over the batches of a fetch; stands in for aiokafka's ``MemoryRecords``."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._strict = MemoryRecords(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        """Return the size of the fetch."""
        return len(self._data)

    def has_next(self) -> bool:
        """Return whether there is another batch."""
        return bool(self._strict.has_next())

    def next_batch(self) -> Any:
        """Return the next batch."""
        batch = self._strict.next_batch()
        end = self._at + LOG_OVERHEAD + int.from_bytes(self._data[self._at + 8 : self._at + LOG_OVERHEAD], signed=True)
        raw, self._at = self._data[self._at : end], end
        return _Batch(batch, raw) if isinstance(batch, DefaultRecordBatch) else batch


class _Batch:
    """A batch whose iteration never fails because of what a producer wrote."""

    def __init__(self, strict: Any, raw: memoryview) -> None:
        self._strict = strict
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strict, name)

    def __next__(self) -> Any:
        return next(self._strict)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._strict:
                yield record
                read += 1
        except UnsupportedCodecError:
            raise
        except Exception:
            yield from self._rest(read)

    def _rest(self, read: int) -> Iterator[Any]:
        try:
            yield from islice(_Escaping(self._raw), read, None)
        except Exception as error:
            batch = self._strict
            what = f"the undecodable rest of a batch that ends at this offset: {error!r}"
            headers = [(INCOMPLETE, what.encode(errors="replace"))]
            yield DefaultRecord(batch.next_offset - 1, batch.max_timestamp, 0, None, bytes(self._raw), headers)


class _Escaping(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka is untyped
    """aiokafka's pure Python reader, over bytes whose ``decode`` escapes instead of failing."""

    _buffer: bytearray

    def __iter__(self) -> "_Escaping":
        super().__iter__()
        self._buffer = _Bytes(self._buffer)
        return self

    def _read_msg(self) -> Any:
        # The compiled function accepts no subclass of bytearray.
        return super()._read_msg(decode_varint_py)


class _Bytes(bytearray):
    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Bytes(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)
