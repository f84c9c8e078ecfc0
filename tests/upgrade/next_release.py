"""The next release, as an older one meets it: ``python next_release.py serve batcher``.

It is this release with what a later one may do (see ``bucketline.events.models``): every event carries a field and a
header more, on every topic there are events of types that nobody here knows, and everything stored has a field more.
Every third time it also dies, as far as others can tell, between a write and the publishing of its events, so that
their outboxes are emptied by whoever comes by, an older replica too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import orjson
from pymongo import InsertOne

from bucketline.cli.main import app
from bucketline.db.mongo import BulkOutcome, Collection, Write
from bucketline.db.outbox_store import OutboxEntry
from bucketline.events.cloudevents import CloudEvent, Headers
from bucketline.events.topics import TOPICS
from bucketline.kafka.outbox import Outbox
from bucketline.kafka.publisher import KafkaPublisher, RawHeaders

ADDED = {"by": "the next release", "deep": [1, {"more": None}]}
UNKNOWN = {topic.name: f"{topic.events[0].type.rsplit('.', 2)[0]}.added_later.v1" for topic in TOPICS}
EVERY = 3

Record = tuple[str, bytes | None, bytes | None, RawHeaders]


def say_more() -> None:
    """Events with a field and a header that come later, and beside every third one an event of a later type."""
    headers, publish_raw, number = CloudEvent.headers, KafkaPublisher.publish_raw, count()

    def more_headers(self: CloudEvent, trace: Any = None) -> Headers:
        return *headers(self, trace), ("ce_addedlater", b"\xff not text")

    async def more_records(self: KafkaPublisher, records: Iterable[Record]) -> None:
        sent: list[Record] = []
        for topic, key, value, found in records:
            sent.append((topic, key, value, found))
            kind = next((UNKNOWN[name] for name in UNKNOWN if topic.endswith(name)), None)
            if kind is not None and next(number) % EVERY == 0:
                sent.append((topic, key, b'{"what": 1}', [*dict(found).items(), ("ce_type", kind.encode())]))
        await publish_raw(self, sent)

    CloudEvent.headers = more_headers  # type: ignore[method-assign]
    KafkaPublisher.publish_raw = more_records  # type: ignore[method-assign]


def store_more() -> None:
    """Stored facts with a field that comes later; an outbox with an event of a later type behind the known ones."""
    bulk, insert = Collection.bulk, Collection.insert

    async def more_bulk(self: Collection[Any], writes: Sequence[Write]) -> BulkOutcome:
        for write in writes:
            if isinstance(write, InsertOne):
                add_to(write._doc)
        return await bulk(self, writes)

    async def more_insert(self: Collection[Any], document: Any) -> None:
        add_to(document)
        await insert(self, document)

    Collection.bulk = more_bulk  # type: ignore[method-assign]
    Collection.insert = more_insert  # type: ignore[method-assign]


def add_to(document: Any) -> None:
    document["added_later"] = ADDED
    for stored in list(document.get("pending", ())):
        known = CloudEvent.from_document(stored)
        stored["data"] = orjson.dumps({**orjson.loads(stored["data"]), "added_later": ADDED}).decode()
        later = replace(known, id=f"{known.id}later", type=UNKNOWN[known.topic], data=b'{"what": 1}')
        document["pending"].append(later.to_document())


def leave_to_others() -> None:
    """Leave every third entry to the reconciler."""
    enqueue, number = Outbox.enqueue, count()

    def enqueue_some(self: Outbox, entries: Sequence[OutboxEntry]) -> None:
        if next(number) % EVERY:
            enqueue(self, entries)

    Outbox.enqueue = enqueue_some  # type: ignore[method-assign]


if __name__ == "__main__":
    say_more()
    store_more()
    leave_to_others()
    app()
