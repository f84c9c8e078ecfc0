"""What the routes work with: one frozen bundle, made in ``app.py``."""

from dataclasses import dataclass, field

from cachetools import TTLCache

from bucketline.api_keys.service import ApiKeyService
from bucketline.blobs.store import BlobStore
from bucketline.clock import Clock
from bucketline.db.api_keys import ApiKeys
from bucketline.db.batches import Batches
from bucketline.db.buckets import BucketDocument, Buckets
from bucketline.db.collections import Collections
from bucketline.db.documents import Documents
from bucketline.db.mongo import Database
from bucketline.db.namespaces import Namespaces
from bucketline.db.object_deletions import ObjectDeletions
from bucketline.db.objects import Objects
from bucketline.db.tasks import Tasks
from bucketline.db.uploads import Uploads
from bucketline.db.work_units import WorkUnits
from bucketline.events.cloudevents import CloudEvent, wrap
from bucketline.events.models import Event
from bucketline.extractors import ExtractorRegistry
from bucketline.ids import Ids
from bucketline.kafka.outbox import Outbox
from bucketline.observability.health import Health
from bucketline.observability.tracing import current_trace
from bucketline.settings import ReconcileSettings
from bucketline_ingest_api.auth import Auth
from bucketline_ingest_api.buckets.stats import BucketCounts
from bucketline_ingest_api.capped_count import CappedCounter
from bucketline_ingest_api.objects.bulk_writes import ObjectBulkWriter
from bucketline_ingest_api.objects.serializers import PollField
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.tasks.runner import TaskRunner


@dataclass(frozen=True)
class Container:
    """Repositories, outboxes and the like. ``source`` is the CloudEvents source of this service."""

    settings: ApiSettings
    sweep: ReconcileSettings
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
    units: WorkUnits
    documents: Documents
    keys: ApiKeys
    tasks: Tasks
    uploads: Uploads
    removals: ObjectDeletions
    object_outbox: Outbox
    batch_outbox: Outbox
    removal_outbox: Outbox
    object_writes: ObjectBulkWriter
    keyring: ApiKeyService
    runner: TaskRunner
    extractors: ExtractorRegistry
    bucket_counts: BucketCounts
    bucket_cache: "TTLCache[tuple[str, str], BucketDocument]"
    poll_fields: "TTLCache[str, PollField]"
    counter: CappedCounter = field(default_factory=CappedCounter)

    def seal(self, event: Event) -> CloudEvent:
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
