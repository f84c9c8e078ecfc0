"""Real files of every kind over HTTP: the right documents, or a clear error on the object; the batch goes on."""

import base64
import io
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import Any

import docx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image
from pypdf import PdfReader, PdfWriter
from tests.conftest import Api
from tests.unit.processor.extractors.files import pdf, picture, png_bomb, saved
from tests.waiting import eventually, over

from bucketline.cli.client import ApiClient

pytestmark = pytest.mark.stack

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
SCHEMA = {
    "properties": {
        "pdf": {"type": "pdf"},
        "image": {"type": "image"},
        "excel": {"type": "excel"},
        "text": {"type": "text"},
        "name": {"type": "string"},
    }
}
ROWS = 200_000


async def processed(
    api: Api, extractor: str, files: Mapping[str, tuple[str, str, bytes]], **config: object
) -> tuple[ApiClient, str, dict[str, dict[str, Any]], dict[str, Any]]:
    """Collection, objects by name and batch, when a batch of these files (type, media type, bytes) is over."""
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace, bucket_schema=SCHEMA)
    rules = [{"source_path": "name", "target_path": "origin"}]
    settings = {"feature_extractor_name": extractor, "version": "v1", "field_passthrough": rules, **config}
    collection = await api.collection(namespace, bucket, **settings)
    place = f"/v1/buckets/{bucket}"
    ids = []
    for name, (kind, mime_type, content) in files.items():
        data = {"base64": base64.b64encode(content).decode(), "mime_type": mime_type, "filename": name}
        body = {"blobs": [{"property": kind, "type": kind, "data": data}], "name": name}
        ids.append((await client.post(f"{place}/objects", body))["object_id"])
    batch = await client.post(f"{place}/batches", {"object_ids": ids})
    await client.post(f"{place}/batches/{batch['batch_id']}/submit")
    done = await eventually(lambda: over(client, f"{place}/batches/{batch['batch_id']}"), deadline=150)
    objects = [await eventually(partial(over, client, f"{place}/objects/{oid}")) for oid in ids]
    return client, collection, {obj["name"]: obj for obj in objects}, done


async def documents(client: ApiClient, collection: str, name: str) -> list[dict[str, Any]]:
    condition = {"AND": [{"field": "origin", "operator": "eq", "value": name}]}
    found = await client.post(f"/v1/collections/{collection}/documents/list", {"filters": condition, "limit": 500})
    return list(found["results"])


