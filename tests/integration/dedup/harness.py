"""One replica of dedup in this process, driven by a test.

There is no Kafka: records are passed to the subscriber, and published events are kept.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from tests.waiting import eventually

from bucketline.blobs.s3 import S3BlobStore
from bucketline.db.objects import ObjectDocument, Objects
from bucketline.errors import RetryableError
from bucketline.events.cloudevents import CloudEvent, ReceivedEvent, decode_event
from bucketline.events.models import Event, ObjectCreated, ObjectUpdated
from bucketline.service_context import ServiceContext
from bucketline_dedup.app import Dedup
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.subscribers import mirror_objects

MIB = 1024 * 1024


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class KeptBus:
    """Keeps what was published, as events and as raw records (topic, key, value, headers)."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.raw: list[tuple[str, bytes | None, bytes | None, dict[str, bytes | None]]] = []
        self.away = False

    async def publish(self, envelopes: Iterable[CloudEvent]) -> None:
        if self.away:
            raise RetryableError("switched off by the test")
        self.events += [decode_event(envelope.data, envelope.headers()).event for envelope in envelopes]

    async def publish_raw(self, records: Iterable[tuple[str, bytes | None, bytes | None, Any]]) -> None:
        if self.away:
            raise RetryableError("switched off by the test")
        self.raw += [(topic, key, value, dict(headers)) for topic, key, value, headers in records]

    def of(self, kind: type[Event], object_id: str) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind) and getattr(e, "object_id", None) == object_id]


@dataclass
class Bench:
    """A replica of dedup and helpers; the replicas of a test share a database."""

    dedup: Dedup
    runtime: ServiceContext
    bus: KeptBus
    settings: DedupSettings
    namespace: str = "ns_test"
    bucket: str = "bkt_test"

    @property
    def objects(self) -> Objects:
        return Objects(self.runtime.database)

    @property
    def store(self) -> S3BlobStore:
        return self.runtime.blobs

    def blob(self, source: Mapping[str, object], **changes: Any) -> dict[str, Any]:
        return {
            "blob_id": self.runtime.ids.new("blob"),
            "property": "main",
            "type": "text",
            "key_prefix": None,
            "properties": {},
            "source": source,
            "canonicalize": True,
            "force": False,
            "checksum": None,
            "details": None,
            "storage": None,
            "state": "pending",
            "error": None,
            **changes,
        }

    async def add(self, *blobs: dict[str, Any], **changes: Any) -> str:
        """Insert an object as the API does and return its id."""
        now = self.runtime.clock.now()
        document = {
            "_id": self.runtime.ids.new("obj"),
            "namespace_id": self.namespace,
            "bucket_id": self.bucket,
            "key_prefix": None,
            "blobs": list(blobs),
            "custom": {},
            "status": "DRAFT",
            "error": None,
            "created_at": now,
            "updated_at": now,
            "revision": 1,
            "blobs_revision": 1,
            "run": {"id": 0, "rank": 0},
            "mirror": {"state": "pending", "attempts": 0, "due_at": now + timedelta(seconds=3600)},
            "skip_duplicates": False,
            "auto_process": False,
            **changes,
        }
        await self.objects.collection.insert(cast("ObjectDocument", document))
        return str(document["_id"])

    async def created(self, *object_ids: str) -> None:
        """Pass the events of created objects to the subscriber, as one micro-batch."""
        await mirror_objects([self.record(object_id) for object_id in object_ids], self.dedup.mirroring)

    def record(self, object_id: str) -> ReceivedEvent[ObjectCreated | ObjectUpdated]:
        event = ObjectCreated(
            object_id=object_id,
            bucket_id=self.bucket,
            namespace_id=self.namespace,
            revision=1,
            created_at=self.runtime.clock.now(),
        )
        return ReceivedEvent(event=event, id=f"evt_{secrets.token_hex(6)}", source="/bucketline/ingest-api", trace={})

    async def get(self, object_id: str) -> ObjectDocument:
        obj = await self.objects.collection.get(object_id)
        assert obj is not None
        return obj

    async def mirrored(self, object_id: str, *, deadline: float = 30) -> ObjectDocument:
        """Wait until the object is finished and its events are published; return it."""

        async def finished() -> ObjectDocument | None:
            obj = await self.get(object_id)
            return obj if obj["mirror"]["state"] != "pending" and "due_at" not in obj["mirror"] else None

        return cast("ObjectDocument", await eventually(finished, deadline=deadline))

    async def mirror_one(self, source: Mapping[str, object], **changes: Any) -> ObjectDocument:
        """Create an object of one blob and wait for its outcome."""
        on_object = {k: changes.pop(k) for k in ("skip_duplicates", "bucket_id", "namespace_id") if k in changes}
        object_id = await self.add(self.blob(source, **changes), **on_object)
        await self.created(object_id)
        return await self.mirrored(object_id)

    async def content(self, obj: ObjectDocument, index: int = 0) -> bytes:
        storage = obj["blobs"][index]["storage"]
        assert storage is not None
        return await self.store.read(storage["key"], limit=1024 * MIB)

    async def leftovers(self) -> list[str]:
        """Return open multipart uploads and staging objects of dedup."""
        uploads = [u.key for p in ("staging/", "blobs/") for u in await self.store.list_multipart(p)]
        return uploads + [row.key for row in await self.store.list("staging/dedup/", limit=1000)]
