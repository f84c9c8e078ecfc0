"""The service container: the clients, repositories and caches of one process, as use cases get them."""

from collections.abc import Sequence
from functools import partial

from cachetools import TTLCache

from bucketline.admin.api_keys import ApiKeyService
from bucketline.clock import Clock
from bucketline.db.api_keys import ApiKeys
from bucketline.db.batches import BatchDocument, Batches
from bucketline.db.buckets import BucketDocument, Buckets
from bucketline.db.bulk_writer import BulkWriter
from bucketline.db.collections import Collections
from bucketline.db.documents import Documents
from bucketline.db.event_feed import EventFeed
from bucketline.db.job_cursors import JobCursors
from bucketline.db.mirror_queue import MirrorQueue
from bucketline.db.mongo import call_timeout
from bucketline.db.namespaces import Namespaces
from bucketline.db.object_deletions import ObjectDeletions
from bucketline.db.objects import ObjectDocument, Objects
from bucketline.db.outbox_store import OutboxStore
from bucketline.db.tasks import Tasks
from bucketline.db.uploads import Uploads
from bucketline.db.webhooks import WebhookDeliveries, Webhooks
from bucketline.db.work_units import WorkUnits
from bucketline.extractors import ExtractorRegistry
from bucketline.http.ssrf import GuardPolicy
from bucketline.kafka.dead_letters import DeadLetterStore
from bucketline.kafka.outbox import Outbox
from bucketline.service_context import ServiceContext
from bucketline_ingest_api.auth import Auth
from bucketline_ingest_api.buckets.stats import BucketCounts
from bucketline_ingest_api.events.notifier import Notifier
from bucketline_ingest_api.events.stream import FeedTail
from bucketline_ingest_api.middleware import RateLimiter
from bucketline_ingest_api.objects.serializers import PollField
from bucketline_ingest_api.operations.schemas import Backlog, Overview
from bucketline_ingest_api.pagination import CappedCounter
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.tasks.runner import TaskRunner

OVERVIEW_SECONDS = 4.0
"""How long a replica caches the overview of a namespace, and the backlog."""


class Container:
    """Everything that use cases need, built once per process."""

    def __init__(self, context: ServiceContext, settings: ApiSettings, outbound: GuardPolicy | None = None) -> None:
        database, clock = context.database, context.clock

        def outbox(name: str, store: OutboxStore, *, notifies: bool = False) -> Outbox:
            return Outbox(
                name,
                store,
                context.kafka.publisher,
                clock=clock,
                settings=context.settings.reconcile,
                before_publish=self.notifier.notify_of_changes if notifies else None,
            )

        self.settings = settings
        self.outbound = outbound or GuardPolicy()
        self.reconcile = context.settings.reconcile
        self.database = database
        self.blobstore = context.blobs
        self.clock = clock
        self.ids = context.ids
        self.health = context.health
        self.new_event = context.new_event

        self.keys = ApiKeys(database)
        self.namespaces = Namespaces(database)
        self.buckets = Buckets(database)
        self.collections = Collections(database)
        self.objects = Objects(database)
        self.batches = Batches(database)
        self.units = WorkUnits(database)
        self.documents = Documents(database)
        self.tasks = Tasks(database)
        self.uploads = Uploads(database)
        self.removals = ObjectDeletions(database)
        self.webhooks = Webhooks(database)
        self.webhook_deliveries = WebhookDeliveries(database)
        self.event_feed = EventFeed(database)
        self.feed_tail = FeedTail(self.event_feed)
        self.notifier = Notifier(database, clock=clock, retention_days=settings.event_retention_days)
        self.mirror_queue = MirrorQueue(database)
        self.dead_letters = DeadLetterStore(context.settings.kafka, JobCursors(database))
        self.kafka_settings = context.settings.kafka
        self.overviews: TTLCache[str, Overview] = TTLCache(1000, OVERVIEW_SECONDS)
        self.backlog: TTLCache[str, Backlog] = TTLCache(1, OVERVIEW_SECONDS)

        self.object_outbox = outbox("objects", self.objects.outbox, notifies=True)
        self.batch_outbox = outbox("batches", self.batches.outbox)
        self.removal_outbox = outbox("removals", self.removals.outbox, notifies=True)
        self.outboxes = (self.object_outbox, self.batch_outbox, self.removal_outbox)
        limit = settings.store_timeout_seconds
        self.object_writer = BulkWriter(partial(insert_objects, self.objects, clock, limit), name="objects")
        self.batch_writer = BulkWriter(partial(insert_batches, self.batches, limit), name="batches")

        self.auth = Auth(self.keys, self.namespaces, settings, clock=clock)
        self.rate_limiter = RateLimiter(database, settings, clock=clock)
        self.keyring = ApiKeyService(self.keys, self.namespaces, settings, clock=clock)
        self.runner = TaskRunner(self.tasks, clock=clock, ids=context.ids)
        self.extractors = ExtractorRegistry()
        self.counter = CappedCounter()
        self.bucket_counts = BucketCounts(self.buckets, self.objects, self.batches, clock=clock)
        self._buckets: TTLCache[tuple[str, str], BucketDocument] = TTLCache(10_000, settings.namespace_cache_seconds)
        self._poll_fields: TTLCache[str, PollField] = TTLCache(10_000, settings.namespace_cache_seconds)

    async def bucket(self, namespace_id: str, identifier: str) -> BucketDocument | None:
        """Return a bucket by id or name unless it is being deleted; it may be ``namespace_cache_seconds`` old."""
        bucket = self._buckets.get((namespace_id, identifier))
        if bucket is None:
            bucket = await self.buckets.resolve(namespace_id, identifier)
            if bucket is None or bucket.get("deleting"):
                return None
            self._buckets[namespace_id, identifier] = bucket
        return bucket

    async def poll_field(self, bucket_id: str) -> PollField:
        """Return the field that clients poll after a write; it may be ``namespace_cache_seconds`` old.

        A bucket that no collection reads never gets documents, so clients poll the status there.
        """
        field = self._poll_fields.get(bucket_id)
        if field is None:
            field = "document_count" if await self.collections.read_bucket(bucket_id) else "status"
            self._poll_fields[bucket_id] = field
        return field

    def forget_buckets(self) -> None:
        """Clear the caches after this replica changed a bucket, or a collection that reads one."""
        self._buckets.clear()
        self._poll_fields.clear()

    async def close(self) -> None:
        """Stop the tasks, counts and writes of this process."""
        await self.runner.close()
        await self.bucket_counts.close()
        await self.object_writer.close()
        await self.batch_writer.close()
        for outbox in self.outboxes:
            await outbox.close()


async def insert_objects(
    objects: Objects, clock: Clock, timeout_seconds: float, documents: Sequence[ObjectDocument]
) -> list[str | None]:
    """Insert new objects; return for each the name of the unique index that refused it, or None."""
    # The outbox delay counts from the write: the document may have waited seconds for its group.
    now = clock.now()
    for document in documents:
        if "pending" in document:
            document["pending_since"] = now
    with call_timeout(timeout_seconds):
        refused = await objects.insert(documents)
    return [refused.get(index) for index in range(len(documents))]


async def insert_batches(batches: Batches, timeout_seconds: float, documents: Sequence[BatchDocument]) -> list[None]:
    """Insert batches unless they exist."""
    with call_timeout(timeout_seconds):
        await batches.insert(documents)
    return [None] * len(documents)
