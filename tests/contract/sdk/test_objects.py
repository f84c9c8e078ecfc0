"""Objects through the official clients and on the wire: creating, reading, listing."""

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from mixpeek import BucketObjectsApi, DocumentLineageApi
from mixpeek.exceptions import NotFoundException, UnprocessableEntityException
from mixpeek.models.create_object_request import CreateObjectRequest
from mixpeek.models.create_objects_batch_request import CreateObjectsBatchRequest
from mixpeek.models.create_objects_batch_response import CreateObjectsBatchResponse
from mixpeek.models.list_objects_request import ListObjectsRequest
from mixpeek.models.list_objects_response import ListObjectsResponse
from mixpeek.models.object_response import ObjectResponse
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse
from tests.contract.sdk.wire import Wire
from tests.waiting import eventually, present

pytestmark = pytest.mark.stack

SCHEMA = {
    "properties": {
        "note": {"type": "text"},
        "photo": {"type": "image"},
        "scans": {"type": "array", "items": {"type": "pdf"}},
        "sku": {"type": "string"},
        "qty": {"type": "integer"},
        "state": {"type": "string", "enum": ["open", "paid"]},
        "vendor": {"type": "object", "properties": {"name": {"type": "string"}}},
        "due": {"type": "date"},
        "currency": {"type": "string", "default": "EUR"},
    }
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()


@dataclass(frozen=True)
class Place:
    """A fresh bucket in a fresh namespace, with a client of each kind."""

    namespace: str
    bucket: str
    objects: BucketObjectsApi
    wire: Wire

    @property
    def path(self) -> str:
        return f"/v1/buckets/{self.bucket}/objects"

    async def create(self, body: dict[str, Any], **query: Any) -> dict[str, Any]:
        reply = await self.wire("POST", self.path, body, **query)
        assert reply.status == 200, reply.body
        parse(ObjectResponse, reply.body)
        found: dict[str, Any] = reply.body
        return found


@pytest.fixture
async def place(api: Api, sdk: Sdk) -> AsyncIterator[Place]:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_schema=SCHEMA)
    async with aiohttp.ClientSession() as session:
        yield Place(namespace, bucket, sdk.generated(BucketObjectsApi, namespace), Wire(api, namespace, session))


def note(text: str, **more: object) -> dict[str, Any]:
    return {"blobs": [{"property": "note", "type": "text", "data": text}], **more}


async def test_every_field_of_a_create_comes_back(place: Place) -> None:
    request = parse(
        CreateObjectRequest,
        {
            "key_prefix": "/2026/03/A-17",
            "blobs": [
                {
                    "property": "note",
                    "type": "text",
                    "data": "Friday",
                    "metadata": {"author": "Ada"},
                    "key_prefix": "n",
                },
                {"property": "photo", "type": "image", "data": {"base64": PNG, "mime_type": "image/png"}},
            ],
            "edges": [{"type": "replaces", "target_object_id": "obj_other", "direction": "in", "weight": 3}],
            "sku": "A-17",
            "qty": 4,
            "vendor": {"name": "Acme"},
            "undeclared": [1, {"two": None}],
        },
    )
    created = await call(place.objects.create_object_buckets, place.bucket, request)
    found = await call(place.objects.get_object_buckets, place.bucket, present(created.object_id))
    for shown in (created, found):
        assert present(shown.status).value == "DRAFT"
        assert shown.bucket_id == place.bucket
        assert shown.key_prefix == "/2026/03/A-17"
        first, second = present(shown.blobs)
        assert (first.var_property, second.var_property) == ("note", "photo")
        assert present(first.properties)["author"] == "Ada"
        assert first.key_prefix == "n"
        edge = present(shown.edges)[0]
        assert edge.direction == "in"
        assert edge.additional_properties == {"weight": 3}
        assert present(shown.source_details)[0].source_id == place.bucket
        custom = shown.additional_properties
        assert custom["vendor"] == {"name": "Acme"}
        assert custom["undeclared"] == [1, {"two": None}]
        assert custom["author"] == "Ada", "metadata of a blob stands at the root too"
        assert custom["currency"] == "EUR", "the schema's default"
    assert created.document_count is None
    assert found.document_count == 0
    consistency = present(created.consistency)
    assert consistency.retriever_visible == "after_processing"
    assert present(consistency.next_actions)[0]["action"] == "create_batch"
    assert [b.blob_id for b in present(created.blobs)] == [b.blob_id for b in present(found.blobs)]


