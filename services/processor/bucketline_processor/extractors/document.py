"""``document_extractor``: the text and metadata of PDF, Word and HTML files."""

import mmap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bucketline.extractors import (
    BlobView,
    Document,
    ExtractionContext,
    ExtractorInfo,
    ObjectView,
    PermanentError,
    selected_blobs,
)
from bucketline_processor.extractors.document_docx import docx_documents
from bucketline_processor.extractors.document_html import html_documents
from bucketline_processor.extractors.document_pdf import HEADER, HEADER_WITHIN, pdf_documents

HEAD_BYTES = 4096
SEARCH_BYTES = 64 * 1024
"""How far the header of a PDF may be from its beginning when its type says that it is one."""
HTML_MEDIA_TYPES = ("text/html", "application/xhtml+xml")
DOCX_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
WORD_MEDIA_TYPES = (
    DOCX_MEDIA_TYPE,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.template",
    "application/vnd.ms-word.document.macroenabled.12",
    "application/vnd.ms-word.template.macroenabled.12",
)
OLE_STREAMS = {
    "EncryptedPackage": "an Office file that is encrypted: it cannot be read without its password",
    "WordDocument": "a Word file in the old .doc format; save it as .docx or PDF",
    "Workbook": "an Excel file in the old .xls format; the document_extractor does not read tables",
    "PowerPoint Document": "a PowerPoint file in the old .ppt format; save it as PDF",
}
"""The streams that tell what an OLE compound file is, whose name is in the file as UTF-16."""


class DocumentExtractor:
    """Yields one document per PDF page, or per part (about 100,000 characters) of a Word or HTML file.

    A page without text also yields a document: ``has_text`` is false, and ``needs_ocr`` is true if the page shows an
    image. The kind of file is detected from its first bytes, not from its name.
    """

    info = ExtractorInfo(
        name="document_extractor",
        version="v1",
        description="Text and metadata of PDF (one document per page), Word (.docx, .docm, .dotx) and HTML files.",
        accepts=("pdf", "application/pdf", *WORD_MEDIA_TYPES, *HTML_MEDIA_TYPES),
        parameters_schema={
            "type": "object",
            "properties": {
                "max_pages": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 100_000,
                    "default": 5000,
                    "description": "A PDF with more pages is refused.",
                },
                "include_empty_pages": {
                    "type": "boolean",
                    "default": True,
                    "description": "Whether pages without text give a document.",
                },
            },
            "additionalProperties": False,
        },
        output_schema={
            "properties": {
                "text": {"type": "text"},
                "format": {"type": "string", "enum": ["pdf", "docx", "html"]},
                "has_text": {"type": "boolean"},
                "needs_ocr": {"type": "boolean"},
                "page_number": {"type": "integer"},
                "page_count": {"type": "integer"},
                "page": {"type": "object"},
                "part_number": {"type": "integer"},
                "repaired": {"type": "boolean"},
                "form_fields": {"type": "array", "items": {"type": "object"}},
                "attachments": {"type": "array", "items": {"type": "string"}},
                "has_xfa": {"type": "boolean"},
                "unread_parts": {"type": "array", "items": {"type": "string"}},
                "title": {"type": "string"},
                "author": {"type": "string"},
                "language": {"type": "string"},
                "headings": {"type": "array", "items": {"type": "string"}},
                "file": {"type": "object"},
            }
        },
    )

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        """Yield the documents of each selected file."""
        for blob in selected_blobs(self.info, obj, context):
            async with blob.as_file() as path:
                for fields in _read(path, blob, context):
                    yield Document(fields, source_blobs=(blob.blob_id,))


def _read(path: Path, blob: BlobView, context: ExtractionContext) -> Iterator[dict[str, object]]:
    label = blob.describe()
    with path.open("rb") as file:
        start = file.read(SEARCH_BYTES)
    head = start[:HEAD_BYTES]
    if not head:
        raise PermanentError(f"{label} is empty")
    media_type = blob.mime_type.partition(";")[0].strip().lower()
    is_html = media_type in HTML_MEDIA_TYPES
    declared_pdf = blob.type == "pdf" or blob.mime_type == "application/pdf"
    if HEADER in head[:HEADER_WITHIN] and not is_html:
        return _pdf_documents(path, label, context)
    if head.startswith(b"PK\x03\x04"):
        return docx_documents(path, label)
    if (kind := _other_kind(path, head)) is not None:
        raise PermanentError(f"{label} is {kind}")
    if declared_pdf and HEADER in start:
        return _pdf_documents(path, label, context)
    if declared_pdf:
        raise PermanentError(f"{label} is not a PDF file, whatever its type says")
    if is_html or b"<" in head.replace(b"\0", b""):
        return html_documents(path, label, blob.charset, xhtml=media_type == "application/xhtml+xml")
    raise PermanentError(f"{label} is not a PDF, Word (.docx) or HTML file")


def _pdf_documents(path: Path, label: str, context: ExtractionContext) -> Iterator[dict[str, object]]:
    empty_pages = context.parameter("include_empty_pages", bool)
    return pdf_documents(path, label, context.parameter("max_pages", int), empty_pages)


def _other_kind(path: Path, head: bytes) -> str | None:
    """Return the message for a kind of document that is not supported: what it is and what to do."""
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            kinds = (kind for name, kind in OLE_STREAMS.items() if content.find(name.encode("utf-16-le")) >= 0)
            return next(kinds, "an old Office file; save it as .docx or PDF")
    if head.lstrip().startswith(b"{\\rtf"):
        return "a Rich Text (.rtf) file; save it as .docx or PDF"
    if b"schemas.microsoft.com/office/word/2003/wordml" in head or b"microsoft.com/office/2006/xmlPackage" in head:
        return "a Word file in one XML file (Word 2003 or Flat OPC); save it as .docx or PDF"
    if head.startswith(b"%!PS"):
        return "a PostScript file; save it as PDF"
    return None
