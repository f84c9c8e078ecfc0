"""Dedup, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import BlobStore
from bucketline.db.blobs import Blobs
from bucketline.db.objects import Objects
from bucketline.kafka.dead_letters import KafkaDeadLetters
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext, open_service_context
from bucketline.settings import ServiceSettings
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_dedup.content_store import ContentStore
from bucketline_dedup.http_fetcher import HttpFetcher
from bucketline_dedup.mirror_attempt import MirrorAttempts
from bucketline_dedup.mirror_blob import BlobMirror
from bucketline_dedup.mirror_inline import InlineMirror
from bucketline_dedup.outcomes import MirrorOutcomes
from bucketline_dedup.service import MirrorService
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import SourceOpener
from bucketline_dedup.staging_cleanup import StagingCleanup
from bucketline_dedup.stored_sources import ExternalObjects, OwnObjects
from bucketline_dedup.subscribers import router

BACKLOG_SECONDS = 15.0
"""Between two counts of what is due: about as often as anybody reads them."""


@dataclass(frozen=True)
class Dedup:
    """The service without its clients. Enter ``mirroring.lanes`` for as long as it is to fetch."""

    mirroring: MirrorService
    storing: ContentStore
    tidy: StagingCleanup


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes, fetches and sweeps from its start to its stop."""
    own = DedupSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            HttpFetcher(own.policy(), own.limits(), decode_content=own.decode_content) as fetcher,
            S3BlobStore(settings.s3, foreign=own.access()) as foreign,
            open_service_context(settings, health=health) as runtime,
        ):
            dedup = wire(runtime, own, fetcher=fetcher, foreign=foreign)
            runtime.bus.include(router, mirroring=dedup.mirroring)
            async with runtime.running(), dedup.mirroring.lanes:
                runtime.background.every(own.staging_cleanup_interval_seconds, "tidy staging", dedup.tidy.step)
                runtime.background.every(BACKLOG_SECONDS, "count due", dedup.mirroring.lanes.backlog)
                yield

    return Starlette(routes=health.routes(), lifespan=lifespan)


def wire(runtime: ServiceContext, settings: DedupSettings, *, fetcher: HttpFetcher, foreign: BlobStore) -> Dedup:
    """``fetcher`` opens http(s), ``foreign`` the buckets that are not ours; both belong to the caller."""
    database, clock = runtime.database, runtime.clock
    objects, records = Objects(database), Blobs(database)
    uploads = database.collection("uploads")

    async def key_of_upload(upload_id: str) -> str | None:
        upload = await uploads.find_one({"_id": upload_id}, fields=["key"])
        return str(upload["key"]) if upload and upload.get("key") else None

    opener = SourceOpener(
        urls=fetcher,
        objects=ExternalObjects(foreign),
        uploads=OwnObjects(runtime.blobs, key_of_upload),
        file_roots=settings.file_roots,
    )
    storing = ContentStore(
        runtime.blobs, records, settings, clock=clock, budget=WeightedSemaphore(settings.memory_bytes)
    )
    blobs = BlobMirror(runtime.blobs, storing, opener, objects, records, settings, clock=clock)
    settling = MirrorOutcomes(runtime, objects)
    dead_letters = KafkaDeadLetters(runtime.bus.publisher, "dedup")
    turns = MirrorAttempts(runtime, objects, blobs, records, settling, dead_letters, settings)
    inline = InlineMirror(runtime, storing, records, settings)
    mirroring = MirrorService(runtime, objects, inline, settling, turns, settings)
    return Dedup(mirroring, storing, StagingCleanup(runtime, objects, settings))
