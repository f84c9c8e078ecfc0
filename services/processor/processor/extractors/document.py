"""``document_extractor``: the text of PDF, Word and HTML files, with what they say about themselves."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bucketline.extraction import (
    BlobView,
    Document,
    ExtractionContext,
    ExtractorInfo,
    ObjectView,
    PermanentError,
    selected_blobs,
)
from processor.extractors.document_docx import docx_documents
from processor.extractors.document_html import html_documents
from processor.extractors.document_pdf import pdf_documents

HEAD_BYTES = 4096
HTML_MEDIA_TYPES = ("text/html", "application/xhtml+xml")
DOCX_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


class DocumentExtractor:
    """One document a PDF page; one a part (about 100,000 characters) of a Word or HTML file.

    A page without text still gives a document: ``has_text`` is false, and ``needs_ocr`` true when the page
    shows an image. What kind of file it is, its first bytes decide, not its name.
    """

    info = ExtractorInfo(
        name="document_extractor",
        version="v1",
        description="Text and metadata of PDF (a document a page), Word (.docx) and HTML files.",
        accepts=("pdf", "application/pdf", DOCX_MEDIA_TYPE, *HTML_MEDIA_TYPES),
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
                "title": {"type": "string"},
                "author": {"type": "string"},
                "language": {"type": "string"},
                "headings": {"type": "array", "items": {"type": "string"}},
                "file": {"type": "object"},
            }
        },
    )

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        for blob in selected_blobs(self.info, obj, context):
            async with blob.as_file() as path:
                for fields in _read(path, blob, context):
                    yield Document(fields, source_blobs=(blob.blob_id,))


def _read(path: Path, blob: BlobView, context: ExtractionContext) -> Iterator[dict[str, object]]:
    label = blob.describe()
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise PermanentError(f"{label} is empty")
    if b"%PDF-" in head[:1024]:
        empty_pages = context.parameter("include_empty_pages", bool)
        return pdf_documents(path, label, context.parameter("max_pages", int), empty_pages)
    if head.startswith(b"PK\x03\x04"):
        return docx_documents(path, label)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise PermanentError(f"{label} is password-protected or an old Office file; save it as .docx or PDF")
    if blob.type == "pdf" or blob.mime_type == "application/pdf":
        raise PermanentError(f"{label} is not a PDF file, whatever its type says")
    if b"<" in head.replace(b"\0", b"") or blob.mime_type.partition(";")[0].strip().lower() in HTML_MEDIA_TYPES:
        return html_documents(path, label)
    raise PermanentError(f"{label} is not a PDF, Word (.docx) or HTML file")
