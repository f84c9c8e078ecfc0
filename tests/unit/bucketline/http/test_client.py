"""Webhook calls to servers on loopback, which the policy allows."""

import asyncio
import threading
from ipaddress import ip_network

import pytest
from tests.waiting import eventually

from bucketline.http.client import PostFailed, WebhookClient
from bucketline.http.ssrf import GuardPolicy


@pytest.mark.parametrize(("address", "host"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")])
async def test_post_to_a_literal_address_requires_an_allowed_network(address: str, host: str) -> None:
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, address, 0) as server:
        port = server.sockets[0].getsockname()[1]
        ports = frozenset({port})
        allowed = GuardPolicy(allowed_ports=ports, allow_networks=(ip_network(address),))
        async with WebhookClient(allowed, seconds=5) as poster:
            assert await poster.post(f"http://{host}:{port}/hook?a=b", {}) == 204
        async with WebhookClient(GuardPolicy(allowed_ports=ports), seconds=5) as poster:
            with pytest.raises(PostFailed, match="not allowed"):
                await poster.post(f"http://{host}:{port}/hook", {})
    (head,) = heads
    assert head.startswith("POST /hook?a=b HTTP/1.1\r\n")
    assert f"Host: {host}:{port}\r\n" in head


async def test_client_that_was_left_has_no_resolver_threads() -> None:
    def resolver_threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("resolve")]

    async def ended() -> bool:
        return not resolver_threads()

    client = WebhookClient(GuardPolicy(), seconds=5)
    async with client:
        with pytest.raises(PostFailed, match="not allowed"):
            await client.post("http://localhost/hook", {})
        assert resolver_threads()
    await eventually(ended, deadline=5)
