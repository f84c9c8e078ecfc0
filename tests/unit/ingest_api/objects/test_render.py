"""How an object looks on the wire."""

from datetime import UTC, datetime
from typing import Any

from mixpeek.models.object_response import ObjectResponse

from bucketline.storage.objects import BlobDocument, ObjectDocument
from ingest_api.objects.render import select, show, written_headers

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


def test_custom_fields_stand_at_the_root_and_nothing_internal_does() -> None:
    shown = show(obj())
    assert shown["sku"] == "A"
    assert shown["created_at"] == "2026-01-01T09:30:00.250Z"
    assert not {"custom", "revision", "run", "mirror", "pending", "namespace_id", "_id"} & shown.keys()
    assert ObjectResponse.from_dict(shown) is not None


def test_a_stored_blob_shows_our_copy_and_what_is_known_of_it() -> None:
    (shown,) = show(obj(blobs=[STORED]), presigned={"blob_1": "http://s3/x"})["blobs"]
    assert shown["properties"] == {
        "author": "Ada",
        "url": "s3://bucketline/blobs/ab",
        "presigned_url": "http://s3/x",
    }
    assert shown["presigned_url"] == "http://s3/x"
    assert shown["details"]["hash"] == "sha256:ab"


def test_a_blob_that_is_not_mirrored_shows_where_the_producer_has_it() -> None:
    far = blob(source={"kind": "url", "url": "https://a.example/b"}, checksum="sha256:cd")
    (shown,) = show(obj(blobs=[far]))["blobs"]
    assert shown["properties"]["url"] == "https://a.example/b"
    assert shown["details"] == {"filename": None, "size_bytes": None, "mime_type": None, "hash": "sha256:cd"}


def test_inline_content_is_never_echoed() -> None:
    assert "secret draft" not in str(show(obj()))


def test_select_keeps_the_fields_and_the_ids() -> None:
    shown = show(obj(blobs=[STORED]))
    assert select(shown, ["status", "vendor.name", "nope", "blobs.property"]) == {
        "object_id": "obj_1",
        "bucket_id": "bkt_1",
        "status": "DRAFT",
        "vendor": {"name": "Acme"},
        "blobs": shown["blobs"],
    }
    assert select(shown, ["vendor.name", "vendor.id"])["vendor"] == {"name": "Acme", "id": 7}
    assert select(shown, []).keys() == {"object_id", "bucket_id"}


def test_a_write_says_what_to_do_next() -> None:
    draft = show(obj(), consistency=True)["consistency"]
    assert [action["action"] for action in draft["next_actions"]] == ["create_batch"]
    assert written_headers(obj()) == {}
    queued = obj(status="QUEUED", auto_process=True, batch_id="btch_1")
    actions = show(queued, consistency=True)["consistency"]["next_actions"]
    assert actions[0]["endpoint"] == "/v1/buckets/bkt_1/batches/btch_1"
    assert written_headers(queued)["X-Task-Id"] == actions[1]["task_id"]


def test_warnings_of_the_latest_run_are_shown_until_the_next_one() -> None:
    told = ["'a.bin' (application/octet-stream) is read by no collection of the bucket"]
    shown = show(obj(status="COMPLETED", warnings=told))
    assert shown["_internal"] == {"warnings": told}
    parsed = ObjectResponse.from_dict(shown)
    assert parsed is not None
    assert parsed.to_dict()["_internal"] == {"warnings": told}
    assert select(shown, ["_internal"])["_internal"] == {"warnings": told}
    for changes in ({"status": "PROCESSING", "warnings": told}, {"status": "COMPLETED", "warnings": []}, {}):
        assert "_internal" not in show(obj(**changes))


def test_declared_charset_is_no_detail_on_the_wire() -> None:
    details = {"filename": None, "size_bytes": 3, "mime_type": "text/plain", "hash": "sha256:ab", "charset": "koi8-r"}
    [shown] = show(obj(blobs=[{**STORED, "details": details}]))["blobs"]
    assert shown["details"] == {"filename": None, "size_bytes": 3, "mime_type": "text/plain", "hash": "sha256:ab"}