async def test_the_hand_written_client_uploads_and_lists(place: Place, sdk: Sdk) -> None:
    client = sdk.mixpeek(place.namespace)
    made = await call(
        client.buckets.upload, place.bucket, data="hello", blob_property="note", blob_type="text", metadata={"a": 1}
    )
    assert made["metadata"] == {"a": 1}, "an object-level metadata is a custom field like any other"
    listed = await call(client.buckets.list_objects, place.bucket, page_size=5)
    assert [row["object_id"] for row in listed["results"]] == [made["object_id"]]


async def test_free_form_data_and_upper_case_types_are_taken(place: Place) -> None:
    blob = {
        "property": "scans",
        "type": "PDF",
        "data": {"num_pages": 5, "title": "Service Agreement"},
        "metadata": {"author": "A. Writer"},
    }
    made = await place.create({"key_prefix": "/contract-2024", "blobs": [blob]})
    shown = made["blobs"][0]
    assert shown["type"] == "pdf"
    assert shown["properties"] == {"num_pages": 5, "title": "Service Agreement", "author": "A. Writer"}
    assert shown["details"] is None


async def test_root_fields_win_over_metadata_and_reserved_names_stay_on_the_blob(place: Place) -> None:
    first = {"property": "note", "data": "a", "metadata": {"sku": "from blob", "color": "red", "status": "mine"}}
    second = {"property": "note", "data": "b", "metadata": {"color": "blue"}}
    made = await place.create({"blobs": [first, second], "sku": "from root"})
    assert made["sku"] == "from root"
    assert made["color"] == "red"
    assert made["status"] == "DRAFT"
    assert made["blobs"][0]["properties"]["status"] == "mine"


async def test_a_checksum_is_shown_and_checked(place: Place) -> None:
    digest = hashlib.sha256(b"hello").hexdigest()
    blob = {"property": "note", "data": "hello", "checksum": digest.upper()}
    made = await place.create({"blobs": [blob]})
    assert made["blobs"][0]["details"]["hash"] == f"sha256:{digest}"
    wrong = await place.wire("POST", place.path, {"blobs": [{**blob, "data": "other"}]})
    assert wrong.status == 422
    assert wrong.faults == {"body.blobs.0.checksum": "checksum"}


FAULTY: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"blobs": [{"property": "nope", "data": "x"}]}, {"body.blobs.0.property": "unknown_property"}),
    ({"blobs": [{"property": "note", "type": "image", "data": "x"}]}, {"body.blobs.0.type": "type_mismatch"}),
    ({"blobs": [{"property": "note", "type": "json", "data": "x"}]}, {"body.blobs.0.type": "enum"}),
    ({"blobs": [{"property": "note"}]}, {"body.blobs.0": "data_or_upload_id"}),
    ({"blobs": [{"property": "note", "data": "x", "upload_id": "upl_1"}]}, {"body.blobs.0": "data_or_upload_id"}),
    ({"blobs": [{"property": "note", "upload_id": "upl_nope"}]}, {"body.blobs.0.upload_id": "upload_not_found"}),
    ({"blobs": [{"property": "photo", "data": {"base64": "%%"}}]}, {"body.blobs.0.data": "blob_data"}),
    ({"blobs": [{"property": "note", "data": "x", "checksum": "no"}]}, {"body.blobs.0.checksum": "checksum"}),
    ({"blobs": [{"data": "x"}]}, {"body.blobs.0.property": "missing"}),
    ({"qty": "four", "state": "lost"}, {"body.qty": "integer_type", "body.state": "enum"}),
    ({"vendor": {"name": 3}}, {"body.vendor.name": "string_type"}),
    ({"due": "tomorrow"}, {"body.due": "date_type"}),
    ({"photo": "a.jpg"}, {"body.photo": "file_expected"}),
    ({"object_id": "mine", "_internal": {}}, {"body.object_id": "reserved", "body._internal": "reserved"}),
    ({"auto_process": True}, {"body.auto_process": "extra_forbidden"}),
    ({"idempotency_key": "k" * 256}, {"body.idempotency_key": "string_too_long"}),
    ({"edges": [{"type": "x"}]}, {"body.edges.0.target_object_id": "missing"}),
    ({"skip_duplicates": "yes"}, {"body.skip_duplicates": "bool_type"}),
    ({"big": 2**64}, {"body.big": "int_size"}),
    ({"$where": 1}, {"body.$where": "field_name"}),
    ({"a": {"$ref": "x", "$id": 1}}, {"body.a.$ref": "field_name", "body.a.$id": "field_name"}),
    ({"blobs": [{"property": "note", "data": {"$ref": "x"}}]}, {"body.blobs.0.data.$ref": "field_name"}),
]


