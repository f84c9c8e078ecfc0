"""Which events become which notifications, and which webhooks receive them."""

from typing import Any

import orjson
import pytest

from bucketline.clock import ManualClock
from bucketline.db.webhooks import WebhookDocument
from bucketline.domain.status import RANK_FINAL, RANK_PROCESSING, Status
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import BatchCompleted, BatchSubmitted, Event, ObjectCreated, ObjectStatusChanged
from bucketline_ingest_api.events.notifications import Notification, notifications_of
from bucketline_ingest_api.events.notifier import matches

AT = ManualClock().now()
OBJECT = {"object_id": "obj_1", "bucket_id": "bkt_1", "namespace_id": "ns_1", "revision": 1}


def received(event: Event, identity: str = "evt_1") -> ReceivedEvent[Any]:
    return ReceivedEvent(event=event, id=identity, source="/test", trace={}, partition=0, offset=0)


def status(sequence: int, **fields: Any) -> ObjectStatusChanged:
    defaults = {"run_id": 1, "sequence": sequence, "status": Status.COMPLETED, "occurred_at": AT}
    return ObjectStatusChanged(**OBJECT, **{**defaults, **fields})


def created() -> Notification:
    (notification,) = notifications_of(received(ObjectCreated(**OBJECT, created_at=AT)))
    return notification


def webhook(**fields: Any) -> WebhookDocument:
    document: Any = {
        "_id": "wh_1",
        "organization_id": "org_1",
        "namespaces": [],
        "event_types": ["object.created"],
        "resource_types": [],
        **fields,
    }
    found: WebhookDocument = document
    return found


def test_body_of_a_created_object_is_that_of_the_contract() -> None:
    body = orjson.loads(orjson.dumps(created().payload()))
    assert body.pop("cache_scope") == "key"
    assert body == {
        "event_id": "evt_1",
        "event_type": "object.created",
        "occurred_at": "2026-01-01T00:00:00.000Z",
        "namespace_id": "ns_1",
        "subject": {"type": "object", "id": "obj_1"},
        "metadata": {"bucket_id": "bkt_1", "object_id": "obj_1", "revision": 1, "status": "DRAFT"},
    }


def test_final_status_published_twice_has_the_same_event_ids() -> None:
    event = status(RANK_FINAL, documents_written=3)
    first = list(notifications_of(received(event, "evt_1")))
    second = list(notifications_of(received(event, "evt_2")))
    assert first == second
    assert [one.event_type for one in first] == ["object.updated", "collection.documents.written"]
    assert len({one.event_id for one in first}) == 2


def test_events_without_an_event_type_yield_nothing() -> None:
    submitted = BatchSubmitted(batch_id="b", bucket_id="b", namespace_id="n", object_count=1, submitted_at=AT)
    assert list(notifications_of(received(submitted))) == []


def test_status_that_is_not_final_is_an_interim_notification() -> None:
    (notification,) = notifications_of(received(status(RANK_PROCESSING)))
    assert (notification.event_type, notification.is_interim) == ("object.updated", True)


def test_completed_batch_is_the_subject_of_its_notification() -> None:
    event = BatchCompleted(
        batch_id="btch_1",
        bucket_id="bkt_1",
        namespace_id="ns_1",
        status=Status.COMPLETED,
        object_count=2,
        failed_count=0,
        documents_written=2,
        completed_at=AT,
    )
    (notification,) = notifications_of(received(event))
    assert notification.event_type == "collection.documents.batch_completed"
    assert (notification.subject_type, notification.subject_id) == ("batch", "btch_1")
    assert notification.metadata["documents_written"] == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"organization_id": "org_2"}, False),
        ({"event_types": ["object.deleted"]}, False),
        ({"namespaces": ["ns_1", "ns_2"]}, True),
        ({"namespaces": ["ns_2"]}, False),
        ({"resource_types": ["object"]}, True),
        ({"resource_types": ["collection"]}, False),
    ],
)
def test_webhook_matches_by_organization_namespace_and_types(fields: dict[str, Any], expected: bool) -> None:
    assert matches(webhook(**fields), "org_1", created()) is expected
