"""Fixtures of dedup with real MongoDB and S3, and an optional fault proxy."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr
from tests.faults.proxy import FaultyProxy
from tests.integration.dedup.harness import MIB, Bench, KeptBus
from tests.integration.dedup.sources import Sources

from bucketline.blobs.s3 import S3BlobStore
from bucketline.clock import SystemClock
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.kafka.broker import KafkaRuntime
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext
from bucketline.settings import (
    HttpSettings,
    KafkaSettings,
    MongoSettings,
    ObservabilitySettings,
    ReconcileSettings,
    S3Settings,
    ServiceSettings,
)
from bucketline_dedup.app import wire
from bucketline_dedup.http_fetcher import HttpFetcher
from bucketline_dedup.settings import DedupSettings

Open = Callable[..., Any]


def proxied(stack: LocalStack) -> FaultyProxy:
    """Yield a fault proxy in front of S3."""
    return FaultyProxy(stack.s3.endpoint.removeprefix("http://"))


@pytest.fixture
async def opened(stack: LocalStack, database: Database, mongo: MongoSettings) -> Open:
    """Return a function that opens replicas with one database and one bucket."""
    bucket = f"dedup-{secrets.token_hex(4)}"

    @asynccontextmanager
    async def replica(
        *, s3_endpoint: str | None = None, scheduler: bool = True, s3: dict[str, Any] | None = None, **changes: Any
    ) -> AsyncIterator[Bench]:
        settings = ServiceSettings(
            service="dedup",
            mongo=mongo,
            kafka=KafkaSettings(),
            s3=S3Settings(
                **{
                    "endpoint_url": s3_endpoint or stack.s3.endpoint,
                    "access_key": stack.s3.access_key,
                    "secret_key": SecretStr(stack.s3.secret_key),
                    "bucket": bucket,
                    "part_size_bytes": 5 * MIB,
                    **(s3 or {}),
                }
            ),
            http=HttpSettings(),
            observability=ObservabilitySettings(),
            reconcile=ReconcileSettings(interval_seconds=0.1),
        )
        own = DedupSettings(
            **{
                "allow_networks": ["127.0.0.0/8"],
                "allowed_ports": "*",
                "initial_backoff_seconds": 0.05,
                "small_bytes": MIB,
                **changes,
            }
        )
        bus = KeptBus()
        async with (
            S3BlobStore(settings.s3) as store,
            S3BlobStore(settings.s3, external_buckets=own.external_buckets) as external,
            HttpFetcher(own.policy(), own.limits()) as fetcher,
        ):
            await store.ensure_bucket()
            runtime = ServiceContext(
                settings=settings,
                database=database,
                kafka=cast("KafkaRuntime", SimpleNamespace(publisher=bus)),
                blobs=store,
                health=Health(),
                clock=SystemClock(),
            )
            dedup = wire(runtime, own, fetcher=fetcher, external=external)
            bench = Bench(dedup, runtime, bus, own)
            if scheduler:
                async with dedup.scheduler:
                    yield bench
            else:
                yield bench

    return replica


@pytest.fixture
async def bench(opened: Open) -> AsyncIterator[Bench]:
    async with opened() as replica:
        yield replica


@pytest.fixture
async def sources() -> AsyncIterator[Sources]:
    """Yield an HTTP server on loopback whose responses a test sets."""
    async with Sources() as running:
        yield running