def encrypted() -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(pdf(["secret"]))))
    writer.encrypt("sesame", "owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Terms", 1)
    document.add_paragraph("Payment within thirty days.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


async def test_document_extractor_reads_stored_files(api: Api) -> None:
    pages = [f"This is page {number}" for number in range(1, 121)]
    files = {
        "many.pdf": ("pdf", "application/pdf", pdf(pages)),
        "scan.pdf": ("pdf", "application/pdf", saved(picture(), "PDF")),
        "locked.pdf": ("pdf", "application/pdf", encrypted()),
        "truncated.pdf": ("pdf", "application/pdf", pdf(pages)[:300]),
        "terms.docx": ("text", DOCX, word()),
        "broken.docx": ("text", DOCX, word()[:500]),
    }
    client, collection, objects, batch = await processed(api, "document_extractor", files)

    assert {name: obj["status"] for name, obj in objects.items()} == {
        "many.pdf": "COMPLETED",
        "scan.pdf": "COMPLETED",
        "locked.pdf": "FAILED",
        "truncated.pdf": "FAILED",
        "terms.docx": "COMPLETED",
        "broken.docx": "FAILED",
    }
    found = await documents(client, collection, "many.pdf")
    assert [(row["page_number"], row["text"]) for row in found] == list(enumerate(pages, start=1))
    assert objects["many.pdf"]["document_count"] == 120
    [scan] = await documents(client, collection, "scan.pdf")
    assert (scan["needs_ocr"], scan["text"]) == (True, "")
    text = " ".join(row["text"] for row in await documents(client, collection, "terms.docx"))
    assert "Payment within thirty days." in text

    assert "'locked.pdf' is encrypted" in objects["locked.pdf"]["error"]
    assert "'truncated.pdf'" in objects["truncated.pdf"]["error"]
    assert "'broken.docx'" in objects["broken.docx"]["error"]
    assert [obj["document_count"] for obj in objects.values() if obj["status"] == "FAILED"] == [0, 0, 0]

    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    assert {(row["object_id"], row["error_type"]) for row in batch["failed_objects"]} == {
        (objects[name]["object_id"], "permanent") for name in ("locked.pdf", "truncated.pdf", "broken.docx")
    }


async def test_image_extractor_reads_stored_files(api: Api) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Canon"
    exif[ExifTags.Base.Model] = "EOS R5"
    files = {
        "photo.jpg": ("image", "image/jpeg", saved(picture(), "JPEG", exif=exif)),
        "bomb.png": ("image", "image/png", png_bomb(40_000)),
        "half.jpg": ("image", "image/jpeg", saved(picture(), "JPEG")[:200]),
    }
    client, collection, objects, _ = await processed(api, "image_extractor", files)

    assert {name: obj["status"] for name, obj in objects.items()} == {
        "photo.jpg": "COMPLETED",
        "bomb.png": "FAILED",
        "half.jpg": "FAILED",
    }
    [photo] = await documents(client, collection, "photo.jpg")
    assert (photo["width"], photo["height"], photo["camera"]) == (640, 400, "Canon EOS R5")
    roles = {blob["role"]: blob for blob in photo["document_blobs"]}
    assert roles["source"]["source_blob_id"] == objects["photo.jpg"]["blobs"][0]["blob_id"]
    assert roles.keys() > {"source"}, "the thumbnail is a blob of the document"
    assert "'bomb.png'" in objects["bomb.png"]["error"]
    assert "'half.jpg'" in objects["half.jpg"]["error"]


async def test_table_extractor_reads_stored_files(api: Api) -> None:
    rows = "".join(f"{number},name {number},{number / 4}\n" for number in range(ROWS))
    table = pa.table({"id": [1, 2, 3], "city": ["Sofia", None, "Wien"]})
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    bad_excel = io.BytesIO()
    with zipfile.ZipFile(bad_excel, "w") as archive:
        archive.writestr("nothing.txt", "to see")
    sheet = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    files = {
        "large.csv": ("excel", "text/csv", f"id,name,price\n{rows}".encode()),
        "cities.parquet": ("excel", "application/vnd.apache.parquet", parquet.getvalue()),
        "none.xlsx": ("excel", sheet, bad_excel.getvalue()),
    }
    client, collection, objects, batch = await processed(api, "table_extractor", files)

    assert {name: obj["status"] for name, obj in objects.items()} == {
        "large.csv": "COMPLETED",
        "cities.parquet": "COMPLETED",
        "none.xlsx": "FAILED",
    }
    assert objects["large.csv"]["document_count"] == ROWS
    assert batch["documents_written"] == ROWS + 3
    assert (await client.get(f"/v1/collections/{collection}/documents/count"))["count"] == ROWS + 3
    condition = {"AND": [{"field": "id", "operator": "eq", "value": ROWS - 1}]}
    last = await client.post(f"/v1/collections/{collection}/documents/list", {"filters": condition})
    assert [(row["name"], row["price"]) for row in last["results"]] == [(f"name {ROWS - 1}", (ROWS - 1) / 4)]
    beginning = await documents(client, collection, "large.csv")
    assert [row["id"] for row in beginning] == list(range(500)), "rows are listed in their order"
    cities = await documents(client, collection, "cities.parquet")
    assert [(row["id"], row["city"]) for row in cities] == [(1, "Sofia"), (2, None), (3, "Wien")]
    assert "'none.xlsx'" in objects["none.xlsx"]["error"]


async def test_text_extractor_reads_stored_files(api: Api) -> None:
    text = "Zażółć gęślą jaźń. 数据。" * 50
    files = {
        "utf16.txt": ("text", "text/plain", text.encode("utf-16")),
        "utf8.txt": ("text", "text/plain", text.encode()),
    }
    config = {"parameters": {"chunk_size": 200, "chunk_overlap": 0}}
    client, collection, objects, batch = await processed(api, "text_extractor", files, **config)

    assert batch["status"] == "COMPLETED"
    for name in files:
        found = await documents(client, collection, name)
        assert [row["chunk_index"] for row in found] == list(range(len(found)))
        assert len(found) == objects[name]["document_count"] > 1
        for row in found:
            assert row["text"] == text[row["char_start"] : row["char_end"]]


async def test_text_is_decoded_as_declared_and_an_unread_blob_is_named(api: Api) -> None:
    files = {
        "short.txt": ("text", "text/plain; charset=koi8-r", "привет".encode("koi8-r")),
        "host.txt": ("text", "text/plain; charset=cp037", "HELLO".encode("cp037")),
        "unknown.txt": ("text", "text/plain", "HELLO WORLD FROM THE HOST".encode("cp037")),
        "photo.png": ("image", "image/png", saved(picture(), "PNG")),
    }
    client, collection, objects, _ = await processed(api, "text_extractor", files)
    for name, text in (("short.txt", "привет"), ("host.txt", "HELLO")):
        [document] = await documents(client, collection, name)
        assert document["text"] == text
        assert "_internal" not in objects[name]
    assert "declare its code page" in objects["unknown.txt"]["error"]
    assert objects["photo.png"]["status"] == "COMPLETED"
    assert objects["photo.png"]["_internal"] == {
        "warnings": ["'photo.png' (image/png) is read by no collection of the bucket"]
    }