@pytest.mark.parametrize(("body", "faults"), FAULTY, ids=[str(faults)[:60] for _, faults in FAULTY])
async def test_a_faulty_object_is_refused_with_a_row_for_each_fault(
    place: Place, body: dict[str, Any], faults: dict[str, str]
) -> None:
    reply = await place.wire("POST", place.path, body)
    assert reply.status == 422
    assert reply.error["type"] == "ValidationError"
    assert reply.faults == faults
    listed = await place.wire("GET", place.path)
    assert listed.body["results"] == [], "a refused object was stored"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a\\u0000b": 1}',
        b"\xff",
        b"[" * 9000,
    ],
)
async def test_odd_bodies_are_refused(place: Place, raw: bytes) -> None:
    reply = await place.wire("POST", place.path, raw=raw)
    assert reply.status == 422
    assert reply.faults


async def test_a_body_that_is_not_json_is_refused(place: Place) -> None:
    reply = await place.wire("POST", place.path, raw=b"a=1", headers={"Content-Type": "text/plain"})
    assert reply.status == 422
    assert reply.faults == {"header.content-type": "content_type"}


async def test_the_generated_client_raises_on_faults_and_unknown_ids(place: Place) -> None:
    with pytest.raises(UnprocessableEntityException):
        await call(place.objects.create_object_buckets, place.bucket, parse(CreateObjectRequest, {"qty": "x"}))
    with pytest.raises(NotFoundException):
        await call(place.objects.get_object_buckets, place.bucket, "obj_missing")
    with pytest.raises(NotFoundException):
        await call(place.objects.list_objects_get_buckets, "bkt_missing")


async def test_an_idempotency_key_gives_the_first_object_again(place: Place) -> None:
    first = await place.create(note("one", idempotency_key="k-1", sku="A"))
    again = await place.create(note("two", idempotency_key="k-1", sku="B"))
    assert again["object_id"] == first["object_id"]
    assert again["sku"] == "A"
    assert again["updated_at"] == first["updated_at"]
    assert (await place.create(note("one", idempotency_key="k-2")))["object_id"] != first["object_id"]


async def test_skip_duplicates_gives_an_object_with_the_same_content(place: Place) -> None:
    first = await place.create(note("same"))
    plain = await place.create(note("same"))
    assert plain["object_id"] != first["object_id"], "without the flag equal content is another object"
    replayed = await place.create(note("same", skip_duplicates=True, sku="new"))
    assert replayed["object_id"] == first["object_id"]
    assert "sku" not in replayed
    more = note("same", skip_duplicates=True)
    more["blobs"].append({"property": "photo", "data": {"base64": PNG}})
    assert (await place.create(more))["object_id"] not in {first["object_id"], plain["object_id"]}
    without = await place.create({"skip_duplicates": True})
    assert (await place.create({"skip_duplicates": True}))["object_id"] != without["object_id"]


async def test_auto_process_names_the_batch_and_the_task(place: Place) -> None:
    reply = await place.wire("POST", place.path, note("now"), auto_process="true")
    assert reply.body["status"] == "QUEUED"
    batch_id, task_id = reply.headers["X-Batch-Id"], reply.headers["X-Task-Id"]
    actions = {action["action"]: action for action in reply.body["consistency"]["next_actions"]}
    assert actions["poll_batch"]["batch_id"] == batch_id
    assert actions["poll_task"]["task_id"] == task_id
    batch = await place.wire("GET", f"/v1/buckets/{place.bucket}/batches/{batch_id}")
    assert batch.status == 200
    assert batch.body["object_ids"] == [reply.body["object_id"]]
    task = await place.wire("GET", f"/v1/tasks/{task_id}")
    assert task.status == 200
    bad = await place.wire("POST", place.path, note("now"), auto_process="perhaps")
    assert bad.faults == {"query.auto_process": "bool_parsing"}


