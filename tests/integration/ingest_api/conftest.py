"""The ingest API in this process, on the real MongoDB: replicas at will, time by hand, queries to be looked at.

The bus is a list and S3 is in memory: nothing of what is tested here depends on them.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
from pydantic import SecretStr
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.admin.api_keys import ApiKeyService, ApiKeySpec
from bucketline.clock import ManualClock
from bucketline.db.api_keys import PERMISSIONS
from bucketline.db.mongo import Database
from bucketline.events.cloudevents import CloudEvent
from bucketline.ids import RandomIds
from bucketline.kafka.broker import KafkaRuntime
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext
from bucketline.settings import read_settings
from bucketline_ingest_api.app import build, register_tasks
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.middleware import BodyLimiter, EdgeMiddleware
from bucketline_ingest_api.settings import ApiSettings

ROOT = "sk_root"


class ListBus:
    """A bus whose publisher keeps what it is given."""

    def __init__(self) -> None:
        self.published: list[CloudEvent] = []
        self.publisher = self

    async def publish(self, envelopes: Sequence[CloudEvent]) -> None:
        self.published += envelopes


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass
class Replica:
    """One API process."""

    app: EdgeMiddleware
    deps: Container
    bus: ListBus

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str = ROOT,
        namespace: str | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request; ``path`` may have a query."""
        content = raw if raw is not None else b"" if body is None else orjson.dumps(body)
        place, _, query = path.partition("?")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"authorization", f"Bearer {key}".encode()),
        ]
        if namespace is not None:
            headers.append((b"x-namespace", namespace.encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": place,
            "raw_path": place.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, cast("Any", receive), send)
        found = b"".join(message.get("body", b"") for message in sent[1:])
        named = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], named, orjson.loads(found) if found else None)

    async def make(self, path: str, body: object, *, namespace: str | None = None, key: str = ROOT) -> Any:
        """The body of a POST that must succeed."""
        answer = await self.call("POST", path, body, namespace=namespace, key=key)
        assert answer.status in (200, 202), answer
        return answer.body

    async def settle(self) -> None:
        """Lets the tasks that run now end."""
        for task_id in list(self.deps.runner._executions):
            await self.deps.runner.wait(task_id, 30)


@dataclass
class World:
    """A database, and as many replicas of the API on it as a test wants. ``clock`` is theirs."""

    database: Database
    clock: ManualClock
    replicas: list[Replica] = field(default_factory=list)

    def replica(self, *, body_bytes: int = 1 << 20, **settings: object) -> Replica:
        api = ApiSettings(key=SecretStr(ROOT), **settings)  # type: ignore[arg-type]  # pydantic checks them
        bus = ListBus()
        runtime = ServiceContext(
            settings=read_settings("ingest-api"),
            database=self.database,
            kafka=cast("KafkaRuntime", bus),
            blobs=MemoryBlobStore(),
            health=Health(),
            clock=self.clock,
            ids=RandomIds(),
        )
        deps = Container(runtime, api)
        register_tasks(deps)
        inner = build()
        inner.state.container = deps
        app = EdgeMiddleware(
            inner, ids=RandomIds(), body_limiter=BodyLimiter(body_bytes, 4 * body_bytes), store_timeout_seconds=4
        )
        found = Replica(app, deps, bus)
        self.replicas.append(found)
        return found

    async def key(self, organization: str = "org_local", **spec: Any) -> str:
        """A key in clear, of any organisation."""
        deps = self.replicas[0].deps
        ring = ApiKeyService(deps.keys, deps.namespaces, deps.settings, clock=self.clock)
        name = f"key-{len(await ring.of_organization(organization))}"
        wanted = ApiKeySpec(name=name, **{"permissions": PERMISSIONS, **spec})
        return (await ring.create(organization, "ada@example.org", wanted, created_by="test")).clear


@pytest.fixture
async def world(database: Database, clock: ManualClock) -> AsyncIterator[World]:
    found = World(database, clock)
    yield found
    for replica in found.replicas:
        await replica.deps.runner.close()
        await replica.deps.bucket_counts.close()
        await replica.deps.object_writer.close()
        await replica.deps.batch_writer.close()


@pytest.fixture
def replica(world: World) -> Replica:
    """One API process, with default settings."""
    return world.replica()
