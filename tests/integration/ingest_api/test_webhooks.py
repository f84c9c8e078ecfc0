"""Webhooks against real receivers on loopback and the real MongoDB; time is moved by hand."""

import asyncio
import base64
import hashlib
import hmac
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, cast

import orjson
import pytest
from aiohttp import web
from tests.integration.ingest_api.conftest import ROOT, Replica, World
from tests.waiting import eventually

from bucketline.db.batches import webhook_host
from bucketline.events.cloudevents import REPLAY, ReceivedEvent
from bucketline.events.models import ObjectCreated
from bucketline.http.client import WebhookClient
from bucketline.http.ssrf import GuardPolicy
from bucketline_ingest_api.webhooks.delivery import WebhookSender

pytestmark = pytest.mark.stack

PATH = "/v1/organizations/webhooks"
POLICY = GuardPolicy(allowed_ports=frozenset(range(1, 65536)), allow_networks=(ip_network("127.0.0.0/8"),))


@dataclass
class Receiver:
    """Answers the first ``failures`` requests with 500, the others with 204."""

    failures: int = 0
    url: str = ""
    requests: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.headers, await request.read()))
        return web.Response(status=500 if len(self.requests) <= self.failures else 204)

    def event_ids(self) -> list[str]:
        return [orjson.loads(body)["event_id"] for _, body in self.requests]


@asynccontextmanager
async def receiving(failures: int = 0) -> AsyncIterator[Receiver]:
    receiver = Receiver(failures)
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def sender(replica: Replica) -> AsyncIterator[WebhookSender]:
    replica.deps.outbound = POLICY
    async with WebhookClient(POLICY, seconds=5) as client:
        yield WebhookSender(replica.deps, client)


def webhook(url: str, **fields: Any) -> dict[str, Any]:
    configs = {"url": url, **fields.pop("configs", {})}
    return {
        "webhook_name": "ingest",
        "event_types": ["object.created"],
        "channels": [{"channel": "webhook", "configs": configs}],
        **fields,
    }


async def namespace(replica: Replica, name: str) -> str:
    return str((await replica.make("/v1/namespaces", {"namespace_name": name}))["namespace_id"])


def created(world: World, namespace_id: str, number: int = 1, source: str = "/test") -> ReceivedEvent[Any]:
    event = ObjectCreated(
        object_id=f"obj_{number}",
        bucket_id="bkt_1",
        namespace_id=namespace_id,
        revision=1,
        created_at=world.clock.now(),
    )
    identity = f"evt_{namespace_id}_{number}"
    return ReceivedEvent(event=event, id=identity, source=source, trace={}, partition=0, offset=number)


async def test_receiver_that_fails_five_times_gets_the_delivery_with_one_event_id(
    world: World, replica: Replica, sender: WebhookSender
) -> None:
    event = created(world, await namespace(replica, "first"))
    async with receiving(failures=5) as receiver:
        configs = {"signing_secret": "change-me", "headers": {"X-Env": "dev"}}
        made = await replica.make(PATH, webhook(receiver.url, configs=configs))
        path = f"{PATH}/{made['webhook_id']}"
        await replica.deps.notifier.notify([event, event])
        await replica.deps.notifier.notify([event, created(world, event.event.namespace_id, source=REPLAY)])
        for attempt in range(1, 6):
            assert await sender.deliver_due() == 1
            assert await sender.deliver_due() == 0, "it waits for its next attempt"
            health = (await replica.call("GET", path)).body["delivery_health"]
            assert health["consecutive_failures"] == attempt
            assert health["last_failure_cause"] == "the receiver answered 500"
            world.clock.advance(3600)
        assert await sender.deliver_due() == 1
        assert receiver.event_ids() == [event.id] * 6
        assert len({body for _, body in receiver.requests}) == 1
        headers, body = receiver.requests[-1]
        assert headers["X-Env"] == "dev"
        signed = dict(part.split("=", 1) for part in headers["X-Mixpeek-Signature"].split(","))
        digest = hmac.new(b"change-me", signed["t"].encode() + b"." + body, hashlib.sha256)
        assert signed["v1"] == digest.hexdigest()
        standard = f"{event.id}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(b"change-me", standard, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert (await replica.call("GET", path)).body["delivery_health"] is None
        listed = (await replica.call("GET", f"{path}/deliveries?status=delivered")).body
        (delivery,) = listed["results"]
        assert (delivery["attempts"], delivery["status_code"], delivery["next_attempt_at"]) == (6, 204, None)
        await replica.make(f"{path}/deliveries/{delivery['delivery_id']}/replay", None)
        assert await sender.deliver_due() == 1
        assert receiver.event_ids() == [event.id] * 7


