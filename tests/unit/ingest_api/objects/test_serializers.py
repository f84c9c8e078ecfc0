"""The wire format of objects."""

from datetime import UTC, datetime
from typing import Any

import pytest
from mixpeek.models.object_response import ObjectResponse

from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline_ingest_api.objects import serializers
from bucketline_ingest_api.objects.serializers import PollField, project, written_headers

NOW = datetime(2026, 1, 1, 9, 30, 0, 250_000, tzinfo=UTC)


def blob(**changes: Any) -> BlobDocument:
    found: dict[str, Any] = {
        "blob_id": "blob_1",
        "property": "note",
        "type": "text",
        "key_prefix": None,
        "properties": {"author": "Ada"},
        "source": {"kind": "text", "text": "secret draft"},
        "canonicalize": True,
        "force": False,
        "checksum": None,
        "details": None,
        "storage": None,
        "state": "pending",
        "error": None,
        **changes,
    }
    return found  # type: ignore[return-value]


def obj(**changes: Any) -> ObjectDocument:
    found: dict[str, Any] = {
        "_id": "obj_1",
        "namespace_id": "ns_1",
        "bucket_id": "bkt_1",
        "key_prefix": "/a",
        "blobs": [blob()],
        "custom": {"sku": "A", "vendor": {"name": "Acme", "id": 7}},
        "status": "DRAFT",
        "error": None,
        "created_at": NOW,
        "updated_at": NOW,
        "revision": 1,
        "blobs_revision": 1,
        "run": {"id": 0, "rank": 0},
        "mirror": {"state": "pending", "attempts": 0},
        "skip_duplicates": False,
        "auto_process": False,
        **changes,
    }
    return found  # type: ignore[return-value]


STORED = blob(
    source=None,
    state="stored",
    details={"filename": None, "size_bytes": 3, "mime_type": "text/plain", "hash": "sha256:ab"},
    storage={"url": "s3://bucketline/blobs/ab", "key": "blobs/ab", "duplicate": False},
)


def show(document: ObjectDocument, *, presigned: dict[str, str] | None = None, poll: PollField | None = None) -> Any:
    return serializers.serialize(document, lambda key: f"s3://bucketline/{key}", presigned=presigned, poll=poll)


def test_serialize_puts_custom_fields_at_the_root_without_internal_fields() -> None:
    shown = show(obj())
    assert shown["sku"] == "A"
    assert shown["created_at"] == "2026-01-01T09:30:00.250Z"
    assert not {"custom", "revision", "run", "mirror", "pending", "namespace_id", "_id"} & shown.keys()
    assert ObjectResponse.from_dict(shown) is not None


def test_serialize_of_a_stored_blob_has_the_url_and_details_of_the_copy() -> None:
    (shown,) = show(obj(blobs=[STORED]), presigned={"blob_1": "http://s3/x"})["blobs"]
    assert shown["properties"] == {
        "author": "Ada",
        "url": "s3://bucketline/blobs/ab",
        "presigned_url": "http://s3/x",
    }
    assert shown["presigned_url"] == "http://s3/x"
    assert shown["details"]["hash"] == "sha256:ab"


def test_serialize_of_an_unmirrored_blob_has_the_producers_url() -> None:
    far = blob(source={"kind": "url", "url": "https://a.example/b"}, checksum="sha256:cd")
    (shown,) = show(obj(blobs=[far]))["blobs"]
    assert shown["properties"]["url"] == "https://a.example/b"
    assert shown["details"] == {"filename": None, "size_bytes": None, "mime_type": None, "hash": "sha256:cd"}


SHA256 = "ab" * 32
KNOWN = {"size": 12, "sha256": SHA256, "mime_type": "text/plain"}


