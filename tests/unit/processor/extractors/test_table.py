import json

import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf, JsonDocument
from tests.unit.processor.extractors.files import blob

from bucketline.extractors import BlobView, PermanentError, ResourceError
from bucketline_processor.extractors.table import TableExtractor

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def csv_blob(text: str, codec: str = "utf-8") -> BlobView:
    return blob(text.encode(codec), "t.csv", "text/csv", "excel")


def rows(documents: list[JsonDocument]) -> list[dict[str, object]]:
    return [{name: value for name, value in document.fields.items() if name != "table"} for document in documents]


async def test_csv_rows_are_typed_by_column(documents_of: DocumentsOf) -> None:
    text = "id,name,price,active,zip\n1,Tea,2.50,true,01234\n2,,3,FALSE,99999\n"
    documents = await documents_of(TableExtractor(), csv_blob(text))

    assert rows(documents) == [
        {"id": 1, "name": "Tea", "price": 2.5, "active": True, "zip": "01234"},
        {"id": 2, "name": None, "price": 3.0, "active": False, "zip": "99999"},
    ]
    kinds = {"id": "integer", "name": "string", "price": "float", "active": "boolean", "zip": "string"}
    assert documents[0].fields["table"] == {"row": 1, "format": "csv", "columns": kinds}
    assert documents[1].fields["table"] == {"row": 2, "format": "csv"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
async def test_the_delimiter_is_found(documents_of: DocumentsOf, delimiter: str) -> None:
    text = "\r\n".join(delimiter.join(row) for row in (["a", "b"], ['"x, y; z"', "1"], ["p", "2"]))
    documents = await documents_of(TableExtractor(), csv_blob(text))
    assert rows(documents) == [{"a": "x, y; z", "b": 1}, {"a": "p", "b": 2}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,5;2,3\n2,5;3,3\n", ["1,5", "2,3"]),
        ("1.234,5;2 %;x\n2,5;3,5 %;y\n", ["1.234,5", "2 %", "x"]),
        ("name, vorname;ort\nM, H;Berlin\nK, E;Bonn\n", ["name, vorname", "ort"]),
        ("M, H;Berlin\n" * 9 + "K, E\n", ["M, H", "Berlin"]),
        ("48.2,16.3\tWien\n47.1,15.4\tGraz\n", ["48.2,16.3", "Wien"]),
        ("a, b\n1, x;y\n2, z;w\n", ["a", " b"]),
        ("id,tags,n\n1,a;b,2\n2,c;d,3\n", ["id", "tags", "n"]),
        ("id,path\n1,a|b\n2,c|d\n", ["id", "path"]),
    ],
)
async def test_delimiter_detection_ignores_numbers_and_prose(
    documents_of: DocumentsOf, text: str, expected: list[str]
) -> None:
    documents = await documents_of(TableExtractor(), csv_blob(text), parameters={"header": "no"})
    assert list(rows(documents)[0].values()) == expected


async def test_csv_of_a_spreadsheet_program_in_utf16(documents_of: DocumentsOf) -> None:
    documents = await documents_of(TableExtractor(), csv_blob("Größe\tñ\n1\tя\n", "utf-16"))
    assert rows(documents) == [{"Größe": 1, "ñ": "я"}]


async def test_without_a_header_columns_are_numbered(documents_of: DocumentsOf) -> None:
    documents = await documents_of(TableExtractor(), csv_blob("1,2\n3,4\n"))
    assert rows(documents) == [{"column_1": 1, "column_2": 2}, {"column_1": 3, "column_2": 4}]


async def test_names_that_documents_cannot_have_get_another(documents_of: DocumentsOf) -> None:
    text = "a.b,$set,_internal,table,document_id,x,x,\n1,2,3,4,5,6,7,8\n"
    documents = await documents_of(TableExtractor(), csv_blob(text), parameters={"header": "yes"})
    names = ["a_b", "set", "internal", "table_2", "document_id_2", "x", "x_2", "column_8"]
    assert rows(documents) == [dict(zip(names, range(1, 9), strict=True))]


async def test_ragged_rows_and_stray_values_keep_their_text(documents_of: DocumentsOf) -> None:
    text = "a,b\n" + "1,2\n" * 1000 + "n/a\n5,6,7\n"
    documents = await documents_of(TableExtractor(), csv_blob(text))
    assert rows(documents)[-2:] == [{"a": "n/a", "b": None}, {"a": 5, "b": 6, "column_3": "7"}]


