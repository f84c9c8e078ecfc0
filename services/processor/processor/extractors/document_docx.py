"""Word files, by python-docx."""

import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from bucketline.extraction import PermanentError
from processor.extractors.archive import check_archive
from processor.extractors.document_parts import MAX_HEADINGS, text_parts
from processor.extractors.values import json_value

if TYPE_CHECKING:
    from docx.document import Document as WordDocument


def docx_documents(path: Path, label: str) -> Iterator[dict[str, object]]:
    """The text in reading order, tables as lines with tabs between the cells."""
    import docx
    from docx.opc.exceptions import PackageNotFoundError

    check_archive(path, label, "word/", "Word (.docx)")
    try:
        document = docx.Document(str(path))
        about = _about(document)
    except (
        *(PackageNotFoundError, BadZipFile, zlib.error, NotImplementedError),
        *(KeyError, ValueError, AttributeError, EOFError, OSError),
        SyntaxError,  # lxml's XMLSyntaxError is one
    ) as error:
        raise PermanentError(f"{label} is damaged: it is not a complete Word (.docx) file") from error
    yield from text_parts(_lines(document), {"format": "docx", **about})


def _lines(document: "WordDocument") -> Iterator[str]:
    from docx.table import Table

    for block in document.iter_inner_content():
        if isinstance(block, Table):
            for row in block.rows:
                # a merged cell comes once for each column it covers
                distinct = {cell._tc: cell.text for cell in row.cells}
                yield "\t".join(text.replace("\n", " ") for text in distinct.values()) + "\n"
            yield "\n"
        elif block.text:
            yield block.text + "\n\n"


def _about(document: "WordDocument") -> dict[str, object]:
    core = document.core_properties
    named: dict[str, object] = {"title": core.title, "author": core.author, "language": core.language}
    try:
        dated: dict[str, object] = {"created_at": core.created, "modified_at": core.modified}
    except ValueError:  # a date that is none: Word writes what it is told
        dated = {}
    found = {name: json_value(value) for name, value in named.items() if value}
    details = {name: json_value(value) for name, value in dated.items() if value}
    headings = (
        paragraph.text[:500]
        for paragraph in document.paragraphs
        if paragraph.text and paragraph.style is not None and (paragraph.style.name or "").startswith("Heading")
    )
    if listed := list(islice(headings, MAX_HEADINGS)):
        found["headings"] = listed
    return {**found, "file": details} if details else found
