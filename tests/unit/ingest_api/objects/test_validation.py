"""Validation of create requests, and the documents of new objects."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import ObjectDocument
from bucketline.domain.blob_sources import InlineSource, JsonSource, from_document
from bucketline.errors import Forbidden, NotFound, ValidationFailed
from bucketline.ids import CountingIds
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.validation import ObjectDraft, ensure_writable, new_object, validate_create
from bucketline_ingest_api.settings import ApiSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA: dict[str, object] = {
    "properties": {
        "note": {"type": "text"},
        "photo": {"type": "image"},
        "size": {"type": "integer"},
        "sku": {"type": "string"},
        "region": {"type": "string", "default": "eu"},
    }
}


def bucket(**changes: Any) -> BucketDocument:
    found: dict[str, Any] = {
        "_id": "bkt_1",
        "namespace_id": "ns_1",
        "name": "b",
        "description": None,
        "schema": SCHEMA,
        "unique_key": None,
        "metadata": {},
        "storage_class": "standard",
        "settings": {},
        "created_at": NOW,
        "updated_at": NOW,
        **changes,
    }
    return found  # type: ignore[return-value]


def draft(body: dict[str, Any], **changes: Any) -> ObjectDraft:
    return validate_create(bucket(**changes), CreateObject.model_validate(body), ApiSettings(), CountingIds())


def made(body: dict[str, Any], batch_id: str | None = None, **changes: Any) -> ObjectDocument:
    return new_object(
        bucket(**changes),
        draft(body, **changes),
        object_id="obj_1",
        batch_id=batch_id,
        now=NOW,
        due_at=NOW + timedelta(seconds=15),
    )


def faults(body: dict[str, Any], **changes: Any) -> list[list[object]]:
    with pytest.raises(ValidationFailed) as caught:
        made(body, **changes)
    return [list(fault["location"]) for fault in caught.value.issues]  # type: ignore[arg-type]


def test_new_object_is_a_draft_with_a_pending_mirror() -> None:
    document = made({"blobs": [{"property": "note", "data": "x"}]})
    assert (document["status"], document["run"], document["revision"]) == ("DRAFT", {"id": 0, "rank": 0}, 1)
    assert document["mirror"] == {"state": "pending", "attempts": 0, "due_at": NOW + timedelta(seconds=15)}
    assert "batch_id" not in document


def test_new_object_with_a_batch_is_queued_in_its_first_run() -> None:
    document = made({}, batch_id="btch_1")
    assert (document["status"], document["run"], document["batch_id"]) == ("QUEUED", {"id": 1, "rank": 1}, "btch_1")
    assert document["auto_process"]


def test_blob_options_default_to_those_of_the_object() -> None:
    body = {
        "canonicalize_source": False,
        "force_remirror": True,
        "blobs": [{"property": "note", "data": "x"}, {"property": "note", "data": "y", "canonicalize_source": True}],
    }
    first, second = made(body)["blobs"]
    assert (first["canonicalize"], first["force"]) == (False, True)
    assert (second["canonicalize"], second["force"]) == (True, True)


def test_blob_with_free_form_data_has_no_source() -> None:
    (blob,) = made({"blobs": [{"property": "photo", "data": {"width": 3}, "metadata": {"by": "Ada"}}]})["blobs"]
    assert (blob["state"], blob["source"]) == ("none", None)
    assert blob["properties"] == {"width": 3, "by": "Ada"}


def test_blob_with_keys_beside_the_url_keeps_them_as_properties() -> None:
    (blob,) = made({"blobs": [{"property": "photo", "data": {"url": "https://a.example/b.png", "alt": "x"}}]})["blobs"]
    assert blob["source"] == {"kind": "url", "url": "https://a.example/b.png"}
    assert blob["properties"] == {"alt": "x"}


@pytest.mark.parametrize(
    ("name", "data", "content", "mime_type"),
    [
        ("note", "häl", "häl".encode(), "text/plain; charset=utf-8"),
        ("note", {"text": "x"}, b"x", "text/plain; charset=utf-8"),
        ("size", 3, b"3", "application/json"),
        ("photo", {"base64": "AAEC", "mime_type": "image/png", "filename": "a.png"}, b"\0\1\2", "image/png"),
        ("photo", {"base64": "AAEC"}, b"\0\1\2", None),
        ("photo", "data:image/gif;base64,AAEC", b"\0\1\2", "image/gif"),
    ],
)
def test_source_of_inline_content_holds_its_hash_size_and_declared_type(
    name: str, data: object, content: bytes, mime_type: str | None
) -> None:
    (blob,) = made({"blobs": [{"property": name, "data": data}]})["blobs"]
    source = blob["source"]
    assert source is not None
    assert (source["size"], source["mime_type"]) == (len(content), mime_type)
    assert source["sha256"] == hashlib.sha256(content).hexdigest()
    read = from_document(source)
    assert isinstance(read, InlineSource)
    assert read.content() == content


def test_blob_value_must_have_the_declared_type() -> None:
    (blob,) = made({"blobs": [{"property": "size", "data": 3}]})["blobs"]
    assert from_document(blob["source"] or {}) == JsonSource(3)
    assert faults({"blobs": [{"property": "size", "data": "three"}]}) == [["body", "blobs", 0, "data"]]


def test_blob_metadata_named_like_a_file_property_is_not_promoted() -> None:
    document = made({"blobs": [{"property": "note", "data": "x", "metadata": {"photo": "a.png", "color": "red"}}]})
    assert document["custom"] == {"color": "red", "region": "eu"}


def test_content_key_needs_the_hash_of_every_blob() -> None:
    inline = {"property": "note", "data": "x"}
    far = {"property": "photo", "data": "https://a.example/b.png"}
    digest = hashlib.sha256(b"y").hexdigest()
    assert "content_key" in made({"blobs": [inline]})
    assert "content_key" not in made({"blobs": [inline, far]})
    assert "content_key" in made({"blobs": [inline, {**far, "checksum": digest}]})
    assert "content_key" not in made({})


def test_unique_key_includes_defaults_and_ignores_the_order_of_fields() -> None:
    one = made({"sku": "A"}, unique_key={"fields": ["sku", "region"], "default_policy": None})
    two = made({"sku": "A", "region": "eu"}, unique_key={"fields": ["region", "sku"], "default_policy": None})
    assert one["unique_key"] == two["unique_key"]
    assert faults({"region": "us"}, unique_key={"fields": ["sku"], "default_policy": None}) == [["body", "sku"]]


def test_missing_required_fields_are_refused_for_new_objects_only() -> None:
    schema = {"properties": {"note": {"type": "text", "required": True}, "sku": {"type": "string", "required": True}}}
    assert draft({}, schema=schema).incomplete
    assert faults({}, schema=schema) == [["body", "sku"], ["body", "blobs"]]


def test_validate_create_reports_all_faults_together() -> None:
    body = {"blobs": [{"property": "nope", "data": "x"}, {"property": "note"}], "status": "x", "$a": 1}
    assert faults(body) == [
        ["body", "status"],
        ["body", "$a"],
        ["body", "blobs", 0, "property"],
        ["body", "blobs", 1],
    ]


def test_ensure_writable_refuses_locked_and_deleted_buckets() -> None:
    with pytest.raises(Forbidden):
        ensure_writable(bucket(is_locked=True))
    with pytest.raises(NotFound):
        ensure_writable(bucket(deleting=True))
    ensure_writable(bucket())
