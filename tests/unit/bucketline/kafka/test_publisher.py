"""What becomes of a producer whose record was refused. The broker's side of it is in the integration tests."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    OutOfOrderSequenceNumber,
    RequestTimedOutError,
)
from aiokafka.protocol.admin import ApiVersionRequest

from bucketline.errors import NonRetryableError
from bucketline.kafka import publisher as module
from bucketline.kafka.publisher import KafkaPublisher, NotPublished
from bucketline.settings import KafkaSettings

ROW: tuple[str, bytes, bytes, Sequence[tuple[str, bytes | None]]] = ("topic", b"k", b"v", [])


class Producers:
    """Stands for aiokafka's class: every call makes another fake producer, which all share what they are to do."""

    def __init__(self) -> None:
        self.made: list[FakeProducer] = []
        self.refused: list[Exception] = []
        """What the broker answers to the next records."""
        self.unsent: list[Exception] = []
        """What is raised before a record gets on its way."""
        self.unreachable = 0

    def __call__(self, **_: object) -> "FakeProducer":
        self.made.append(FakeProducer(self))
        return self.made[-1]


class FakeClient:
    """A client that knows some brokers, of which a few are gone; anything but a question to one is too much."""

    def __init__(self, *known: int) -> None:
        self.cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=node) for node in known])
        self.gone: set[int] = set()
        self.asked: list[object] = []

    async def send(self, node: int, request: object) -> None:
        if node in self.gone:
            raise NodeNotReadyError(f"{node}")
        self.asked.append(request)


class FakeProducer:
    def __init__(self, producers: Producers) -> None:
        self._all = producers
        self.client = FakeClient(1, 2, 3)
        self.sent = 0
        self.stopped = False

    async def start(self) -> None:
        if self._all.unreachable:
            self._all.unreachable -= 1
            raise KafkaConnectionError("away")

    async def stop(self) -> None:
        self.stopped = True

    async def send(self, *_: object, **__: object) -> "asyncio.Future[object]":
        if self._all.unsent:
            raise self._all.unsent.pop(0)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._all.refused:
            future.set_exception(self._all.refused.pop(0))
        else:
            self.sent += 1
            future.set_result(None)
        return future


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> Producers:
    made = Producers()
    monkeypatch.setattr(module, "AIOKafkaProducer", made)
    return made


@pytest.mark.parametrize("error", [MessageSizeTooLargeError(), OutOfOrderSequenceNumber(), KafkaError("anything")])
async def test_producer_is_replaced_after_a_rejected_record(producers: Producers, error: Exception) -> None:
    producers.refused = [error]
    async with KafkaPublisher(KafkaSettings(enable_idempotence=True)) as publisher:
        with pytest.raises((NotPublished, NonRetryableError)):
            await publisher.publish_raw([ROW])
        await publisher.publish_raw([ROW, ROW])
    assert [one.sent for one in producers.made] == [0, 2]
    assert all(one.stopped for one in producers.made)


async def test_one_replacement_does_for_all_that_failed_together(producers: Producers) -> None:
    producers.refused = [OutOfOrderSequenceNumber()] * 5
    async with KafkaPublisher(KafkaSettings(enable_idempotence=True)) as publisher:
        failed = await asyncio.gather(*(publisher.publish_raw([ROW]) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in failed] == [NotPublished] * 5
    assert len(producers.made) == 2


async def test_a_producer_that_gave_up_is_replaced_whatever_its_kind(producers: Producers) -> None:
    producers.unsent = [KafkaError("Unexpected error during batch delivery")]
    async with KafkaPublisher(KafkaSettings(enable_idempotence=False)) as publisher:
        with pytest.raises(NotPublished):
            await publisher.publish_raw([ROW])
        await publisher.publish_raw([ROW])
    assert [one.sent for one in producers.made] == [0, 1]


@pytest.mark.parametrize(
    ("idempotent", "refused", "unsent"),
    [
        (True, [RequestTimedOutError()], []),
        (True, [], [MessageSizeTooLargeError()]),
        (False, [MessageSizeTooLargeError()], []),
    ],
    ids=["may pass", "never sent", "without numbers"],
)
async def test_a_producer_that_is_well_is_kept(
    producers: Producers, idempotent: bool, refused: list[Exception], unsent: list[Exception]
) -> None:
    producers.refused, producers.unsent = refused, unsent
    async with KafkaPublisher(KafkaSettings(enable_idempotence=idempotent)) as publisher:
        with pytest.raises((NotPublished, NonRetryableError)):
            await publisher.publish_raw([ROW])
        await publisher.publish_raw([ROW])
    assert len(producers.made) == 1


async def test_while_no_fresh_one_connects_each_failure_tries_again(producers: Producers) -> None:
    producers.refused = [OutOfOrderSequenceNumber()] * 2
    async with KafkaPublisher(KafkaSettings(enable_idempotence=True)) as publisher:
        producers.unreachable = 1
        for _ in range(2):
            with pytest.raises(NotPublished):
                await publisher.publish_raw([ROW])
        await publisher.publish_raw([ROW])
    assert [one.sent for one in producers.made] == [0, 0, 1]


async def test_runtime_reports_when_it_is_not_connected(producers: Producers) -> None:
    publisher = KafkaPublisher(KafkaSettings())
    with pytest.raises(NotPublished, match="not connected"):
        await publisher.publish_raw([ROW])
    async with publisher:
        await publisher.publish_raw([ROW])
    with pytest.raises(NotPublished, match="not connected"):
        await publisher.ping()


async def test_a_ping_is_one_small_question_to_any_broker(producers: Producers) -> None:
    async with KafkaPublisher(KafkaSettings()) as publisher:
        client = producers.made[0].client
        client.gone = {1, 3}
        await publisher.ping()
        assert [type(request) for request in client.asked] == [ApiVersionRequest]
        client.gone = {1, 2, 3}
        with pytest.raises(NotPublished):
            await publisher.ping()
