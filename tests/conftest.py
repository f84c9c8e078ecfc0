"""The real servers and services that tests share: one stack a run, everything isolated by namespaces.

Nothing here starts unless a test asks for it. Ports are free ones, data is in a temporary folder, and whatever was
started dies with this process.
"""

import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import hypothesis
import pytest
from pydantic import SecretStr
from tests import sdk_models
from tests.brokers import LIGHT
from tests.database import delete_documents

from bucketline.cli.client import ApiClient, Json
from bucketline.clock import ManualClock
from bucketline.db.indexes import ensure_indexes
from bucketline.db.mongo import Database
from bucketline.devstack.stack import Broker, LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services
from bucketline.settings import MongoSettings

# Properties are tested with the same examples in every run, and not failed for the load of the machine they run on.
hypothesis.settings.load_profile("ci")

ADMIN_KEY = "sk_tests_admin"
PASSTHROUGH = {
    "feature_extractor_name": "passthrough_extractor",
    "version": "v1",
    "field_passthrough": [{"source_path": "name"}],
}
SCHEMA = {"properties": {"note": {"type": "text"}, "name": {"type": "string"}, "qty": {"type": "integer"}}}

FAST = {
    "BUCKETLINE_RECONCILE_INTERVAL_SECONDS": "1",
    "BUCKETLINE_RECONCILE_STALE_AFTER_SECONDS": "5",
    "BUCKETLINE_RECONCILE_OUTBOX_DELAY_SECONDS": "2",
    "BUCKETLINE_DEDUP_ALLOW_NETWORKS": "127.0.0.0/8",
    "BUCKETLINE_DEDUP_ALLOWED_PORTS": "*",
    "BUCKETLINE_OUTBOUND_ALLOW_NETWORKS": "127.0.0.0/8",
    "BUCKETLINE_OUTBOUND_ALLOWED_PORTS": "*",
    "BUCKETLINE_PROCESSOR_LEASE_SECONDS": "6",
}
"""Sweepers that look sooner than in production: a test of recovery should not take minutes."""


@dataclass(frozen=True)
class Services:
    """The running services, and the last lines that each has written."""

    supervisor: Supervisor
    stack: LocalStack
    environment: dict[str, str]
    lines: deque[str]

    @property
    def url(self) -> str:
        return self.supervisor.url("ingest-api")


class CheckedClient(ApiClient):
    """A client whose every answer goes through the official SDK's model of it."""

    async def _request(self, method: str, path: str, body: Json | None, query: dict[str, str]) -> Json:
        answer = await super()._request(method, path, body, query)
        sdk_models.parse(method, path, 200, answer)
        return answer


@dataclass
class Api:
    """The API of the running services, as its users see it."""

    url: str
    key: str = ADMIN_KEY
    _clients: list[ApiClient] = field(default_factory=list)

    def client(self, namespace: str | None = None, key: str | None = None) -> ApiClient:
        """A plain client; closed at the end of the test."""
        client = CheckedClient(self.url, key or self.key, namespace)
        self._clients.append(client)
        return client

    async def namespace(self) -> str:
        """The name of a namespace that nobody else uses."""
        name = f"test-{secrets.token_hex(6)}"
        await self.client().post("/v1/namespaces", {"namespace_name": name})
        return name

    async def bucket(self, namespace: str, **body: object) -> str:
        """The id of a fresh bucket with ``SCHEMA``, unless ``body`` says otherwise."""
        wanted = {"bucket_name": f"b-{secrets.token_hex(4)}", "bucket_schema": SCHEMA, **body}
        return str((await self.client(namespace).post("/v1/buckets", wanted))["bucket_id"])

    async def collection(self, namespace: str, bucket_id: str, **extractor: object) -> str:
        """The id of a collection that passes the bucket's objects through."""
        body = {
            "collection_name": f"c-{secrets.token_hex(4)}",
            "source": {"type": "bucket", "bucket_ids": [bucket_id]},
            "feature_extractor": extractor or PASSTHROUGH,
        }
        return str((await self.client(namespace).post("/v1/collections", body))["collection_id"])

    async def close(self) -> None:
        for client in self._clients:
            await client.__aexit__(None, None, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--broker", choices=get_args(Broker), default=LIGHT, help="what the tests run on")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Broker:
    """The broker that was asked for; a test that is parametrized by ``broker`` has its own."""
    chosen: Broker = request.config.getoption("broker")
    return chosen


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> AsyncIterator[LocalStack]:
    """MongoDB, the broker and S3, empty."""
    async with LocalStack(tmp_path_factory.mktemp("stack"), broker=broker) as running:
        yield running


@pytest.fixture(autouse=True)
def servers_live(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends the run when a server of the shared stack died: every later test would only wait for it."""
    yield
    if "stack" in request.fixturenames:
        found: LocalStack = request.getfixturevalue("stack")
        if dead := {"mongodb", "kafka", "s3"} - found.pids().keys():
            pytest.exit(f"{', '.join(dead)} died; its log is in {found.data_dir}", returncode=1)


@pytest.fixture(scope="session")
async def mongo(stack: LocalStack) -> MongoSettings:
    """Where the database of the tests is that run a service's code in this process; it has all indexes.

    There is one, emptied for each test: a database of their own for hundreds of them is tens of thousands of files.
    """
    settings = MongoSettings(url=SecretStr(stack.mongodb_url), database="in_process")
    database = Database(settings)
    await ensure_indexes(database)
    database.close()
    return settings


@pytest.fixture
async def database(mongo: MongoSettings) -> AsyncIterator[Database]:
    """Empty, with its indexes, and nobody else's for the length of a test."""
    database = Database(mongo)
    await delete_documents(database)
    yield database
    database.close()


@pytest.fixture
def clock() -> ManualClock:
    """Stands still until a test moves it. It begins at the real time: by that MongoDB deletes what has expired."""
    return ManualClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture(scope="session")
async def services(stack: LocalStack) -> AsyncIterator[Services]:
    """The four services on the stack."""
    lines: deque[str] = deque(maxlen=2000)
    environment = {**stack.environment(), **FAST, "BUCKETLINE_API_KEY": ADMIN_KEY}
    supervisor = Supervisor(
        bucketline_services(environment), on_line=lambda name, line: lines.append(f"{name} | {line}")
    )
    try:
        async with supervisor:
            yield Services(supervisor, stack, environment, lines)
    except BaseException:
        sys.stderr.write("\n".join(list(lines)[-60:]) + "\n")
        raise


@pytest.fixture
async def api(services: Services) -> AsyncIterator[Api]:
    """The API, with a helper for each thing that tests make over and over."""
    found = Api(services.url)
    yield found
    await found.close()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parent.parent