async def test_delivery_fails_after_a_day_and_deactivates_the_webhook(
    world: World, replica: Replica, sender: WebhookSender
) -> None:
    namespace_id = await namespace(replica, "first")
    async with receiving(failures=1000) as receiver:
        body = webhook(receiver.url)
        path = f"{PATH}/{(await replica.make(PATH, body))['webhook_id']}"
        await replica.deps.notifier.notify([created(world, namespace_id)])
        await sender.deliver_due()
        for _ in range(30):
            world.clock.advance(3600)
            await sender.deliver_due()
        (delivery,) = (await replica.call("GET", f"{path}/deliveries")).body["results"]
        assert delivery["status"] == "failed"
        paused = (await replica.call("GET", path)).body
        assert paused["is_active"] is False
        assert paused["delivery_health"]["paused_reason"].startswith("every delivery since ")
        await replica.deps.notifier.notify([created(world, namespace_id, 2)])
        assert len((await replica.call("GET", f"{path}/deliveries")).body["results"]) == 1
        calls = len(receiver.requests)
        await replica.make(f"{path}/deliveries/{delivery['delivery_id']}/replay", None)
        await sender.deliver_due()
        assert len(receiver.requests) == calls
        canceled = (await replica.call("GET", f"{path}/deliveries?status=canceled")).body
        assert [row["error"] for row in canceled["results"]] == ["the webhook is not active"]
        activated = (await replica.call("PUT", path, {**body, "is_active": True})).body
        assert (activated["is_active"], activated["delivery_health"]) == (True, None)


async def test_webhooks_of_a_restricted_key_receive_only_the_events_of_its_namespaces(
    world: World, replica: Replica, sender: WebhookSender
) -> None:
    mine, other = await namespace(replica, "mine"), await namespace(replica, "other")
    restricted = await world.key(namespaces=[mine])
    stranger = await world.key(namespaces=[other])
    foreign = await world.key("org_other")
    async with receiving() as receiver, receiving() as everything:
        made = await replica.make(PATH, webhook(receiver.url), key=restricted)
        whole = await replica.make(PATH, webhook(everything.url))
        foreign_made = await replica.make(PATH, webhook(receiver.url), key=foreign)
        await replica.deps.notifier.notify([created(world, mine), created(world, other)])
        await sender.deliver_due()
        assert receiver.event_ids() == [f"evt_{mine}_1"]
        assert sorted(everything.event_ids()) == sorted([f"evt_{mine}_1", f"evt_{other}_1"])
    visible = {
        key: {row["webhook_id"] for row in (await replica.make(f"{PATH}/list", {}, key=key))["results"]}
        for key in (ROOT, restricted, stranger, foreign)
    }
    assert visible[ROOT] == {made["webhook_id"], whole["webhook_id"]}
    assert visible[restricted] == {made["webhook_id"]}
    assert visible[stranger] == set()
    assert visible[foreign] == {foreign_made["webhook_id"]}
    hidden = f"{PATH}/{made['webhook_id']}"
    for key in (stranger, foreign):
        requests: list[tuple[str, str, object]] = [
            ("GET", hidden, None),
            ("PUT", hidden, webhook("https://hooks.example.com/in")),
            ("DELETE", hidden, None),
            ("POST", f"{hidden}/rotate-secret", None),
            ("GET", f"{hidden}/deliveries", None),
        ]
        for method, path, body in requests:
            assert (await replica.call(method, path, body, key=key)).status == 404


