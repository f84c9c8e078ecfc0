import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob
from tests.unit.processor.extractors.test_table import rows

from bucketline.extractors import BlobView, PermanentError
from bucketline_processor.extractors.table import TableExtractor


def lines(content: str) -> BlobView:
    return blob(content.encode(), "t.jsonl", "application/x-ndjson", "excel")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", "-9223372036854775809"),
        ("9" * 5000, "9" * 5000),
        ("1e400", "1e400"),
        ("-1E+999", "-1E+999"),
        ("1e-400", "1e-400"),
        ("0.12345678901234567890123", "0.12345678901234567890123"),
        ("1234567890.12345678", "1234567890.12345678"),
        ("0.30000000000000004", 0.1 + 0.2),
        ("1e5", 100000.0),
        ("2.0", 2.0),
        ("NaN", None),
        ("Infinity", None),
        ("-Infinity", None),
        ('"NaN"', "NaN"),
        ('"123456789012345678901234567890"', "123456789012345678901234567890"),
        ('"2026-01-01T10:00:00.123456789012"', "2026-01-01T10:00:00.123456789012"),
    ],
)
async def test_json_number_keeps_its_digits_at_every_depth(
    documents_of: DocumentsOf, written: str, expected: object
) -> None:
    content = f'{{"v": {written}}}\n{{"v": [{written}, {{"w": {written}}}]}}\n'
    documents = await documents_of(TableExtractor(), lines(content))
    assert rows(documents) == [{"v": expected}, {"v": [expected, {"w": expected}]}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n \r\n"])
async def test_json_lines_with_a_mark_and_any_line_end_are_read(documents_of: DocumentsOf, end: str) -> None:
    documents = await documents_of(
        TableExtractor(), lines(end.join(("\ufeff" + '{"a": 1}', '{"a": NaN}', '{"a": 3}', "")))
    )
    assert [row["a"] for row in rows(documents)] == [1, None, 3]


async def test_array_with_nan_is_read_as_rows(documents_of: DocumentsOf) -> None:
    content = '[{"a": NaN},\n {"a": 18446744073709551616}]'
    documents = await documents_of(TableExtractor(), blob(content.encode(), "t.json", "application/json", "excel"))
    assert rows(documents) == [{"a": None}, {"a": "18446744073709551616"}]


@pytest.mark.parametrize(
    "line", ['{"a": NaNa}', '{"a": nan}', '{"a": 1e}', '{"a": 12345678901234567890, }', '{"a": ' + "[" * 5000 + "NaN"]
)
async def test_line_that_is_not_json_is_named(documents_of: DocumentsOf, line: str) -> None:
    with pytest.raises(PermanentError, match=r"line 2 of 't\.jsonl' is not JSON"):
        await documents_of(TableExtractor(), lines('{"a": 1}\n' + line + "\n"))