async def test_a_batch_of_objects_has_a_result_for_each(place: Place) -> None:
    bodies = [note("one"), {"blobs": [{"property": "missing", "type": "text", "data": "two"}]}, note("three", qty=3)]
    request = parse(CreateObjectsBatchRequest, {"objects": bodies})
    answer: CreateObjectsBatchResponse = await call(place.objects.create_objects_batch_buckets, place.bucket, request)
    assert (answer.total_requested, answer.succeeded_count, answer.failed_count) == (3, 2, 1)
    assert [row.object_index for row in answer.succeeded] == [0, 2]
    assert [row.replayed for row in answer.succeeded] == [False, False]
    assert answer.failed[0].object_index == 1
    assert answer.failed[0].error_type == "ValidationError"
    assert "missing" in answer.failed[0].error
    listed = await place.wire("GET", place.path)
    assert {row["object_id"] for row in listed.body["results"]} == {row.object_id for row in answer.succeeded}


async def test_batch_create_with_repeated_keys_replays_the_first_object(place: Place) -> None:
    before = await place.create(note("known"))
    rows = [
        note("known", skip_duplicates=True),
        note("a", idempotency_key="k"),
        note("b", idempotency_key="k"),
        note("new", skip_duplicates=True),
        note("new", skip_duplicates=True),
    ]
    reply = await place.wire("POST", f"{place.path}/batch", {"objects": rows})
    assert reply.status == 200, reply.body
    shown = reply.body["succeeded"]
    assert [row["replayed_by"] for row in shown] == [
        "skip_duplicates",
        None,
        "idempotency_key",
        None,
        "skip_duplicates",
    ]
    assert shown[0]["object_id"] == before["object_id"]
    assert shown[1]["object_id"] == shown[2]["object_id"]
    assert shown[3]["object_id"] == shown[4]["object_id"]


async def test_a_batch_in_which_all_fail_is_a_422_with_the_same_body(place: Place) -> None:
    reply = await place.wire("POST", f"{place.path}/batch", {"objects": [{"qty": "x"}, 7]})
    assert reply.status == 422
    assert reply.body["succeeded"] == []
    assert [row["object_index"] for row in reply.body["failed"]] == [0, 1]
    too_many = await place.wire("POST", f"{place.path}/batch", {"objects": [{}] * 101})
    assert too_many.faults == {"body.objects": "too_long"}
    none = await place.wire("POST", f"{place.path}/batch", {"objects": []})
    assert none.faults == {"body.objects": "too_short"}


async def test_a_stored_blob_can_be_downloaded(place: Place) -> None:
    made = await place.create(note("read me back"))
    path = f"{place.path}/{made['object_id']}"

    async def presigned() -> str | None:
        found = await place.wire("GET", path, return_presigned_urls="true")
        url: str | None = found.body["blobs"][0]["presigned_url"]
        return url

    url = await eventually(presigned)
    found = await call(place.objects.get_object_buckets, place.bucket, made["object_id"], return_presigned_urls=True)
    [blob] = present(found.blobs)
    properties = present(blob.properties)
    assert properties["presigned_url"]
    assert properties["url"].startswith("s3://")
    assert present(blob.details).hash == f"sha256:{hashlib.sha256(b'read me back').hexdigest()}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert await answer.read() == b"read me back"
    plain = await place.wire("GET", path)
    assert plain.body["blobs"][0]["presigned_url"] is None


