"""Comparison of sent and stored blobs and fields."""

from typing import Any

import pytest
from tests.unit.ingest_api.objects.test_validation import draft, made

from bucketline.db.objects import BlobDocument
from bucketline_ingest_api.objects.update import _changed_fields, _same_blobs

NOTE: dict[str, Any] = {"property": "note", "data": "x", "metadata": {"author": "Ada"}}
FAR: dict[str, Any] = {"property": "photo", "data": "https://a.example/b.png"}


def stored(blob: dict[str, Any]) -> BlobDocument:
    """Return the blob as dedup stores it: with details, and without its source."""
    sent = draft({"blobs": [blob]}).blobs
    assert sent is not None
    document = {**sent[0].document, "state": "stored", "source": None}
    document["details"] = {"filename": None, "size_bytes": 1, "mime_type": "text/plain", "hash": sent[0].hash or "?"}
    return document  # type: ignore[return-value]


def sent(*blobs: dict[str, Any]) -> Any:
    return draft({"blobs": list(blobs)}).blobs


def test_same_blobs_with_equal_inline_content_holds_before_and_after_mirroring() -> None:
    assert _same_blobs(made({"blobs": [NOTE]})["blobs"], sent(NOTE))
    assert _same_blobs([stored(NOTE)], sent(NOTE))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "y"},
        {"metadata": {"author": "Bob"}},
        {"key_prefix": "n"},
        {"force_remirror": True},
        {"canonicalize_source": False},
    ],
)
def test_same_blobs_with_another_option_or_content_fails(changes: dict[str, Any]) -> None:
    assert not _same_blobs([stored(NOTE)], sent({**NOTE, **changes}))


def test_same_blobs_with_another_declared_charset_fails() -> None:
    def encoded(mime_type: str) -> dict[str, Any]:
        return {"property": "note", "data": {"base64": "8PDx", "mime_type": mime_type}}

    before = stored(encoded("text/plain"))
    assert _same_blobs([before], sent(encoded("text/plain")))
    assert not _same_blobs([before], sent(encoded("text/plain; charset=koi8-r")))
    before["details"]["charset"] = "koi8-r"  # type: ignore[index]
    assert _same_blobs([before], sent(encoded("text/plain; charset=koi8-r")))
    assert _same_blobs([before], sent(encoded("text/plain"))), "no charset was declared"


def test_same_blobs_with_a_mirrored_url_fails() -> None:
    assert _same_blobs(made({"blobs": [FAR]})["blobs"], sent(FAR))
    assert not _same_blobs([stored(FAR)], sent(FAR)), "the content of the URL may have changed"


def test_same_blobs_with_a_failed_blob_fails() -> None:
    assert not _same_blobs([{**stored(NOTE), "state": "failed"}], sent(NOTE))


def test_same_blobs_with_another_number_or_order_fails() -> None:
    assert not _same_blobs([stored(NOTE)], sent(NOTE, NOTE))
    other = {**NOTE, "data": "y"}
    assert not _same_blobs([stored(NOTE), stored(other)], sent(other, NOTE))


def test_changed_fields_contains_only_differences() -> None:
    existing = made({"sku": "A", "key_prefix": "/a", "n": 1})
    assert _changed_fields(existing, draft({"sku": "A", "n": 1.0})) == {}
    assert _changed_fields(existing, draft({"key_prefix": None})) == {"key_prefix": None}
    assert _changed_fields(existing, draft({"n": True}))["custom"]["n"] is True  # type: ignore[index]
    changed = _changed_fields(existing, draft({"new": 2}))
    assert changed == {"custom": {"sku": "A", "n": 1, "new": 2, "region": "eu"}}
