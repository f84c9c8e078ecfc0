"""The end of a batch is told to its webhook_url: once, and not into a private network."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any, cast

import pytest
from aiohttp import web
from tests.integration.batcher.conftest import World
from tests.waiting import eventually

from bucketline.clock import wire_time
from bucketline.db.batches import webhook_host
from bucketline.domain.status import Status
from bucketline.errors import DependencyUnavailable
from bucketline.http.client import WebhookClient
from bucketline.http.ssrf import GuardPolicy
from bucketline_batcher.webhooks import PER_HOST, Webhooks

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
    await replica.planner.plan_batch(batch_id)
    await world.run(replica)
    return batch_id


@pytest.mark.parametrize("status", [200, 500, 302])
async def test_webhook_is_called_once_for_any_response(world: World, status: int) -> None:
    calls: list[Any] = []
    async with listening(calls, status) as port, WebhookClient(local(port), seconds=5) as poster:
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
            "completed_at": wire_time(world.clock.now()),
        }
    ]
    assert (await world.batch(batch_id))["webhook"]["status_code"] == status


async def test_nothing_is_posted_into_a_private_network(world: World) -> None:
    calls: list[Any] = []
    async with (
        listening(calls) as port,
        WebhookClient(GuardPolicy(allowed_ports=frozenset({port})), seconds=5) as poster,
    ):
        for host in ("127.0.0.1", "localhost", "[::1]", "2130706433"):
            batch_id = await ended(world, f"http://{host}:{port}/hook")
            await Webhooks(world.runtime(), poster).call_due()
            batch = await world.batch(batch_id)
            assert batch["webhook"]["error"] == "the address is not allowed"
            assert batch["status"] == Status.COMPLETED
    assert calls == []


class Receivers:
    """Those in ``dead`` answer when the test is over."""

    def __init__(self, *dead: str) -> None:
        self.dead, self.over = set(dead), asyncio.Event()
        self.waiting: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.answered: list[str] = []

    async def post(self, url: str, _body: Mapping[str, object]) -> int:
        host = webhook_host(url)
        self.waiting[host] += 1
        self.most[host] = max(self.most[host], self.waiting[host])
        await (self.over.wait() if host in self.dead else asyncio.sleep(0))
        self.waiting[host] -= 1
        self.answered.append(host)
        return 200

    def hooks(self, world: World) -> Webhooks:
        return Webhooks(world.runtime(), cast("WebhookClient", self))


async def due(world: World, host: str, *, told: bool = True) -> None:
    """A batch that is over; an older release did not tell the host."""
    now = world.clock.now()
    webhook = {"due_at": now, **({"host": host} if told else {})}
    await world.submitted([], status="COMPLETED", webhook_url=f"https://{host}/hook", webhook=webhook)


@pytest.mark.parametrize("told", [True, False])
async def test_dead_receiver_of_many_batches_does_not_delay_others(world: World, told: bool) -> None:
    many = 1000 if told else 50
    for _ in range(many):
        await due(world, "dead.example", told=told)
    world.clock.advance(1)
    for number in range(50):
        await due(world, f"well{number % 3}.example")
    receivers = Receivers("dead.example")
    calling = asyncio.create_task(receivers.hooks(world).call_due())
    await eventually(lambda: answers(receivers, 50))
    assert receivers.waiting["dead.example"] == PER_HOST
    receivers.over.set()
    assert await calling == many + 50
    assert Counter(receivers.answered)["dead.example"] == many
    assert max(receivers.most.values()) <= PER_HOST


async def test_the_next_call_begins_when_one_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_batcher.webhooks.MAX_CONCURRENCY", 3)
    for number in range(2):
        await due(world, f"dead{number}.example")
    world.clock.advance(1)
    for number in range(10):
        await due(world, f"well{number}.example")
    receivers = Receivers("dead0.example", "dead1.example")
    calling = asyncio.create_task(receivers.hooks(world).call_due())
    await eventually(lambda: answers(receivers, 10))
    await due(world, "late.example")
    await eventually(lambda: answers(receivers, 11))
    receivers.over.set()
    assert await calling == 13


async def test_no_call_begins_when_the_service_stops_and_none_is_lost(world: World) -> None:
    for _ in range(PER_HOST + 3):
        await due(world, "slow.example")
    receivers = Receivers("slow.example")
    hooks = receivers.hooks(world)
    calling = asyncio.create_task(hooks.call_due())
    await eventually(lambda: waits(receivers, "slow.example"))
    hooks.stop()
    receivers.over.set()
    assert await calling == PER_HOST
    assert await receivers.hooks(world).call_due() == 3


async def test_claimed_webhooks_are_called_although_the_store_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await due(world, "slow.example")
    receivers = Receivers("slow.example")
    hooks = receivers.hooks(world)
    calling = asyncio.create_task(hooks.call_due())
    await eventually(lambda: waits(receivers, "slow.example"))

    async def away(*_: Any, **__: Any) -> Any:
        receivers.over.set()
        raise DependencyUnavailable("away")

    monkeypatch.setattr(hooks._batches, "webhooks_due", away)
    with pytest.raises(DependencyUnavailable):
        await calling
    assert receivers.answered == ["slow.example"]


async def answers(receivers: Receivers, count: int) -> bool:
    return len(receivers.answered) >= count


async def waits(receivers: Receivers, host: str) -> bool:
    return receivers.waiting[host] > 0