async def test_secret_is_shown_once_and_kept_replaced_removed_and_rotated(replica: Replica) -> None:
    def secret(shown: Any) -> Any:
        return shown["channels"][0]["configs"]["signing_secret"]

    async def put(**configs: Any) -> Any:
        answer = await replica.call("PUT", path, webhook("https://hooks.example.com/in", configs=configs))
        assert answer.status == 200, answer
        return secret(answer.body)

    async def stored() -> Any:
        found = await replica.deps.webhooks.get_by_id(made["webhook_id"])
        assert found is not None
        return found["channels"][0]["secret"]

    made = await replica.make(PATH, webhook("https://hooks.example.com/in"))
    path = f"{PATH}/{made['webhook_id']}"
    generated = secret(made)
    assert generated.startswith("whsec_")
    assert secret((await replica.call("GET", path)).body) == "redacted"
    assert generated not in str(await replica.make(f"{PATH}/list", None))
    assert await put() == "redacted"
    assert await put(signing_secret="redacted") == "redacted"
    assert await stored() == generated
    assert await put(signing_secret="own") == "redacted"
    assert await stored() == "own"
    rotated = secret(await replica.make(f"{path}/rotate-secret", None))
    assert rotated.startswith("whsec_")
    assert rotated != generated
    assert await stored() == rotated
    assert secret((await replica.call("GET", path)).body) == "redacted"
    assert await put(signing_secret="") is None
    assert await stored() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"channels": [{"channel": "email", "configs": {"to_addresses": ["ada@example.org"]}}]},
        {"channels": [{"channel": "slack", "configs": {"webhook_url": "https://slack.example"}}]},
        {"event_types": ["cluster.created"]},
        {"event_types": []},
        {"resource_types": ["retriever"]},
        {"configs": {"url": "http://127.0.0.1/hook"}},
        {"configs": {"url": "http://169.254.169.254/latest"}},
        {"configs": {"url": "ftp://hooks.example.com/in"}},
        {"configs": {"payload_template": {"a": "b"}}},
        {"configs": {"signing_secret": "redacted"}},
        {"configs": {"headers": {"webhook-id": "x"}}},
        {"configs": {"headers": {"X-Env": "a\r\nX-Other: b"}}},
    ],
)
async def test_unsupported_webhook_returns_422(replica: Replica, fields: dict[str, Any]) -> None:
    answer = await replica.call("POST", PATH, webhook("https://hooks.example.com/in", **fields))
    assert answer.status == 422, answer


class Hosts:
    """A client whose calls to ``dead`` hosts end only when the test does."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.answered: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self.most = 0

    async def post(self, url: str, _: bytes, **__: object) -> int:
        host = webhook_host(url)
        if host.startswith("dead"):
            self.waiting[host] += 1
            self.most = max(self.most, self.waiting[host])
            await self.over.wait()
            self.waiting[host] -= 1
            return 503
        self.answered[host] += 1
        return 204


async def test_thousand_dead_hosts_do_not_delay_a_live_one(world: World, replica: Replica) -> None:
    namespace_id = await namespace(replica, "first")
    now = world.clock.now()
    urls = [f"https://dead{number}.example/hook" for number in range(999)] + ["https://live.example/hook"]
    template = await replica.make(PATH, webhook("https://live.example/hook"))
    stored = await replica.deps.webhooks.get_by_id(template["webhook_id"])
    assert stored is not None
    await replica.deps.webhooks.delete_by_id(stored["_id"])
    for number, url in enumerate(urls):
        channel = {**stored["channels"][0], "url": url}
        copy: Any = {**stored, "_id": f"wh_{number:016x}", "channels": [channel]}
        await replica.deps.webhooks.create(copy)
    await replica.deps.notifier.notify([created(world, namespace_id, number) for number in range(3)])
    # Every delivery to a dead host is due before those to the live one.
    live = {"host": "live.example"}
    await replica.deps.webhook_deliveries.collection.update_many(live, {"$set": {"due_at": now}})
    world.clock.advance(1)
    hosts = Hosts()
    sender = WebhookSender(replica.deps, cast("WebhookClient", hosts))
    delivering = asyncio.create_task(sender.deliver_due())

    async def live_answered() -> bool:
        return hosts.answered["live.example"] == 3

    # No call to a dead host ends before, and each has one at most.
    await eventually(live_answered, deadline=60)
    assert hosts.most == 1
    sender.stop()
    hosts.over.set()
    await delivering
