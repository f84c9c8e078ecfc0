"""The service container: clients, repositories and caches, built in ``app.py`` and injected into endpoints."""

from dataclasses import dataclass, field

from cachetools import TTLCache

from bucketline.admin.api_keys import ApiKeyService
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
from bucketline.events.cloudevents import CloudEvent, encode_event
from bucketline.events.models import Event
from bucketline.extractors import ExtractorRegistry
from bucketline.ids import Ids
from bucketline.kafka.outbox import Outbox
from bucketline.observability.health import Health
from bucketline.observability.tracing import current_trace
from bucketline.settings import ReconcileSettings
from bucketline_ingest_api.auth import Auth
from bucketline_ingest_api.buckets.stats import BucketCounts
from bucketline_ingest_api.objects.bulk_writer import ObjectBulkWriter
from bucketline_ingest_api.objects.serializers import PollField
from bucketline_ingest_api.pagination import CappedCounter
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.tasks.runner import TaskRunner


@dataclass(frozen=True)
class Container:
    """Everything that use cases need. ``source`` is the CloudEvents source of this service."""

    settings: ApiSettings
    reconcile: ReconcileSettings
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

    def new_event(self, event: Event) -> CloudEvent:
        """Wrap an event that happens now in a CloudEvent within the current trace."""
        return encode_event(
            event, id=self.ids.new("evt"), source=self.source, at=self.clock.now(), trace=current_trace()
        )

    async def bucket(self, namespace_id: str, identifier: str) -> BucketDocument | None:
        """Return a bucket by id or name unless it is being deleted; it may be ``namespace_cache_seconds`` old."""
        bucket = self.bucket_cache.get((namespace_id, identifier))
        if bucket is None:
            bucket = await self.buckets.resolve(namespace_id, identifier)
            if bucket is None or bucket.get("deleting"):
                return None
            self.bucket_cache[namespace_id, identifier] = bucket
        return bucket

    async def poll_field(self, bucket_id: str) -> PollField:
        """Return the field that clients poll after a write; it may be ``namespace_cache_seconds`` old.

        A bucket that no collection reads never gets documents, so clients poll the status there.
        """
        field = self.poll_fields.get(bucket_id)
        if field is None:
            field = "document_count" if await self.collections.read_bucket(bucket_id) else "status"
            self.poll_fields[bucket_id] = field
        return field

    def forget_buckets(self) -> None:
        """Clear the caches after this replica changed a bucket, or a collection that reads one."""
        self.bucket_cache.clear()
        self.poll_fields.clear()
