"""``text_extractor``: text split into chunks with their offsets."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bucketline.domain.text_encodings import name_of
from bucketline.extractors import BlobView, Document, ExtractionContext, ExtractorInfo, ObjectView
from bucketline_processor.extractors.chunking import Chunk, chunks
from bucketline_processor.extractors.decoding import detect_encoding

READ_CHARS = 64 * 1024

CHUNK_PARAMETERS: dict[str, dict[str, object]] = {
    "chunk_size": {
        "type": "integer",
        "minimum": 50,
        "maximum": 100_000,
        "default": 2000,
        "description": "Most characters in a chunk.",
    },
    "chunk_overlap": {
        "type": "integer",
        "minimum": 0,
        "maximum": 50_000,
        "default": 200,
        "description": "Characters that a chunk repeats from the one before it; at most half a chunk.",
    },
}

CHUNK_FIELDS: dict[str, dict[str, object]] = {
    "text": {"type": "text"},
    "chunk_index": {"type": "integer"},
    "char_start": {"type": "integer"},
    "char_end": {"type": "integer"},
}
"""The fields of :func:`chunk_fields`, as a schema."""


class TextExtractor:
    """Yields one document per chunk, in the order of the text.

    Offsets count characters of the decoded text, without a byte order mark. Without ``input_mappings`` every
    blob that is text is read; a mapped input may also be a field of the object that holds text.
    """

    info = ExtractorInfo(
        name="text_extractor",
        version="v1",
        description="Text in any encoding, cut into overlapping chunks at paragraphs and sentences.",
        accepts=("text", "text/*", "application/json", "application/xml"),
        parameters_schema={
            "type": "object",
            "properties": CHUNK_PARAMETERS,
            "additionalProperties": False,
        },
        output_schema={
            "properties": {
                **CHUNK_FIELDS,
                "encoding": {"type": "string"},
            }
        },
    )

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        """Yield one document per chunk of each text."""
        size = context.parameter("chunk_size", int)
        overlap = context.parameter("chunk_overlap", int)
        for source in text_sources(self.info, obj, context):
            if isinstance(source, BlobView):
                async with source.as_file() as path:
                    encoding = detect_encoding(path, source.describe(), source.charset)
                    for document in _documents(read_text(path, encoding), size, overlap, encoding, source):
                        yield document
            else:
                for document in _documents(iter([source]), size, overlap, None, None):
                    yield document


def text_sources(info: ExtractorInfo, obj: ObjectView, context: ExtractionContext) -> list[BlobView | str]:
    """Return what to read: the mapped inputs (files, or fields with text), else the text blobs of the object."""
    if not context.inputs:
        return [blob for blob in obj.blobs if info.reads(blob)]
    return [
        item if isinstance(item, BlobView) else str(item)
        for value in context.inputs.values()
        for item in (value if isinstance(value, list | tuple) else (value,))
        if item is not None
    ]


def read_text(path: Path, encoding: str) -> Iterator[str]:
    """Yield the decoded text in pieces of bounded size; invalid bytes become U+FFFD."""
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        while part := file.read(READ_CHARS):
            yield part


def chunk_fields(index: int, chunk: Chunk) -> dict[str, object]:
    """Return the fields of a chunk and its position, the same for every extractor that splits text."""
    return {"text": chunk.text, "chunk_index": index, "char_start": chunk.start, "char_end": chunk.end}


def _documents(
    parts: Iterator[str], size: int, overlap: int, encoding: str | None, blob: BlobView | None
) -> Iterator[Document]:
    for index, chunk in enumerate(chunks(parts, size, overlap)):
        fields = chunk_fields(index, chunk)
        if encoding is not None:
            fields["encoding"] = name_of(encoding)
        yield Document(fields, source_blobs=(blob.blob_id,) if blob else ())
