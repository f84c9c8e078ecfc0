"""The end of a batch is told to its webhook_url: once, and not into a private network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web
from tests.integration.batcher.conftest import World

from batcher.webhook import Webhooks
from bucketline.domain.status import Status
from bucketline.outbound.guard import GuardPolicy
from bucketline.outbound.post import Poster

pytestmark = pytest.mark.stack


@asynccontextmanager
async def listening(calls: list[Any], status: int = 200) -> AsyncIterator[int]:
    async def take(request: web.Request) -> web.Response:
        calls.append(await request.json())
        return web.Response(status=status, headers={"Location": "http://127.0.0.1/elsewhere"})

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def local(port: int) -> GuardPolicy:
    return GuardPolicy(allowed_ports=frozenset({port}), allow_networks=(ip_network("127.0.0.0/8"),))


async def ended(world: World, url: str) -> str:
    replica = world.replica()
    batch_id = await world.submitted(await world.drafts(2), webhook_url=url)
    await replica.planner.submitted(batch_id)
    await world.run(replica)
    return batch_id


@pytest.mark.parametrize("status", [200, 500, 302])
async def test_it_is_told_once_whatever_it_answers(world: World, status: int) -> None:
    calls: list[Any] = []
    async with listening(calls, status) as port, Poster(local(port), seconds=5) as poster:
        batch_id = await ended(world, f"http://127.0.0.1:{port}/hook")
        hooks = [Webhooks(world.runtime(), poster) for _ in range(3)]
        await asyncio.gather(*(one.call_due() for one in hooks))
        await hooks[0].call_due()
    assert calls == [
        {
            "batch_id": batch_id,
            "status": "COMPLETED",
            "failure_reason": None,
            "documents_written": 2,
            "progress": {"processed": 2, "total": 2, "percent": 100.0, "errors": 0},
            "completed_at": "2026-01-01T00:00:00.000Z",
        }
    ]
    assert (await world.batch(batch_id))["webhook"]["status_code"] == status


async def test_nothing_is_posted_into_a_private_network(world: World) -> None:
    calls: list[Any] = []
    async with listening(calls) as port, Poster(GuardPolicy(allowed_ports=frozenset({port})), seconds=5) as poster:
        for host in ("127.0.0.1", "localhost", "[::1]", "2130706433"):
            batch_id = await ended(world, f"http://{host}:{port}/hook")
            await Webhooks(world.runtime(), poster).call_due()
            batch = await world.batch(batch_id)
            assert batch["webhook"]["error"] == "the address is not allowed"
            assert batch["status"] == Status.COMPLETED
    assert calls == []
