"""Whatever a body, a path or a query holds, it is answered in the envelope and never with a 500."""

from collections.abc import Iterator

import pytest
from tests.integration.ingest_api.conftest import Answer, Replica

from bucketline.domain import field_validation

pytestmark = pytest.mark.stack

HOSTILE = {
    "NUL": b'"a\\u0000b"',
    "half a surrogate pair": b'"\\ud800"',
    "huge integer": b"1" + b"0" * 30,
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "an operator": b'{"$where": "1"}',
    "deep": b"[" * 2000 + b"]" * 2000,
    "a long text": b'"' + b"x" * 300_000 + b'"',
    "an empty key": b'{"": 1}',
    "a list": b"[1, null]",
    "true": b"true",
    "null": b"null",
    "the end of time": b'"9999-12-31T23:59:59-12:00"',
}
ROUTES = [
    ("POST", "/v1/namespaces", ("namespace_name", "namespace_id", "description", "ttl_seconds", "features")),
    ("PATCH", "/v1/namespaces/demo", ("namespace_name", "description", "ttl_seconds", "expires_at", "anything")),
    ("POST", "/v1/namespaces/list", ("search", "filters", "sort", "limit", "cursor")),
    (
        "POST",
        "/v1/buckets",
        ("bucket_name", "bucket_schema", "unique_key", "description", "metadata", "settings", "storage_class"),
    ),
    ("PATCH", "/v1/buckets/b", ("bucket_name", "bucket_schema", "unique_key", "metadata", "settings", "is_locked")),
    ("POST", "/v1/buckets/list", ("search", "filters", "sort", "sorts", "offset", "page", "case_sensitive")),
    ("POST", "/v1/collections", ("collection_name", "source", "feature_extractor", "metadata", "enabled")),
    ("PATCH", "/v1/collections/c", ("collection_name", "metadata", "enabled", "source")),
    ("POST", "/v1/collections/list", ("search", "filters", "sort", "after")),
    ("POST", "/v1/collections/c/trigger", ("object_ids", "source_filters", "include_buckets", "dedup_strategy")),
    ("POST", "/v1/collections/c/documents/list", ("search", "filters", "sort", "include_total")),
    ("POST", "/v1/tasks/list", ("search", "filters", "sort", "status", "task_type")),
    ("POST", "/v1/organizations/users/a@b.c/api-keys", ("name", "permissions", "scopes", "expires_at", "description")),
    ("PATCH", "/v1/organizations/users/a@b.c/api-keys/k", ("name", "permissions", "scopes", "status")),
]
GOOD = {
    "/v1/namespaces": b'"namespace_name": "fresh"',
    "/v1/buckets": b'"bucket_name": "fresh", "bucket_schema": {"properties": {}}',
    "/v1/collections": b'"collection_name": "fresh", "source": {"type": "bucket", "bucket_ids": ["b"]}, '
    b'"feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"}',
    "/v1/organizations/users/a@b.c/api-keys": b'"name": "fresh"',
}


def bodies(path: str, fields: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """One field after the other is hostile, or holds something hostile; the rest is fine."""
    good = GOOD.get(path)
    for field in fields:
        for kind, value in HOSTILE.items():
            for place in (value, b'{"field": ' + value + b"}", b'{"properties": {"a": ' + value + b"}}"):
                name = f'"{field}"'.encode()
                rest = b", " + good if good and name not in good else b""
                yield f"{field}: {kind}", b"{" + name + b": " + place + rest + b"}"


def enveloped(answer: Answer) -> bool:
    return answer.status < 300 or (
        answer.status in (400, 403, 404, 409, 413, 422)
        and answer.body["success"] is False
        and answer.body["status"] == answer.status
    )


@pytest.mark.parametrize(("method", "path", "fields"), ROUTES, ids=lambda value: str(value)[:50])
async def test_bodies(replica: Replica, method: str, path: str, fields: tuple[str, ...]) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    schema = {"properties": {"a": {"type": "string"}}}
    await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": schema}, namespace="demo")
    collection = {
        "collection_name": "coll",
        "source": {"type": "bucket", "bucket_ids": ["b"]},
        "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"},
    }
    made = await replica.make("/v1/collections", collection, namespace="demo")
    path = path.replace("/collections/c", f"/collections/{made['collection_id']}")
    for what, body in bodies(path, fields):
        answer = await replica.call(method, path, raw=body, namespace="demo")
        assert enveloped(answer), (method, path, what, body[:200], answer)