async def test_an_unterminated_quote_is_an_error_not_a_giant_cell(documents_of: DocumentsOf) -> None:
    with pytest.raises(PermanentError, match=r"'t\.csv' is not valid CSV"):
        await documents_of(TableExtractor(), csv_blob('a,b\n1,2\n"' + "x\n" * 800_000))


async def test_the_row_limit_fails_or_stops(documents_of: DocumentsOf) -> None:
    text = "a\n" + "1\n" * 20
    with pytest.raises(ResourceError, match="10 rows"):
        await documents_of(TableExtractor(), csv_blob(text), parameters={"max_rows": 10, "header": "yes"})
    documents = await documents_of(
        TableExtractor(),
        csv_blob(text),
        parameters={"max_rows": 10, "beyond_max_rows": "stop", "header": "yes"},
    )
    assert len(documents) == 10


async def test_exactly_the_limit_is_allowed(documents_of: DocumentsOf) -> None:
    documents = await documents_of(
        TableExtractor(), csv_blob("a\n" + "1\n" * 10), parameters={"max_rows": 10, "header": "yes"}
    )
    assert len(documents) == 10


async def test_json_lines(documents_of: DocumentsOf) -> None:
    lines = [{"a": 1, "b": {"c": [1, 2]}}, {"a": 2.5, "big": 2**70}, 7]
    content = "\n\n".join(map(json.dumps, lines)).encode()
    documents = await documents_of(TableExtractor(), blob(content, "t.jsonl", "application/octet-stream", "excel"))

    assert rows(documents)[0] == {"a": 1, "b": {"c": [1, 2]}}
    assert rows(documents)[1]["a"] == 2.5
    assert rows(documents)[2] == {"value": 7}
    assert documents[0].fields["table"]["columns"]["a"] == "float"


async def test_extended_json_becomes_plain_values(documents_of: DocumentsOf) -> None:
    row = {
        "_id": {"$oid": "5f0c1d2e3a4b5c6d7e8f9a0b"},
        "relaxed": {"$date": "2026-03-01T12:00:00Z"},
        "canonical": {"$date": {"$numberLong": "-86400000"}},
        "lines": [{"n": {"$numberInt": "3"}, "price": {"$numberDecimal": "9.50"}, "part": {"$numberDouble": "0.5"}}],
        "file": {"$binary": {"base64": "AP8=", "subType": "00"}},
        "owner": {"$ref": "users", "$id": {"$oid": "5f0c1d2e3a4b5c6d7e8f9a0c"}},
        "schema": {"$date": "soon", "n": 1},
        "odd": {"$numberInt": "many"},
        "deep": json.loads("[" * 900 + "]" * 900),
    }
    content = json.dumps(row).encode() + b"\n" + json.dumps({"_id": {"$oid": "b"}}).encode()
    documents = await documents_of(TableExtractor(), blob(content, "t.jsonl", "application/jsonl", "excel"))
    found = rows(documents)[0]
    assert json.dumps(found.pop("deep")).startswith("[[[[")
    assert found == {
        "id": "5f0c1d2e3a4b5c6d7e8f9a0b",
        "relaxed": "2026-03-01T12:00:00Z",
        "canonical": "1969-12-31T00:00:00+00:00",
        "lines": [{"n": 3, "price": 9.5, "part": 0.5}],
        "file": "AP8=",
        "owner": {"ref": "users", "id": "5f0c1d2e3a4b5c6d7e8f9a0c"},
        "schema": {"date": "soon", "n": 1},
        "odd": {"numberInt": "many"},
    }
    assert rows(documents)[1] == {"id": "b"}


async def test_a_line_that_is_not_json_is_named(documents_of: DocumentsOf) -> None:
    with pytest.raises(PermanentError, match=r"line 2 of 't\.jsonl' is not JSON"):
        await documents_of(TableExtractor(), blob(b'{"a":1}\n{"a":\n', "t.jsonl", "text/plain", "excel"))


