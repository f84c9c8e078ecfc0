"""The event feed through the official client."""

import pytest
from mixpeek.api.events_api import EventsApi
from mixpeek.exceptions import BadRequestException
from mixpeek.models.webhook_event_type import WebhookEventType
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call
from tests.waiting import eventually

pytestmark = pytest.mark.stack


async def test_feed_is_read_page_by_page_and_by_type(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    created = [await client.post(f"/v1/buckets/{bucket}/objects", {"name": f"n{number}"}) for number in range(5)]
    events = sdk.generated(EventsApi)

    async def listed() -> list[str] | None:
        found: list[str] = []
        cursor = None
        while True:
            page = await call(
                events.list_events,
                namespace_id=namespace,
                event_type=WebhookEventType.OBJECT_DOT_CREATED,
                limit=2,
                cursor=cursor,
            )
            found += [str((row.payload or {})["subject"]["id"]) for row in page.results]
            cursor = page.next_cursor
            if not page.has_more:
                return found if len(found) == len(created) else None

    assert await eventually(listed, deadline=20) == [row["object_id"] for row in created]
    with pytest.raises(BadRequestException):
        await call(events.list_events, cursor="not a cursor")


async def test_schema_of_an_event_type_is_served(api: Api) -> None:
    schema = await api.client().get("/v1/events/schemas/bucketline.object.created.v1")
    assert schema["$id"] == "urn:bucketline:schema:bucketline.object.created.v1"
    assert {"object_id", "status", "fields"} <= schema["properties"].keys()
