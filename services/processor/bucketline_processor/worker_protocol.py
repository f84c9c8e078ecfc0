"""Protocol between the service and its worker processes, over pipes.

A frame is a type, a JSON part and a binary part. It is not pickle: a worker that has read a hostile file may send
anything, and the service must be able to parse that without executing it.
"""

import enum
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import orjson

from bucketline.extractors import (
    BlobSource,
    BlobView,
    DerivedBlob,
    Document,
    ExtractionContext,
    ObjectView,
    PermanentError,
    ResourceError,
)

HEADER = struct.Struct(">BII")
MAX_DOCUMENT_BYTES = 12 * 1024 * 1024
MAX_DERIVED_BYTES = 32 * 1024 * 1024
MAX_FRAME_BYTES = 64 * 1024 * 1024

_BLOB_FIELDS = [field.name for field in fields(BlobView) if field.name != "source"]
_OBJECT_FIELDS = [field.name for field in fields(ObjectView) if field.name != "blobs"]
_DERIVED_FIELDS = [field.name for field in fields(DerivedBlob) if field.name != "data"]


class FrameType(enum.IntEnum):
    """Types of frames; the worker sends ``READY`` to ``ERROR``, the service sends ``RUN`` and ``BLOB``."""

    READY = 1
    STARTED = 2
    BLOB_REQUEST = 3
    DOCUMENTS = 4
    DONE = 5
    ERROR = 6
    RUN = 7
    BLOB = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was received."""

    type: FrameType
    body: dict[str, object]
    binary: bytes = b""


class ProtocolError(Exception):
    """The other side sent something that is not a valid frame."""


def pack(frame_type: FrameType, body: Mapping[str, object], binary: bytes = b"") -> bytes:
    """Return the bytes of a frame. Raises ``TypeError`` when the body is not JSON."""
    text = orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS, default=str)
    return HEADER.pack(frame_type, len(text), len(binary)) + text + binary


def parse_header(header: bytes) -> tuple[FrameType, int, int]:
    """Return the type of a frame and the lengths of its two parts. Raises :class:`ProtocolError`."""
    number, text, binary = HEADER.unpack(header)
    if text + binary > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {text + binary} bytes")
    try:
        return FrameType(number), text, binary
    except ValueError as error:
        raise ProtocolError(f"a frame of the unknown type {number}") from error


def parse_frame(frame_type: FrameType, text: bytes, binary: bytes) -> Frame:
    """Return the frame. Raises :class:`ProtocolError`."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ProtocolError("a frame that is not JSON") from error
    if not isinstance(body, dict):
        raise ProtocolError("a frame that is not an object")
    return Frame(frame_type, body, binary)


def run_body(extractor_id: str, obj: ObjectView, context: ExtractionContext) -> dict[str, object]:
    """Return the body of ``RUN``: everything but the content of blobs.

    ``context.outbound`` is left out, because workers must not have its secret.
    """
    return {
        "extractor": extractor_id,
        "object": {name: getattr(obj, name) for name in _OBJECT_FIELDS},
        "own": [blob.blob_id for blob in obj.blobs],
        "blobs": [{name: getattr(blob, name) for name in _BLOB_FIELDS} for blob in run_blobs(obj, context).values()],
        "parameters": context.parameters,
        "inputs": {name: _encode_input(value) for name, value in context.inputs.items()},
    }


def parse_run(
    body: Mapping[str, Any], source: Callable[[str], BlobSource]
) -> tuple[str, ObjectView, ExtractionContext]:
    """Return the arguments of :func:`run_body`; ``source`` provides the content of a blob."""
    blobs = {blob["blob_id"]: BlobView(source=source(blob["blob_id"]), **blob) for blob in body["blobs"]}
    obj = ObjectView(blobs=tuple(blobs[blob_id] for blob_id in body["own"]), **body["object"])
    inputs = {name: _decode_input(value, blobs) for name, value in body["inputs"].items()}
    return body["extractor"], obj, ExtractionContext(body["parameters"], inputs)


def run_blobs(obj: ObjectView, context: ExtractionContext) -> dict[str, BlobView]:
    """Return the blobs that a run may request: those of the object and those among the inputs."""
    mapped = [
        item
        for value in context.inputs.values()
        for item in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(item, BlobView)
    ]
    return {blob.blob_id: blob for blob in (*obj.blobs, *mapped)}


def encode_document(document: Document) -> tuple[bytes, bytes]:
    """Return the JSON part and the binary part of a document.

    Raises ``PermanentError`` when the fields are not JSON, ``ResourceError`` when it is too large to be stored.
    """
    blobs = [{**{name: getattr(b, name) for name in _DERIVED_FIELDS}, "size": len(b.data)} for b in document.blobs]
    try:
        text = orjson.dumps({"fields": document.fields, "source_blobs": document.source_blobs, "blobs": blobs})
    except TypeError as error:
        raise PermanentError(f"the extractor made a document that is not JSON: {error}") from error
    binary = b"".join(blob.data for blob in document.blobs)
    if len(text) > MAX_DOCUMENT_BYTES or len(binary) > MAX_DERIVED_BYTES:
        raise ResourceError(f"a document came out at {len(text) + len(binary)} bytes, too large to be stored")
    return text, binary


def pack_documents(texts: Sequence[bytes], binaries: Sequence[bytes]) -> bytes:
    """Return one frame of the parts that :func:`encode_document` made."""
    text, binary = b'{"documents":[' + b",".join(texts) + b"]}", b"".join(binaries)
    return HEADER.pack(FrameType.DOCUMENTS, len(text), len(binary)) + text + binary


def parse_documents(frame: Frame) -> list[Document]:
    """Return the documents of a frame. Raises :class:`ProtocolError`."""
    documents, position = [], 0
    rows: Any = frame.body.get("documents")
    try:
        for row in rows:
            blobs = []
            for entry in row["blobs"]:
                end = position + int(entry.pop("size"))
                blobs.append(DerivedBlob(data=frame.binary[position:end], **entry))
                position = end
            documents.append(Document(dict(row["fields"]), tuple(blobs), tuple(row["source_blobs"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError("documents that are not well-formed") from error
    return documents


def _encode_input(value: object) -> dict[str, object]:
    if isinstance(value, BlobView):
        return {"blob": value.blob_id}
    if isinstance(value, list | tuple):
        return {"list": [_encode_input(item) for item in value]}
    return {"value": value}


def _decode_input(body: Mapping[str, Any], blobs: Mapping[str, BlobView]) -> object:
    if "blob" in body:
        return blobs[body["blob"]]
    return [_decode_input(item, blobs) for item in body["list"]] if "list" in body else body["value"]