@pytest.mark.parametrize(
    ("source", "filename"),
    [
        ({"kind": "text", "text": "secret draft", **KNOWN}, None),
        ({"kind": "base64", "base64": "c2VjcmV0IGRyYWZ0", "filename": "../a\r\nb.txt", **KNOWN}, "ab.txt"),
        ({"kind": "staged", "key": "staging/inline/obj_1/blob_1", "filename": None, **KNOWN}, None),
        ({"kind": "upload", "upload_id": "upl_1", "key": "uploads/ns_1/upl_1", "filename": "a.txt", **KNOWN}, "a.txt"),
    ],
)
def test_serialize_before_mirroring_has_the_details_and_url_of_the_future_copy(
    source: dict[str, object], filename: str | None
) -> None:
    (shown,) = show(obj(blobs=[blob(source=source)]))["blobs"]
    assert shown["details"] == {
        "filename": filename,
        "size_bytes": 12,
        "mime_type": "text/plain",
        "hash": f"sha256:{SHA256}",
    }
    assert shown["properties"] == {"author": "Ada", "url": f"s3://bucketline/blobs/sha256/ab/ab/{SHA256}"}


def test_serialize_of_an_upload_without_hash_has_its_size_and_own_url() -> None:
    source = {"kind": "upload", "upload_id": "upl_1", "key": "uploads/ns_1/upl_1", "size": 5, "sha256": None}
    (shown,) = show(obj(blobs=[blob(source=source)]))["blobs"]
    assert shown["details"] == {"filename": None, "size_bytes": 5, "mime_type": None, "hash": None}
    assert shown["properties"]["url"] == "s3://bucketline/uploads/ns_1/upl_1"


def test_serialize_of_a_failed_blob_has_no_url() -> None:
    (shown,) = show(obj(blobs=[blob(source={"kind": "text", "text": "secret draft", **KNOWN}, state="failed")]))[
        "blobs"
    ]
    assert "url" not in shown["properties"]
    assert shown["details"]["size_bytes"] == 12


def test_serialize_omits_inline_content() -> None:
    assert "secret draft" not in str(show(obj()))


def test_project_keeps_the_selected_fields_and_the_ids() -> None:
    shown = show(obj(blobs=[STORED]))
    assert project(shown, ["status", "vendor.name", "nope", "blobs.property"]) == {
        "object_id": "obj_1",
        "bucket_id": "bkt_1",
        "status": "DRAFT",
        "vendor": {"name": "Acme"},
        "blobs": shown["blobs"],
    }
    assert project(shown, ["vendor.name", "vendor.id"])["vendor"] == {"name": "Acme", "id": 7}
    assert project(shown, []).keys() == {"object_id", "bucket_id"}


def test_serialize_of_a_write_has_next_actions() -> None:
    draft = show(obj(), poll="document_count")["consistency"]
    assert [action["action"] for action in draft["next_actions"]] == ["create_batch"]
    assert written_headers(obj()) == {}
    queued = obj(status="QUEUED", auto_process=True, batch_id="btch_1")
    actions = show(queued, poll="document_count")["consistency"]["next_actions"]
    assert actions[0]["endpoint"] == "/v1/buckets/bkt_1/batches/btch_1"
    assert written_headers(queued)["X-Task-Id"] == actions[1]["task_id"]


def test_serialize_for_a_bucket_without_collections_polls_the_status() -> None:
    poll = show(obj(), poll="status")["consistency"]["poll"]
    assert (poll["field"], poll["ready_when"]) == ("status", "== COMPLETED")
    poll = show(obj(), poll="document_count")["consistency"]["poll"]
    assert (poll["field"], poll["ready_when"]) == ("document_count", "> 0")
    assert show(obj())["consistency"] is None


def test_serialize_has_warnings_of_the_latest_finished_run_only() -> None:
    told = ["'a.bin' (application/octet-stream) is read by no collection of the bucket"]
    shown = show(obj(status="COMPLETED", warnings=told))
    assert shown["_internal"] == {"warnings": told}
    parsed = ObjectResponse.from_dict(shown)
    assert parsed is not None
    assert parsed.to_dict()["_internal"] == {"warnings": told}
    assert project(shown, ["_internal"])["_internal"] == {"warnings": told}
    for changes in ({"status": "PROCESSING", "warnings": told}, {"status": "COMPLETED", "warnings": []}, {}):
        assert "_internal" not in show(obj(**changes))


def test_serialize_omits_the_declared_charset() -> None:
    details = {"filename": None, "size_bytes": 3, "mime_type": "text/plain", "hash": "sha256:ab", "charset": "koi8-r"}
    [shown] = show(obj(blobs=[{**STORED, "details": details}]))["blobs"]
    assert shown["details"] == {"filename": None, "size_bytes": 3, "mime_type": "text/plain", "hash": "sha256:ab"}
