"""Methods, slashes, names and health: what load balancers, browsers and careless clients send."""

from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica

from bucketline.observability.health import Check

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"a": {"type": "string"}}}
BUCKET = "/v1/buckets/b"
ALLOWED = {
    "/v1/health": "GET, HEAD, OPTIONS",
    "/v1/buckets": "GET, HEAD, OPTIONS, POST",
    f"{BUCKET}/objects": "GET, HEAD, OPTIONS, POST",
    f"{BUCKET}/objects/obj_1": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
    f"{BUCKET}/objects/list": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
    f"{BUCKET}/batches": "OPTIONS, POST",
    f"{BUCKET}/batches/btch_1": "DELETE, GET, HEAD, OPTIONS, PATCH",
    "/v1/collections/c/documents/doc_1": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
}


@pytest.fixture
async def home(replica: Replica) -> Replica:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": SCHEMA}, namespace="home")
    return replica


@pytest.mark.parametrize("path", ALLOWED)
@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "get"])
async def test_wrong_method_names_every_method_of_the_path(home: Replica, path: str, method: str) -> None:
    answer = await home.call(method, path, namespace="home")
    assert (answer.status, answer.headers["allow"]) == (405, ALLOWED[path])
    assert answer.body["error"]["type"] == "MethodNotAllowedError"
    assert answer.body["error"]["details"] == {"path": path, "allowed": ALLOWED[path].split(", ")}


@pytest.mark.parametrize("path", ALLOWED)
async def test_options_names_the_methods_without_a_key(home: Replica, path: str) -> None:
    answer = await home.call("OPTIONS", path, key="")
    assert (answer.status, answer.headers["allow"], answer.body) == (204, ALLOWED[path], None)
    assert "access-control-allow-origin" not in answer.headers
    assert (await home.call("OPTIONS", "/v1/nothing", key="")).status == 404


async def test_head_is_get_without_a_body(home: Replica) -> None:
    for path in ("/v1/health", "/v1/health/liveness", "/v1/health/", "/v1/buckets", BUCKET):
        got = await home.call("GET", path, namespace="home")
        answer = await home.call("HEAD", path, namespace="home")
        assert (answer.status, answer.body) == (200, None), path
        assert answer.headers["content-length"] == got.headers["content-length"]
    assert (await home.call("HEAD", "/v1/health", key="")).status == 200
    assert (await home.call("HEAD", "/v1/buckets", key="")).status == 401
    assert (await home.call("HEAD", f"{BUCKET}/batches", namespace="home")).status == 405
    assert (await home.call("HEAD", "/v1/buckets/unknown", namespace="home")).status == 404


async def test_slash_at_the_end_leads_to_the_same_route(home: Replica) -> None:
    made = await home.call("POST", f"{BUCKET}/objects/", {"a": "1"}, namespace="home")
    assert made.status == 200
    object_id = made.body["object_id"]
    got = await home.call("GET", f"{BUCKET}/objects/{object_id}/", namespace="home")
    assert (got.status, got.body["a"]) == (200, "1")
    listed = await home.call("POST", f"{BUCKET}/objects/list/?limit=5", {}, namespace="home")
    assert [row["object_id"] for row in listed.body["results"]] == [object_id]
    assert (await home.call("GET", "/v1/buckets/", namespace="home")).status == 200
    patched = await home.call("PATCH", f"{BUCKET}/objects/{object_id}/", {"a": "2"}, namespace="home")
    assert patched.body["a"] == "2"
    for path in ("/v1/buckets//", "//v1/buckets", "/V1/buckets", "/v1//buckets", "/"):
        answer = await home.call("GET", path, namespace="home")
        assert (answer.status, answer.body["success"], answer.body["status"]) == (404, False, 404), path
        assert "location" not in answer.headers


BAD_NAMES = {
    **dict.fromkeys(("a/b", "a?b", "a#b", "100%", "a%2Fb", "a\\b", "/"), "must not contain"),
    "bkt_00000000000000000001": "id", "col_06h2k4v9c3f8m1q7r5tw": "id", "ns_06h2k4v9c3f8m1q7r5tw": "id",
    "a\nb": "printable", "a\u0000b": "printable", "a\u200bb": "printable", "a\u202eb": "printable",
    " ab": "spaces", "ab ": "spaces", "..": "relative", ".": "relative",
}  # fmt: skip
GOOD_NAMES = ["...", "..a", "a.b", "in voices", "bkt_invoices", "col_x", "a+b", "a;b=c", "a&b", "@home", "name~1"]


def body_of(kind: str, name: str) -> dict[str, Any]:
    body: dict[str, Any] = {f"{kind}_name": name}
    if kind == "bucket":
        body["bucket_schema"] = SCHEMA
    if kind == "collection":
        extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}
        body |= {"source": {"type": "bucket", "bucket_ids": ["b"]}, "feature_extractor": extractor}
    return body


@pytest.mark.parametrize("kind", ["bucket", "collection", "namespace"])
async def test_name_that_cannot_be_in_a_path_is_refused(home: Replica, kind: str) -> None:
    for name, reason in BAD_NAMES.items():
        answer = await home.call("POST", f"/v1/{kind}s", body_of(kind, name), namespace="home")
        assert answer.status == 422, name
        rows = answer.body["error"]["details"]["validation_errors"]
        assert [row["location"] for row in rows] == [["body", f"{kind}_name"]]
        assert reason in rows[0]["message"] or "at least 3" in rows[0]["message"], (name, rows)
    made = await home.make(f"/v1/{kind}s", body_of(kind, "renamed"), namespace="home")
    path = f"/v1/{kind}s/{made[f'{kind}_id']}"
    assert (await home.call("PATCH", path, {f"{kind}_name": "a/b"}, namespace="home")).status == 422


@pytest.mark.parametrize("kind", ["bucket", "collection", "namespace"])
async def test_name_in_a_path_returns_its_resource(home: Replica, kind: str) -> None:
    names = [*GOOD_NAMES, *([] if kind == "namespace" else ["Rechnungen für Köln", "請求書です", "😀😀😀"])]
    for name in names:
        made = await home.make(f"/v1/{kind}s", body_of(kind, name), namespace="home")
        got = await home.call("GET", f"/v1/{kind}s/{name}", namespace="home")
        assert (got.status, got.body[f"{kind}_id"]) == (200, made[f"{kind}_id"]), name


async def test_deep_health_reports_the_components_that_exist(home: Replica) -> None:
    def check(*, good: bool) -> Check:
        async def run() -> None:
            if not good:
                raise OSError

        return run

    for name in ("mongodb", "s3", "kafka"):
        home.deps.health.ready_if(name, check(good=True))
    answer = await home.call("GET", "/v1/health/deep")
    assert answer.body == {
        "status": "OK",
        "data": {
            "metadata": True,
            "object_storage": True,
            "task_queue": True,
            "cache": False,
            "inference": False,
            "vector_store": False,
        },
        "errors": None,
        "meta": {
            "components": {"mongodb": True, "s3": True, "kafka": True},
            "not_deployed": ["cache", "inference", "vector_store"],
        },
    }
    home.deps.health.ready_if("s3", check(good=False))
    answer = await home.call("GET", "/v1/health/deep")
    assert (answer.body["status"], answer.body["errors"]) == ("DEGRADED", {"object_storage": "does not answer"})
    assert answer.body["data"]["object_storage"] is False
    assert answer.body["meta"]["components"]["s3"] is False
