"""What gets a URL and what does not, without a server."""

from typing import Any

import pytest

from bucketline.errors import ValidationFailed
from bucketline.ids import CountingIds
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.uploads.schemas import CreateUpload
from bucketline_ingest_api.uploads.validation import UploadDraft, default_property, validate_upload

SETTINGS = ApiSettings()


def bucket(properties: dict[str, Any] | None = None, **more: Any) -> Any:
    schema = {"properties": properties or {"invoice": {"type": "pdf"}, "sku": {"type": "string"}}}
    return {"_id": "bkt_1", "namespace_id": "ns_1", "schema": schema, "unique_key": None, **more}


def read(found: Any, shared_object: dict[str, Any] | None = None, **body: Any) -> UploadDraft:
    request = CreateUpload.model_validate({"filename": "a-17.pdf", "content_type": "application/pdf", **body})
    return validate_upload(found, request, SETTINGS, CountingIds(), shared_object=shared_object)


def test_defaults_come_from_the_schema() -> None:
    draft = read(bucket(), shared_object={"sku": "shared"}, object_metadata={"sku": "own"})
    assert (draft.blob_property, draft.blob_type) == ("invoice", "pdf")
    assert draft.object_metadata == {"sku": "own"}


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"a": {"type": "pdf"}, "b": {"type": "image"}}, "clip"),
        ({"a": {"type": "string"}}, "clip"),
        ({"a": {"type": "video"}}, "a"),
    ],
)
def test_the_property_without_a_name(properties: dict[str, Any], name: str) -> None:
    assert default_property(bucket(properties), "clip.mp4") == name


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"content_type": "image/png"}, "content_type"),
        ({"blob_property": "nothing"}, "blob_property"),
        ({"blob_property": "sku"}, "blob_property"),
        ({"blob_type": "image"}, "blob_type"),
        ({"blob_type": "nothing"}, "blob_type"),
        ({"object_metadata": {"sku": 1}}, "object_metadata"),
        ({"object_metadata": {"status": "DONE"}}, "object_metadata"),
        ({"object_metadata": {"blobs": []}}, "object_metadata"),
        ({"metadata": {"big": 2**70}}, "metadata"),
    ],
)
def test_faults_say_where_they_are(body: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        read(bucket(), **body)
    assert place in {str(part) for fault in refused.value.issues for part in fault["location"]}  # type: ignore[union-attr]


def test_without_an_object_the_schema_says_nothing() -> None:
    draft = read(bucket(), create_object_on_confirm=False, content_type="image/png", blob_property="anything")
    assert (draft.blob_property, draft.blob_type) == ("anything", "image")


def test_what_the_schema_requires_is_wanted_at_once() -> None:
    required = {"invoice": {"type": "pdf"}, "sku": {"type": "string", "required": True}}
    with pytest.raises(ValidationFailed):
        read(bucket(required))
    assert read(bucket(required), object_metadata={"sku": "A"}).unique_key is None
    keyed = bucket(required, unique_key={"fields": ["sku"], "default_policy": "insert"})
    assert read(keyed, object_metadata={"sku": "A"}).unique_key is not None


@pytest.mark.parametrize("name", ["../a", "a\\b", "a\x00b", "", "a" * 256])
def test_file_names(name: str) -> None:
    with pytest.raises(ValueError, match="filename"):
        CreateUpload(filename=name, content_type="application/pdf")