@pytest.mark.parametrize(
    ("blob", "content"),
    [
        ({"property": "note", "type": "text", "data": "häl"}, "häl".encode()),
        ({"property": "note", "type": "text", "data": "x" * 300_000}, b"x" * 300_000),
        ({"property": "photo", "type": "image", "data": {"base64": PNG, "filename": "a.png"}}, base64.b64decode(PNG)),
        ({"property": "photo", "type": "image", "data": f"data:image/png;base64,{PNG}"}, base64.b64decode(PNG)),
        ({"property": "qty", "type": "integer", "data": 3}, b"3"),
    ],
    ids=["text", "large text", "base64", "data URI", "number"],
)
async def test_created_object_has_details_at_once_and_they_stay(
    place: Place, sdk: Sdk, blob: dict[str, Any], content: bytes
) -> None:
    request = parse(CreateObjectRequest, {"blobs": [blob]})
    made = await call(place.objects.create_object_buckets, place.bucket, request)
    [first] = present(made.blobs)
    details = present(first.details)
    assert details.size_bytes == len(content)
    assert details.hash == f"sha256:{hashlib.sha256(content).hexdigest()}"

    async def mirrored() -> Any:
        object_id = present(made.object_id)
        found = await call(place.objects.get_object_buckets, place.bucket, object_id, return_presigned_urls=True)
        [blob] = present(found.blobs)
        return blob if blob.presigned_url else None

    stored = await eventually(mirrored)
    assert (stored.details.size_bytes, stored.details.hash, stored.details.filename) == (
        details.size_bytes,
        details.hash,
        details.filename,
    )
    assert stored.properties["url"] == present(first.properties)["url"]
    by_hand = await call(sdk.mixpeek(place.namespace).buckets.upload, place.bucket, blobs=[blob])
    assert by_hand["blobs"][0]["details"]["size_bytes"] == len(content)


async def test_url_of_a_new_object_can_be_sent_at_once(place: Place) -> None:
    made = await place.create(note("to be used twice"))
    url = made["blobs"][0]["properties"]["url"]
    again = await place.create({"blobs": [{"property": "note", "data": url}]})

    async def mirrored() -> Any:
        found = await place.wire("GET", f"{place.path}/{again['object_id']}")
        assert found.body["status"] == "DRAFT", found.body["error"]
        return found.body["blobs"][0]["details"]

    assert (await eventually(mirrored))["hash"] == made["blobs"][0]["details"]["hash"]


async def test_large_inline_content_is_stored_whole(place: Place) -> None:
    text = "0123456789abcdef" * 200_000
    made = await place.create(note(text))
    path = f"{place.path}/{made['object_id']}"

    async def details() -> Any:
        (blob,) = (await place.wire("GET", path, return_presigned_urls="true")).body["blobs"]
        return blob["details"] if blob["presigned_url"] else None

    assert made["blobs"][0]["details"]["size_bytes"] == len(text)
    stored = await eventually(details)
    assert stored["size_bytes"] == len(text)
    assert stored["hash"] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


async def test_fields_that_no_document_could_hold_are_refused(place: Place) -> None:
    reply = await place.wire("POST", place.path, {f"f{n}": "x" * 1_000_000 for n in range(13)})
    assert reply.status == 413
    assert reply.error["type"] == "PayloadTooLargeError"


async def test_documents_of_an_object(place: Place, api: Api, sdk: Sdk) -> None:
    lineage = sdk.generated(DocumentLineageApi, place.namespace)
    draft = await place.create(note("not yet"))
    before = await call(lineage.get_documents_by_object, draft["object_id"])
    assert before["total_documents"] == 0
    collection = await api.collection(place.namespace, place.bucket)
    made = await place.create(note("now"), auto_process="true")

    async def counted() -> Any:
        return (await place.wire("GET", f"{place.path}/{made['object_id']}")).body["document_count"]

    assert await eventually(counted, deadline=60) == 1
    after = await place.wire("GET", f"/v1/objects/{made['object_id']}/documents", collection_ids=collection)
    assert after.body["total_documents"] == 1
    assert after.body["documents"][0]["collection_id"] == collection
    other = await place.wire("GET", f"/v1/objects/{made['object_id']}/documents", collection_ids="col_other")
    assert other.body["documents"] == []


