"""Webhooks through the generated client, delivered by the running services."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web
from mixpeek import models
from mixpeek.api.webhooks_api import WebhooksApi
from mixpeek.exceptions import NotFoundException
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse

pytestmark = pytest.mark.stack


def requested(url: str, **fields: object) -> models.WebhookInput:
    configs = {"url": url, "headers": {"X-Env": "dev"}, "timeout": 10.0, "signing_secret": "change-me"}
    body = {
        "webhook_name": "ingest",
        "event_types": ["object.created", "object.updated"],
        "channels": [{"channel": "webhook", "configs": configs}],
        **fields,
    }
    return parse(models.WebhookInput, body)


def configs_of(webhook: models.WebhookOutput) -> models.WebhookConfig:
    configs = webhook.channels[0].configs.actual_instance
    assert isinstance(configs, models.WebhookConfig)
    return configs


async def test_webhook_is_created_listed_updated_and_deleted(sdk: Sdk) -> None:
    webhooks = sdk.generated(WebhooksApi)
    made = await call(webhooks.create_webhook_organizations, requested("https://hooks.example.com/in"))
    identifier = str(made.webhook_id)
    assert (made.webhook_name, made.is_active, made.delivery_health) == ("ingest", True, None)
    assert made.event_types == [
        models.WebhookEventType.OBJECT_DOT_CREATED,
        models.WebhookEventType.OBJECT_DOT_UPDATED,
    ]
    configs = configs_of(made)
    assert (configs.url, configs.headers, configs.timeout) == ("https://hooks.example.com/in", {"X-Env": "dev"}, 10.0)
    assert configs.signing_secret == "redacted"
    found = await call(webhooks.get_webhook_organizations, identifier)
    assert found == made
    active = models.ListWebhooksRequest(event_type="object.created", is_active=True)
    listed = await call(webhooks.list_webhooks_organizations, list_webhooks_request=active, limit=1000)
    assert identifier in [row.webhook_id for row in listed.results]
    assert listed.total == len(listed.results)
    changed = await call(
        webhooks.update_webhook_organizations,
        identifier,
        requested("https://hooks.example.com/other", is_active=False, resource_types=["object"]),
    )
    assert (configs_of(changed).url, changed.is_active) == ("https://hooks.example.com/other", False)
    assert changed.resource_types == ["object"]
    await call(webhooks.delete_webhook_organizations, identifier)
    with pytest.raises(NotFoundException):
        await call(webhooks.get_webhook_organizations, identifier)


async def test_created_object_is_delivered_to_the_receiver(api: Api, sdk: Sdk) -> None:
    bodies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def handle(request: web.Request) -> web.Response:
        await bodies.put(orjson.loads(await request.read()))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    webhooks = sdk.generated(WebhooksApi)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    made = await call(webhooks.create_webhook_organizations, requested(url))
    try:
        namespace = await api.namespace()
        bucket = await api.bucket(namespace)
        body = {"blobs": [{"property": "note", "type": "text", "data": "delivered"}]}
        created = await api.client(namespace).post(f"/v1/buckets/{bucket}/objects", body)
        async with asyncio.timeout(60):
            # Other tests share the organization, so the receiver may get their events too.
            while (delivered := await bodies.get())["subject"]["id"] != created["object_id"]:
                pass
        assert delivered["event_type"] == "object.created"
        assert delivered["metadata"]["bucket_id"] == bucket
    finally:
        await call(webhooks.delete_webhook_organizations, str(made.webhook_id))
        await runner.cleanup()