async def test_an_empty_file_has_no_documents(documents_of: DocumentsOf) -> None:
    assert await documents_of(TableExtractor(), csv_blob("")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,name,name,,id\n1,a,b,c,2\n", {"id": 1, "name": "a", "name_2": "b", "column_4": "c", "id_2": 2}),
        ("name,name\na,b\n", {"column_1": "name", "column_2": "name"}),
        ("sep=;\na;b\n1,5;2\n", {"a": "1,5", "b": 2}),
        ("phone,goals\n+4912345,3\n+49111,-2\n", {"phone": "+4912345", "goals": 3}),
        ("country,code,2019,2020\nFR,33,1,2\nDE,49,3,\n", {"country": "FR", "code": 33, "2019": 1, "2020": 2}),
        ("country,2019,2020\n", {"column_1": "country", "column_2": 2019, "column_3": 2020}),
        ("country,2019,2019\nFR,1,2\n", {"column_1": "country", "column_2": 2019, "column_3": 2019}),
        ("Alien,1979,2003\nTron,1982,2010\n", {"column_1": "Alien", "column_2": 1979, "column_3": 2003}),
        ("2019,x\n1,2\n", {"column_1": 2019, "column_2": "x"}),
        ("sku,2019-01,2019-02\na,1,2\n", {"sku": "a", "2019-01": 1, "2019-02": 2}),
        ("2024-01-01,buy\n2024-01-02,sell\n", {"column_1": "2024-01-01", "column_2": "buy"}),
        ("1,5;2,3\n2,5;3,3\n", {"column_1": "1,5", "column_2": "2,3"}),
        ("name, vorname;ort\nM, H;Berlin\n", {"name, vorname": "M, H", "ort": "Berlin"}),
    ],
)
async def test_headers_and_values_as_they_are_found(
    documents_of: DocumentsOf, text: str, expected: dict[str, object]
) -> None:
    documents = await documents_of(TableExtractor(), csv_blob(text))
    assert rows(documents)[0] == expected


async def test_a_quote_that_is_never_closed_swallows_no_rows(documents_of: DocumentsOf) -> None:
    with pytest.raises(PermanentError, match=r"'t\.csv' is not valid CSV: a quote in line 3 is never closed"):
        await documents_of(TableExtractor(), csv_blob('a,b\n1,"x"\n2,"z\n' + "3,4\n" * 100))
    documents = await documents_of(TableExtractor(), csv_blob('a,b\n1,"x\ny"\n2,"z'))
    assert rows(documents) == [{"a": 1, "b": "x\ny"}, {"a": 2, "b": "z"}], "cut off in its last cell: nothing is lost"
    documents = await documents_of(TableExtractor(), csv_blob('size,n\n5" pipe,1\n"6"" pipe",2\n'))
    assert [row["size"] for row in rows(documents)] == ['5" pipe', '6" pipe']


@pytest.mark.parametrize(
    "content",
    [
        b'[{"a":1},{"a":2}]',
        b'[\n  {\n    "a": 1\n  },\n  {"a": 2}\n]\n',
        b'\xef\xbb\xbf{"a":1}\r\n\r\n{"a":2}',
        '{"a":1}\n{"a":2}\n'.encode("utf-16"),
        '[{"a":1},\n{"a":2}]'.encode("utf-16-le"),
    ],
)
async def test_json_as_programs_write_it(documents_of: DocumentsOf, content: bytes) -> None:
    documents = await documents_of(TableExtractor(), blob(content, "t.json", "application/json", "excel"))
    assert rows(documents) == [{"a": 1}, {"a": 2}]


async def test_arrays_in_lines_are_values(documents_of: DocumentsOf) -> None:
    documents = await documents_of(TableExtractor(), blob(b"[1]\n[2]\n", "t.jsonl", "text/plain", "excel"))
    assert rows(documents) == [{"value": [1]}, {"value": [2]}]
    with pytest.raises(PermanentError, match=r"line 1 of 't\.json' is not JSON"):
        await documents_of(TableExtractor(), blob(b"[1,\n2,\n", "t.json", "text/plain", "excel"))


@pytest.mark.parametrize(("name", "mime_type"), [("a.xlsx", XLSX), ("a.parquet", "application/octet-stream")])
async def test_an_empty_file_that_should_not_be(documents_of: DocumentsOf, name: str, mime_type: str) -> None:
    with pytest.raises(PermanentError, match=f"'{name}' is empty"):
        await documents_of(TableExtractor(), blob(b"", name, mime_type, "excel"))
