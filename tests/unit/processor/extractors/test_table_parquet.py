import datetime
import io
import os
from decimal import Decimal
from pathlib import Path

import numpy
import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob, file_blob
from tests.unit.processor.extractors.test_table import rows

from bucketline.extractors import ExtractionContext, ObjectView, PermanentError, validate_parameters
from bucketline_processor.extractors.table import TableExtractor


def parquet_file() -> bytes:
    table = pa.table(
        {
            "id": pa.array(range(3000), pa.int64()),
            "price": pa.array([Decimal("1.10")] * 3000, pa.decimal128(9, 2)),
            "day": pa.array([datetime.date(2026, 3, 1)] * 3000),
            "tags": pa.array([["a", "b"]] * 3000),
        }
    )
    out = io.BytesIO()
    parquet.write_table(table, out, row_group_size=500)
    return out.getvalue()


async def test_parquet_rows_and_their_declared_types(documents_of: DocumentsOf) -> None:
    documents = await documents_of(TableExtractor(), blob(parquet_file(), "p.parquet", "", "excel"))

    assert len(documents) == 3000
    assert rows(documents)[2999] == {"id": 2999, "price": 1.1, "day": "2026-03-01", "tags": ["a", "b"]}
    kinds = {"id": "integer", "price": "float", "day": "date", "tags": "array"}
    assert documents[0].fields["table"] == {"row": 1, "format": "parquet", "columns": kinds}


async def test_half_a_parquet_file_is_a_clear_error(documents_of: DocumentsOf) -> None:
    content = parquet_file()
    with pytest.raises(PermanentError, match=r"'p\.parquet' is damaged"):
        await documents_of(TableExtractor(), blob(content[: len(content) // 2], "p.parquet", "", "excel"))


async def test_parquet_values_beyond_pythons_own_types(documents_of: DocumentsOf) -> None:
    """Nanoseconds are what pandas writes."""
    moment = 1_700_000_000_123_456_789
    table = pa.table(
        {
            "at": pa.array([moment, None], pa.timestamp("ns")),
            "local": pa.array([moment, None], pa.timestamp("ns", "Europe/Vienna")),
            "took": pa.array([1_500_000_001, None], pa.duration("ns")),
            "log": pa.array([[moment], []], pa.list_(pa.timestamp("ns"))),
            "of": pa.array([{"at": moment}, None], pa.struct([("at", pa.timestamp("ns"))])),
            "far": pa.array([10**15, 0], pa.timestamp("s")),
        }
    )
    out = io.BytesIO()
    parquet.write_table(table, out)
    documents = await documents_of(TableExtractor(), blob(out.getvalue(), "t.parquet", "x/y", "excel"))
    text = "2023-11-14T22:13:20.123456789"
    first, second = rows(documents)
    assert (first["at"], first["log"], first["of"]) == (text, [text], {"at": text})
    assert first["local"] == "2023-11-14T23:13:20.123456789+01:00"
    assert first["took"] == pytest.approx(1.500000001)
    assert first["far"] == str(10**18), "milliseconds, as the file has them"
    empty: dict[str, object] = {
        "at": None,
        "local": None,
        "took": None,
        "log": [],
        "of": None,
        "far": "1970-01-01T00:00:00",
    }
    assert second == empty


async def test_parquet_rows_that_are_large_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    size, count = 300_000, 160
    table = pa.table({"image": [os.urandom(size) for _ in range(count)]})
    path = tmp_path / "images.parquet"
    parquet.write_table(table, path, row_group_size=40)
    del table
    before = pa.total_allocated_bytes()
    obj = ObjectView("obj_1", "bkt_1", "ns_1", None, {}, (file_blob(path, "x/y", "excel"),))
    context = ExtractionContext(validate_parameters(TableExtractor.info, {}))
    held = [
        pa.total_allocated_bytes() - before
        async for document in TableExtractor().extract(obj, context)
        if len(str(document.fields["image"])) > size
    ]
    assert len(held) == count
    assert max(held) < size * count


async def test_parquet_with_invalid_text_and_time_zones_is_read(documents_of: DocumentsOf) -> None:
    places = pa.py_buffer(numpy.array([0, 2, 4], dtype="int32").tobytes())
    text = pa.Array.from_buffers(pa.string(), 2, [None, places, pa.py_buffer(b"ok\xff\xfe")])
    moments = pa.array([1_500_000, 0], pa.timestamp("us", "Mars/Base"))
    out = io.BytesIO()
    parquet.write_table(pa.table({"text": text, "at": moments}), out)
    documents = await documents_of(TableExtractor(), blob(out.getvalue(), "t.parquet", "x/y", "excel"))
    assert rows(documents) == [
        {"text": "ok", "at": "1970-01-01T00:00:01.500000+00:00"},
        {"text": "\ufffd\ufffd", "at": "1970-01-01T00:00:00+00:00"},
    ]