@pytest.mark.parametrize(
    "part", ["%00", "%ff%fe", "..%2f..", "x" * 5000, "%24where", "%F0%9F%92%A9", "{}", "a b", "%0d%0aX-Evil:%201"]
)
async def test_paths_and_queries(replica: Replica, part: str) -> None:
    from urllib.parse import unquote

    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    segment = unquote(part, errors="replace")
    for path in ("namespaces", "buckets", "collections", "tasks", "organizations/users"):
        answer = await replica.call("GET", f"/v1/{path}/{segment}", namespace="demo")
        assert answer.status in (404, 405), (path, answer)
        assert enveloped(answer) or answer.status == 405
    for query in (f"search={part}", f"cursor={part}", f"limit={part}", f"page={part}"):
        answer = await replica.call("GET", f"/v1/buckets?{query}", namespace="demo")
        assert enveloped(answer), (query, answer)


async def test_no_record_can_be_filled_with_free_form_data(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of MongoDB is full at some size, and others have to add to it."""
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    schema = {"properties": {"file": {"type": "pdf"}}}
    await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": schema}, namespace="demo")
    made = await replica.make("/v1/buckets/b/objects", {"name": "one"}, namespace="demo")
    ids = {"object_ids": [made["object_id"]]}
    batch = await replica.make("/v1/buckets/b/batches", {**ids, "metadata": {"a": "small"}}, namespace="demo")
    extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}
    collection = {
        "collection_name": "coll",
        "source": {"type": "bucket", "bucket_ids": ["b"]},
        "feature_extractor": extractor,
    }
    await replica.make("/v1/collections", collection, namespace="demo")
    upload = {"filename": "a.pdf", "content_type": "application/pdf"}
    metadata = {"metadata": {"a": "x" * 1000}}
    monkeypatch.setattr(field_validation, "MAX_FREE_FORM_BYTES", 1000)
    for method, path, body in (
        ("POST", "/v1/buckets", {"bucket_name": "c", "bucket_schema": schema, **metadata}),
        ("PATCH", "/v1/buckets/b", metadata),
        ("POST", "/v1/collections", {**collection, "collection_name": "other", **metadata}),
        ("PATCH", "/v1/collections/coll", metadata),
        ("POST", "/v1/buckets/b/uploads", {**upload, **metadata}),
        ("POST", "/v1/buckets/b/uploads", {**upload, "object_metadata": metadata}),
        ("POST", "/v1/buckets/b/uploads/batch", {"uploads": [upload], "shared_metadata": metadata}),
        ("POST", "/v1/buckets/b/batches", {**ids, **metadata}),
        ("PATCH", f"/v1/buckets/b/batches/{batch['batch_id']}", metadata),
    ):
        answer = await replica.call(method, path, body, namespace="demo")
        assert answer.status == 422, (method, path, answer)
        assert "at most 1000 bytes" in str(answer.body), (method, path, answer)


async def test_empty_body_is_accepted_where_no_field_is_required(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    for path in ("namespaces", "buckets", "collections", "tasks"):
        for raw in (b"", b"{}", b"null"):
            answer = await replica.call("POST", f"/v1/{path}/list", raw=raw, namespace="demo")
            assert answer.status == 200, (path, raw, answer)


async def test_a_search_is_no_pattern(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    schema = {"properties": {"a": {"type": "string"}}}
    for name in ("plain", "(a+)+$ .*"):
        await replica.make("/v1/buckets", {"bucket_name": name, "bucket_schema": schema}, namespace="demo")
        await replica.call("DELETE", f"/v1/buckets/{name}", namespace="demo")
    for path, found in (("buckets", "bucket_name"), ("tasks", "additional_data")):
        listed = await replica.make(f"/v1/{path}/list", {"search": "(A+)+$ .*"}, namespace="demo")
        assert ["(a+)+$ .*" in str(row[found]) for row in listed["results"]] == [True], path
