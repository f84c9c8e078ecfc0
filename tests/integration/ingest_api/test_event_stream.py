"""Server-sent events of the running service: live, resumable, isolated, and for a thousand clients at once."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.conftest import ADMIN_KEY, Api, Services

from bucketline.devstack.supervisor import Supervisor, bucketline_services

pytestmark = pytest.mark.stack

CLIENTS = 1000
EVENT_SECONDS = 30.0


class Stream:
    """An open stream. ``events`` has what it received, as (cursor, event)."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._response = response

    async def next(self) -> dict[str, Any]:
        """Wait for the next event."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(EVENT_SECONDS):
            async for line in self._response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    event: dict[str, Any] = json.loads(fields["data"])
                    assert (fields["id"], fields["event"]) == (event["cursor"], event["event_type"])
                    self.events.append((fields["id"], event))
                    return event
        raise AssertionError("the stream has ended")

    async def until_completed(self, object_id: str) -> None:
        """Wait for the last event of an object."""
        while True:
            payload = (await self.next())["payload"]
            if payload["subject"]["id"] == object_id and payload["metadata"]["status"] == "COMPLETED":
                return


@asynccontextmanager
async def streaming(
    url: str, *, key: str = ADMIN_KEY, headers: Mapping[str, str] | None = None, **query: str
) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {key}", **(headers or {})}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with (
        aiohttp.ClientSession(url, headers=headers, timeout=timeout) as session,
        session.get("/v1/events/stream", params=query) as response,
    ):
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield Stream(response)


async def create_object(api: Api, namespace: str) -> str:
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    body = {"name": "watched", "blobs": [{"property": "note", "type": "text", "data": secrets.token_hex(8)}]}
    return str((await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true"))["object_id"])


async def test_stream_sends_the_events_of_an_object_in_order_and_resumes(services: Services, api: Api) -> None:
    namespace = await api.namespace()
    async with streaming(services.url, namespace_id=namespace) as stream:
        object_id = await create_object(api, namespace)
        await stream.until_completed(object_id)
    own = [(cursor, event) for cursor, event in stream.events if event["payload"]["subject"]["id"] == object_id]
    assert [event["payload"]["metadata"]["status"] for _, event in own] == ["QUEUED", "PROCESSING", "COMPLETED"]
    headers = {"Last-Event-ID": stream.events[0][0]}
    async with streaming(services.url, headers=headers, namespace_id=namespace) as resumed:
        await resumed.until_completed(object_id)
    assert resumed.events == stream.events[1:]


async def test_stream_of_a_restricted_key_has_only_the_events_of_its_namespaces(services: Services, api: Api) -> None:
    mine, other = await api.namespace(), await api.namespace()
    home = await api.client().get(f"/v1/namespaces/{mine}")
    scopes = [{"resource_type": "namespace", "resource_id": mine}]
    spec = {"name": f"k-{secrets.token_hex(4)}", "permissions": ["read"], "scopes": scopes}
    key = (await api.client().post("/v1/organizations/users/ada@example.org/api-keys", spec))["key"]
    async with streaming(services.url, key=key) as stream:
        await create_object(api, other)
        object_id = await create_object(api, mine)
        await stream.until_completed(object_id)
    assert {event["namespace_id"] for _, event in stream.events} == {home["namespace_id"]}


async def test_thousand_streams_on_one_replica_receive_the_event(services: Services, api: Api) -> None:
    namespace = await api.namespace()
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(streaming(services.url, namespace_id=namespace)) for _ in range(CLIENTS)
        ]
        object_id = await create_object(api, namespace)
        received = await asyncio.gather(*(stream.next() for stream in opened))
    assert {event["payload"]["subject"]["id"] for event in received} == {object_id}


async def test_open_stream_does_not_delay_the_stop_of_the_service(services: Services) -> None:
    async with Supervisor(bucketline_services(services.environment, names=["ingest-api"])) as supervisor:
        async with streaming(supervisor.url("ingest-api")):
            began = time.monotonic()
            await supervisor.stop()
        assert time.monotonic() - began < 8


async def test_invalid_cursor_returns_400_before_the_stream_starts(services: Services) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Last-Event-ID": "x"}
    async with (
        aiohttp.ClientSession(services.url, headers=headers) as session,
        session.get("/v1/events/stream") as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_cursor")
