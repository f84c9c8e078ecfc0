"""Validation of new uploads."""

from typing import Any

import pytest

from bucketline.errors import ValidationFailed
from bucketline.ids import CountingIds
from bucketline_ingest_api.objects.validation import UniqueKeyValue
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.uploads.schemas import CreateUpload
from bucketline_ingest_api.uploads.service import default_property, validate_upload

SETTINGS = ApiSettings()


def bucket(properties: dict[str, Any] | None = None, **more: Any) -> Any:
    schema = {"properties": properties or {"invoice": {"type": "pdf"}, "sku": {"type": "string"}}}
    return {"_id": "bkt_1", "namespace_id": "ns_1", "schema": schema, "unique_key": None, **more}


def read(found: Any, **body: Any) -> tuple[CreateUpload, UniqueKeyValue | None]:
    request = CreateUpload.model_validate({"filename": "a-17.pdf", "content_type": "application/pdf", **body})
    return validate_upload(found, request, SETTINGS, CountingIds())


def test_validate_without_property_and_type_takes_them_from_the_schema() -> None:
    upload, _ = read(bucket(), object_metadata={"sku": "own"})
    assert (upload.blob_property, upload.blob_type) == ("invoice", "pdf")


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"a": {"type": "pdf"}, "b": {"type": "image"}}, "clip"),
        ({"a": {"type": "string"}}, "clip"),
        ({"a": {"type": "video"}}, "a"),
    ],
)
def test_default_property_is_the_only_file_property_or_the_file_name(properties: dict[str, Any], name: str) -> None:
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
def test_validate_of_an_invalid_upload_locates_the_fault(body: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        read(bucket(), **body)
    assert place in {str(part) for fault in refused.value.issues for part in fault["location"]}  # type: ignore[union-attr]


def test_validate_without_an_object_ignores_the_schema() -> None:
    upload, _ = read(bucket(), create_object_on_confirm=False, content_type="image/png", blob_property="anything")
    assert (upload.blob_property, upload.blob_type) == ("anything", "image")


def test_validate_without_a_required_field_is_refused_at_once() -> None:
    required = {"invoice": {"type": "pdf"}, "sku": {"type": "string", "required": True}}
    with pytest.raises(ValidationFailed):
        read(bucket(required))
    assert read(bucket(required), object_metadata={"sku": "A"})[1] is None
    keyed = bucket(required, unique_key={"fields": ["sku"], "default_policy": "insert"})
    assert read(keyed, object_metadata={"sku": "A"})[1] is not None


@pytest.mark.parametrize("name", ["../a", "a\\b", "a\x00b", "", "a" * 256])
def test_create_upload_with_invalid_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="filename"):
        CreateUpload(filename=name, content_type="application/pdf")
