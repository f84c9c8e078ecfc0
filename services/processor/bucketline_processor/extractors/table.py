"""``table_extractor``: one document per row of a CSV, JSON Lines, spreadsheet or Parquet file."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bucketline.extractors import (
    BlobView,
    Document,
    ExtractionContext,
    ExtractorInfo,
    ObjectView,
    PermanentError,
    ResourceError,
    selected_blobs,
)
from bucketline_processor.extractors.table_columns import Table
from bucketline_processor.extractors.table_csv import csv_tables
from bucketline_processor.extractors.table_excel import excel_tables
from bucketline_processor.extractors.table_excel_scan import OLE_SIGNATURE
from bucketline_processor.extractors.table_jsonl import jsonl_tables, looks_like_jsonl
from bucketline_processor.extractors.table_parquet import parquet_tables

HEAD_BYTES = 64 * 1024
BINARY_MEDIA_TYPES = (
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.ms-excel",
    "application/vnd.ms-excel.sheet.macroenabled.12",
    "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.apache.parquet",
    "application/x-parquet",
)
BINARY_SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".parquet")
UNSUPPORTED = {
    b"PARE": "an encrypted Parquet file",
    b"ARROW1\0\0": "an Arrow (Feather) file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
}
"""Signatures of binary kinds that are known but not read."""

MARKUP = {b"<?xml": "XML", b"<html": "HTML", b"<table": "HTML", b"<!doctype": "HTML", b"%pdf-": "PDF", b"{\\rtf": "RTF"}
MEDIA_TYPES = (
    "text/csv",
    "text/tab-separated-values",
    "application/csv",
    "application/jsonl",
    "application/x-ndjson",
    "application/x-jsonlines",
    *BINARY_MEDIA_TYPES,
)


class TableExtractor:
    """Yields one document per row in the order of the file; rows are streamed, so a large table needs little memory.

    The columns are at the root of the document. ``table`` describes the position of the row (``row`` counts from 1,
    without the header; ``sheet`` for Excel) and, in the first document of each table, its ``columns`` with
    their types, the lines above the header (``preamble``) and the cells whose formula has no saved value
    (``uncalculated``). Column names that a document cannot have are replaced: see
    :mod:`bucketline_processor.extractors.table_columns`.
    """

    info = ExtractorInfo(
        name="table_extractor",
        version="v1",
        description="One document for each row of a CSV, JSON Lines, Parquet, Excel or OpenDocument spreadsheet file.",
        accepts=("excel", *MEDIA_TYPES),
        parameters_schema={
            "type": "object",
            "properties": {
                "format": {
                    "type": "string",
                    "enum": ["auto", "csv", "jsonl", "excel", "parquet"],
                    "default": "auto",
                },
                "header": {
                    "type": "string",
                    "enum": ["auto", "yes", "no"],
                    "default": "auto",
                    "description": "Whether the first row of CSV and Excel names the columns.",
                },
                "delimiter": {"type": "string", "minLength": 1, "maxLength": 1, "description": "Of CSV; else found."},
                "sheets": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "The Excel sheets to read, all when absent.",
                },
                "infer_types": {
                    "type": "boolean",
                    "default": True,
                    "description": "Whether CSV columns that hold only numbers or booleans become such.",
                },
                "max_rows": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 10_000_000,
                    "default": 1_000_000,
                    "description": "Rows read from one object.",
                },
                "beyond_max_rows": {
                    "type": "string",
                    "enum": ["fail", "stop"],
                    "default": "fail",
                    "description": "Whether a longer table fails the object or ends there.",
                },
            },
            "additionalProperties": False,
        },
        output_schema={
            "properties": {
                "table": {
                    "type": "object",
                    "properties": {
                        "row": {"type": "integer"},
                        "sheet": {"type": "string"},
                        "format": {"type": "string"},
                        "columns": {"type": "object"},
                        "preamble": {"type": "array", "items": {"type": "string"}},
                        "uncalculated": {"type": "array", "items": {"type": "string"}},
                    },
                }
            }
        },
    )

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        """Yield one document per row of each selected file."""
        left = context.parameter("max_rows", int)
        for blob in selected_blobs(self.info, obj, context):
            async with blob.as_file() as path:
                for document in _documents(path, blob, context):
                    if left == 0:
                        if context.parameter("beyond_max_rows", str) == "stop":
                            return
                        limit = context.parameter("max_rows", int)
                        raise ResourceError(f"{blob.describe()} goes beyond the {limit} rows that are allowed")
                    left -= 1
                    yield document


def _documents(path: Path, blob: BlobView, context: ExtractionContext) -> Iterator[Document]:
    kind, tables = _tables(path, blob, context)
    for table in tables:
        for number, row in enumerate(table.rows, start=1):
            place: dict[str, object] = {"row": number, "format": kind}
            if table.sheet is not None:
                place["sheet"] = table.sheet
            if number == 1:
                place["columns"] = dict(table.columns)
                place |= {"preamble": list(table.preamble)} if table.preamble else {}
                place |= {"uncalculated": list(table.uncalculated)} if table.uncalculated else {}
            yield Document({**row, "table": place}, source_blobs=(blob.blob_id,))


def _tables(path: Path, blob: BlobView, context: ExtractionContext) -> tuple[str, Iterator[Table]]:
    label = blob.describe()
    kind = context.parameter("format", str)
    if kind == "auto":
        kind = _kind(path, blob)
    header = context.parameter("header", str)
    if kind == "parquet":
        return kind, parquet_tables(path, label)
    if kind == "excel":
        sheets = context.parameters.get("sheets")
        return kind, excel_tables(path, label, header, sheets if isinstance(sheets, list) else None)
    if kind == "jsonl":
        return kind, jsonl_tables(path, label)
    delimiter = context.parameters.get("delimiter")
    chosen = delimiter if isinstance(delimiter, str) else None
    return kind, csv_tables(
        path, label, header, chosen, infer=context.parameter("infer_types", bool), charset=blob.charset
    )


def _kind(path: Path, blob: BlobView) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    name, media_type = (blob.filename or "").lower(), blob.mime_type.partition(";")[0].strip().lower()
    if not head and (name.endswith(BINARY_SUFFIXES) or media_type in BINARY_MEDIA_TYPES):
        raise PermanentError(f"{blob.describe()} is empty")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"PK\x03\x04", OLE_SIGNATURE)):
        return "excel"
    kind = next((kind for signature, kind in UNSUPPORTED.items() if head.startswith(signature)), None)
    if kind and b"\0" in head:
        raise PermanentError(f"{blob.describe()} is {kind}, which is not supported; save it as .xlsx, CSV or Parquet")
    beginning = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower()
    if kind := next((kind for start, kind in MARKUP.items() if beginning.startswith(start)), None):
        raise PermanentError(f"{blob.describe()} is {kind}, not a table; save it as .xlsx or CSV")
    if name.endswith((".json", ".jsonl", ".ndjson")) or "json" in media_type or looks_like_jsonl(head):
        return "jsonl"
    return "csv"
