"""Dedup, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.budget import Budget
from bucketline.messaging.parking import KafkaParking
from bucketline.runtime import Runtime, open_runtime
from bucketline.settings import ServiceSettings
from bucketline.storage.blobs import Blobs
from bucketline.storage.blobstore import BlobStore
from bucketline.storage.objects import Objects
from bucketline.storage.s3 import S3BlobStore
from bucketline.telemetry.health import Health
from dedup.blob import BlobMirror
from dedup.fetch import HttpFetcher
from dedup.inline import InlineMirror
from dedup.mirror import Mirroring
from dedup.opening import ForeignObjects, OwnContent
from dedup.settings import DedupSettings
from dedup.settling import Settling
from dedup.source import SourceOpener
from dedup.storing import Storing
from dedup.subscribers import router
from dedup.tidy import Tidy
from dedup.turns import Turns

BACKLOG_SECONDS = 15.0
"""Between two counts of what is due: about as often as anybody reads them."""


@dataclass(frozen=True)
class Dedup:
    """The service without its clients. Enter ``mirroring.lanes`` for as long as it is to fetch."""

    mirroring: Mirroring
    storing: Storing
    tidy: Tidy


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes, fetches and sweeps from its start to its stop."""
    own = DedupSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            HttpFetcher(own.policy(), own.limits(), decode_content=own.decode_content) as fetcher,
            S3BlobStore(settings.s3, foreign=own.access()) as foreign,
            open_runtime(settings, health=health) as runtime,
        ):
            dedup = wire(runtime, own, fetcher=fetcher, foreign=foreign)
            runtime.bus.include(router, mirroring=dedup.mirroring)
            async with runtime.running(), dedup.mirroring.lanes:
                runtime.background.every(own.tidy_interval, "tidy staging", dedup.tidy.step)
                runtime.background.every(BACKLOG_SECONDS, "count due", dedup.mirroring.lanes.backlog)
                yield

    return Starlette(routes=health.routes(), lifespan=lifespan)


def wire(runtime: Runtime, settings: DedupSettings, *, fetcher: HttpFetcher, foreign: BlobStore) -> Dedup:
    """``fetcher`` opens http(s), ``foreign`` the buckets that are not ours; both belong to the caller."""
    database, clock = runtime.database, runtime.clock
    objects, records = Objects(database), Blobs(database)
    uploads = database.collection("uploads")

    async def key_of_upload(upload_id: str) -> str | None:
        upload = await uploads.find_one({"_id": upload_id}, fields=["key"])
        return str(upload["key"]) if upload and upload.get("key") else None

    opener = SourceOpener(
        urls=fetcher,
        objects=ForeignObjects(foreign),
        uploads=OwnContent(runtime.blobs, key_of_upload),
        file_roots=settings.file_roots,
    )
    storing = Storing(runtime.blobs, records, settings, clock=clock, budget=Budget(settings.memory_bytes))
    blobs = BlobMirror(runtime.blobs, storing, opener, objects, records, settings, clock=clock)
    settling = Settling(runtime, objects)
    parking = KafkaParking(runtime.bus.publisher, "dedup")
    turns = Turns(runtime, objects, blobs, records, settling, parking, settings)
    inline = InlineMirror(runtime, storing, records, settings)
    mirroring = Mirroring(runtime, objects, inline, settling, turns, settings)
    return Dedup(mirroring, storing, Tidy(runtime, objects, settings))
