"""Whatever a producer wrote, aiokafka gets past it with our reader: nothing is lost, nothing stands still."""

from collections.abc import Iterator

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from tests.record_batches import GZIP, MARK, NONE, RECORDS_FROM, batch, misnamed, signed
from tests.unit.bucketline.kafka.fakes import TOPIC

from bucketline.kafka import tolerant_record_reader
from bucketline.kafka.dead_letters import INCOMPLETE


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    tolerant_record_reader.install()


def three(first: int, *, codec: int = NONE) -> bytearray:
    """Records ``first`` and the two behind it, each with two headers, one of them null."""
    headers = [(MARK.decode(), b"v"), ("null", None)]
    return batch([(b"k", b"v%d" % (first + number), headers) for number in range(3)], first=first, codec=codec)


def read(*batches: bytes, position: int = 0) -> Iterator["ConsumerRecord[bytes, bytes]"]:
    """As a consumer at ``position`` reads what the broker sent."""
    yield from fetcher.PartitionRecords(
        TopicPartition(TOPIC, 0), fetcher.MemoryRecords(b"".join(batches)), None, position, None, None, True, 0
    )


def test_records_with_proper_names_come_as_ever() -> None:
    found = list(read(signed(three(0)), signed(three(3, codec=GZIP))))
    assert [one.offset for one in found] == list(range(6))
    assert [one.value for one in found] == [b"v%d" % number for number in range(6)]
    assert {one.headers for one in found} == {(("h-mark", b"v"), ("null", None))}


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_name_that_is_not_utf8_comes_escaped_and_costs_no_record(which: int) -> None:
    found = list(read(signed(three(0)), misnamed(three(3), which), signed(three(6))))
    assert [one.offset for one in found] == list(range(9))
    assert [one.value for one in found] == [b"v%d" % number for number in range(9)]
    assert found[3 + which].headers == ((r"h-\xff\xfe!!", b"v"), ("null", None))
    assert sum(one.headers == (("h-mark", b"v"), ("null", None)) for one in found) == 8


def test_reading_continues_inside_an_unreadable_batch() -> None:
    assert [one.offset for one in read(misnamed(three(3), 0), position=5)] == [5]


@pytest.mark.parametrize("position", [0, 4])
def test_unreadable_record_batch_is_returned_as_one_record(position: int) -> None:
    damaged = three(3)
    damaged[RECORDS_FROM + 2 :] = b"\xff" * len(damaged[RECORDS_FROM + 2 :])
    raw = signed(damaged)
    found = list(read(signed(three(0)), raw, signed(three(6)), position=position))
    assert [one.offset for one in found] == [*range(position, 3), 5, 6, 7, 8]
    (marked,) = [one for one in found if one.offset == 5]
    assert marked.value == raw
    assert [name for name, _ in marked.headers] == [INCOMPLETE]


def test_corrupt_compressed_batch_is_returned_as_one_record() -> None:
    damaged = three(0, codec=GZIP)
    damaged[RECORDS_FROM + 4 :] = b"\xff" * len(damaged[RECORDS_FROM + 4 :])
    assert [one.offset for one in read(signed(damaged), signed(three(3)))] == [2, 3, 4, 5]


def test_a_checksum_that_is_off_is_no_fault_of_the_producer() -> None:
    damaged = three(0)
    damaged[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        list(read(bytes(damaged)))
