"""What the routes work with: one frozen bundle, made in ``app.py``."""

from dataclasses import dataclass, field

from cachetools import TTLCache

from bucketline.access.keyring import KeyRing
from bucketline.clock import Clock
from bucketline.events.catalog import Event
from bucketline.events.envelope import Envelope, wrap
from bucketline.extraction import ExtractorRegistry
from bucketline.ids import Ids
from bucketline.messaging.outbox import Outbox
from bucketline.settings import SweepSettings
from bucketline.storage.batches import Batches
from bucketline.storage.blobstore import BlobStore
from bucketline.storage.buckets import BucketDocument, Buckets
from bucketline.storage.collections import Collections
from bucketline.storage.documents import Documents
from bucketline.storage.keys import Keys
from bucketline.storage.mongo import Database
from bucketline.storage.namespaces import Namespaces
from bucketline.storage.objects import Objects
from bucketline.storage.removals import Removals
from bucketline.storage.tasks import Tasks
from bucketline.storage.units import Units
from bucketline.storage.uploads import Uploads
from bucketline.telemetry.health import Health
from bucketline.telemetry.tracing import current_trace
from ingest_api.auth import Auth
from ingest_api.buckets.counts import BucketCounts
from ingest_api.counting import Counter
from ingest_api.objects.render import PollField
from ingest_api.objects.writes import ObjectWrites
from ingest_api.settings import ApiSettings
from ingest_api.tasks.runner import TaskRunner


@dataclass(frozen=True)
class Deps:
    """Repositories, outboxes and the like. ``source`` is the CloudEvents source of this service."""

    settings: ApiSettings
    sweep: SweepSettings
    database: Database
    blobstore: BlobStore
    clock: Clock
    ids: Ids
    source: str
    health: Health
    auth: Auth
    namespaces: Namespaces
    buckets: Buckets
    collections: Collections
    objects: Objects
    batches: Batches
    units: Units
    documents: Documents
    keys: Keys
    tasks: Tasks
    uploads: Uploads
    removals: Removals
    object_outbox: Outbox
    batch_outbox: Outbox
    removal_outbox: Outbox
    object_writes: ObjectWrites
    keyring: KeyRing
    runner: TaskRunner
    extractors: ExtractorRegistry
    bucket_counts: BucketCounts
    bucket_cache: "TTLCache[tuple[str, str], BucketDocument]"
    poll_fields: "TTLCache[str, PollField]"
    counter: Counter = field(default_factory=Counter)

    def seal(self, event: Event) -> Envelope:
        """The envelope of an event that happens now, within the current trace."""
        return wrap(event, id=self.ids.new("evt"), source=self.source, at=self.clock.now(), trace=current_trace())

    async def bucket(self, namespace_id: str, identifier: str) -> BucketDocument | None:
        """A live bucket by id or name; may be ``scope_cache_seconds`` old when another replica changed it."""
        found = self.bucket_cache.get((namespace_id, identifier))
        if found is None:
            found = await self.buckets.resolve(namespace_id, identifier)
            if found is None or found.get("deleting"):
                return None
            self.bucket_cache[namespace_id, identifier] = found
        return found

    async def poll_field(self, bucket_id: str) -> PollField:
        """What a client polls after a write: documents never come from a bucket that no collection reads.

        May be ``scope_cache_seconds`` old.
        """
        field = self.poll_fields.get(bucket_id)
        if field is None:
            field = "document_count" if await self.collections.read_bucket(bucket_id) else "status"
            self.poll_fields[bucket_id] = field
        return field

    def forget_buckets(self) -> None:
        """Drop what is cached of buckets: one of them, or a collection that reads them, was changed here."""
        self.bucket_cache.clear()
        self.poll_fields.clear()