async def test_lists_page_by_cursor_and_by_number(place: Place) -> None:
    ids = [(await place.create(note(str(n))))["object_id"] for n in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await call(place.objects.list_objects_get_buckets, place.bucket, limit=3, cursor=cursor)
        assert isinstance(page, ListObjectsResponse)
        seen += [present(row.object_id) for row in page.results]
        cursor = page.pagination.next_cursor
        if not cursor:
            break
    assert seen == ids, "oldest first, each once"
    second = await place.wire("GET", place.path, page_size="3", page="2", include_total="true")
    assert [row["object_id"] for row in second.body["results"]] == ids[3:6]
    assert second.body["pagination"]["total"] == 7
    assert second.body["pagination"]["total_pages"] == 3
    body = await place.wire("POST", f"{place.path}/list", {"limit": 2, "offset": 5}, limit="7")
    assert [row["object_id"] for row in body.body["results"]] == ids[5:]
    assert (await place.wire("GET", place.path, limit="1001")).status == 422
    assert (await place.wire("GET", place.path, cursor="bogus")).status == 400


async def test_an_empty_body_lists_everything(place: Place) -> None:
    made = await place.create(note("x"))
    reply = await place.wire("POST", f"{place.path}/list", raw=b"")
    assert [row["object_id"] for row in reply.body["results"]] == [made["object_id"]]
    assert reply.body["stats"] == {
        "total_objects": 1,
        "total_blobs": 1,
        "avg_blobs_per_object": 1.0,
        "objects_by_status": {"DRAFT": 1},
    }


async def test_lists_filter_sort_search_and_select(place: Place) -> None:
    rows = [("A-1", 1, "open", "Acme"), ("A-2", 5, "open", "Bolt"), ("B-3", 9, "paid", "acme")]
    for sku, qty, state, vendor in rows:
        await place.create(note(sku, sku=sku, qty=qty, state=state, vendor={"name": vendor}, key_prefix=f"/k/{sku}"))

    async def skus(body: dict[str, Any]) -> list[str]:
        reply = await place.wire("POST", f"{place.path}/list", body)
        assert reply.status == 200, reply.body
        return [row["sku"] for row in reply.body["results"]]

    request = parse(
        ListObjectsRequest,
        {
            "filters": {
                "AND": [
                    {"field": "state", "operator": "eq", "value": "OPEN"},
                    {"field": "qty", "operator": "gte", "value": 2},
                ]
            },
            "sort": {"field": "created_at", "direction": "desc"},
        },
    )
    listed = await call(place.objects.list_objects_buckets, place.bucket, list_objects_request=request)
    assert [row.additional_properties["sku"] for row in listed.results] == ["A-2"]
    assert await skus({"filters": {"vendor.name": "acme"}}) == ["A-1", "B-3"]
    assert await skus({"filters": {"blobs.property": "note", "status": "DRAFT", "NOT": [{"sku": "A-1"}]}}) == [
        "A-2",
        "B-3",
    ]
    assert await skus({"sort": {"field": "qty", "direction": "desc"}}) == ["B-3", "A-2", "A-1"]
    assert await skus({"sort": {"field": "status"}, "limit": 2}) == ["A-1", "A-2"]
    assert await skus({"search": "acme"}) == ["A-1", "B-3"]
    assert await skus({"search": "/k/a-"}) == ["A-1", "A-2"]
    assert await skus({"search": "."}) == [], "a search is text, not a pattern"
    selected = await place.wire(
        "POST", f"{place.path}/list", {"select": ["status", "vendor.name"], "filters": {"sku": "A-1"}}
    )
    (only,) = selected.body["results"]
    assert only.keys() == {"object_id", "bucket_id", "status", "vendor"}
    parse(ListObjectsResponse, selected.body)
    assert (await place.wire("POST", f"{place.path}/list", {"filters": {"AND": 3}})).status == 422


async def test_nothing_of_another_namespace_can_be_reached(place: Place, api: Api) -> None:
    made = await place.create(note("secret"))
    stranger = await api.namespace()
    elsewhere = await api.bucket(stranger)
    async with aiohttp.ClientSession() as session:
        wire = Wire(api, stranger, session)
        theirs = f"/v1/buckets/{elsewhere}/objects/{made['object_id']}"
        ours = f"{place.path}/{made['object_id']}"
        for path in (theirs, ours):
            for method, body in (("GET", None), ("PATCH", {"a": 1}), ("PUT", {"metadata": {"a": 1}}), ("DELETE", None)):
                assert (await wire(method, path, body)).status == 404, (method, path)
        attempts: list[tuple[str, str, object]] = [
            ("GET", place.path, None),
            ("POST", f"{place.path}/list", {}),
            ("POST", place.path, note("x")),
            ("POST", f"{place.path}/batch", {"objects": [note("x")]}),
            ("GET", f"/v1/objects/{made['object_id']}/documents", None),
        ]
        for method, path, content in attempts:
            assert (await wire(method, path, content)).status == 404, (method, path)
    assert (await place.wire("GET", ours)).status == 200
