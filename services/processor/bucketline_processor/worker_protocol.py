"""What the service and its worker processes say to each other, over pipes.

A frame is a kind, a JSON part and a binary part. No pickle: a worker that read a hostile file may say
anything, and the service must be able to parse it without running it.
"""

import enum
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


class FrameType(enum.IntEnum):
    """Who says it: the worker (``READY`` to ``ERROR``) or the service (``RUN``, ``BLOB``)."""

    READY = 1
    STARTED = 2
    NEED = 3
    DOCUMENTS = 4
    DONE = 5
    ERROR = 6
    RUN = 7
    BLOB = 8


@dataclass(frozen=True, slots=True)
class Frame:
    kind: FrameType
    body: dict[str, object]
    binary: bytes = b""


class WireError(Exception):
    """What arrived is no frame."""


def pack(kind: FrameType, body: Mapping[str, object], binary: bytes = b"") -> bytes:
    """The frame's bytes. Raises ``TypeError`` for what is no JSON."""
    text = orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS, default=str)
    return HEADER.pack(kind, len(text), len(binary)) + text + binary


def frame_sizes(header: bytes) -> tuple[FrameType, int, int]:
    """Kind and lengths of what follows. Raises :class:`WireError`, also for more than 64 MiB."""
    number, text, binary = HEADER.unpack(header)
    if text + binary > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {text + binary} bytes")
    try:
        return FrameType(number), text, binary
    except ValueError as error:
        raise WireError(f"a frame of the unknown kind {number}") from error


def unpack(kind: FrameType, text: bytes, binary: bytes) -> Frame:
    """The frame. Raises :class:`WireError`."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise WireError("a frame that is not JSON") from error
    if not isinstance(body, dict):
        raise WireError("a frame that is not an object")
    return Frame(kind, body, binary)


def run_body(extractor_id: str, obj: ObjectView, context: ExtractionContext) -> dict[str, object]:
    """All of the run but the blobs' content; ``context.outbound`` stays here, its secret is not for
    workers.
    """
    return {
        "extractor": extractor_id,
        "object": {
            "object_id": obj.object_id,
            "bucket_id": obj.bucket_id,
            "namespace_id": obj.namespace_id,
            "key_prefix": obj.key_prefix,
            "fields": obj.fields,
        },
        "own": [blob.blob_id for blob in obj.blobs],
        "blobs": [_blob_body(blob) for blob in known_blobs(obj, context).values()],
        "parameters": context.parameters,
        "inputs": {name: _input_body(value) for name, value in context.inputs.items()},
    }


def read_run(
    body: Mapping[str, object], source: Callable[[str], BlobSource]
) -> tuple[str, ObjectView, ExtractionContext]:
    """The other side of :func:`run_body`; ``source`` makes the content of a blob."""
    blobs = {str(raw["blob_id"]): BlobView(source=source(str(raw["blob_id"])), **raw) for raw in _rows(body["blobs"])}
    own = body["own"]
    raw = body["object"]
    assert isinstance(own, list)  # noqa: S101  the service wrote it
    assert isinstance(raw, dict)  # noqa: S101
    obj = ObjectView(blobs=tuple(blobs[blob_id] for blob_id in own), **raw)
    parameters, inputs = body["parameters"], body["inputs"]
    assert isinstance(parameters, dict)  # noqa: S101
    assert isinstance(inputs, dict)  # noqa: S101
    context = ExtractionContext(parameters, {name: _read_input(value, blobs) for name, value in inputs.items()})
    return str(body["extractor"]), obj, context


def known_blobs(obj: ObjectView, context: ExtractionContext) -> dict[str, BlobView]:
    """The blobs that a run may ask for: the object's, and those among the inputs."""
    mapped = [
        item
        for value in context.inputs.values()
        for item in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(item, BlobView)
    ]
    return {blob.blob_id: blob for blob in (*obj.blobs, *mapped)}


def document_parts(document: Document) -> tuple[bytes, bytes]:
    """The JSON and the binary part of a document.

    Raises ``PermanentError`` when the fields are no JSON, ``ResourceError`` when it is too large to be
    stored.
    """
    body = {
        "fields": document.fields,
        "source_blobs": document.source_blobs,
        "blobs": [
            {
                "field": blob.field,
                "filename": blob.filename,
                "media_type": blob.media_type,
                "role": blob.role,
                "size": len(blob.data),
            }
            for blob in document.blobs
        ],
    }
    try:
        text = orjson.dumps(body)
    except TypeError as error:
        raise PermanentError(f"the extractor made a document that is not JSON: {error}") from error
    binary = b"".join(blob.data for blob in document.blobs)
    if len(text) > MAX_DOCUMENT_BYTES or len(binary) > MAX_DERIVED_BYTES:
        raise ResourceError(f"a document came out at {len(text) + len(binary)} bytes, too large to be stored")
    return text, binary


def read_documents(frame: Frame) -> list[Document]:
    """The documents of a frame. Raises :class:`WireError`."""
    documents, position = [], 0
    try:
        for raw in _rows(frame.body["documents"]):
            blobs = []
            for entry in raw["blobs"]:
                end = position + int(entry["size"])
                data = frame.binary[position:end]
                position = end
                blobs.append(DerivedBlob(entry["field"], entry["filename"], entry["media_type"], data, entry["role"]))
            documents.append(Document(dict(raw["fields"]), tuple(blobs), tuple(raw["source_blobs"])))
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("documents that are not well-formed") from error
    return documents


def pack_documents(texts: Sequence[bytes], binaries: Sequence[bytes]) -> bytes:
    """One frame of what :func:`document_parts` made."""
    text, binary = b'{"documents":[' + b",".join(texts) + b"]}", b"".join(binaries)
    return HEADER.pack(FrameType.DOCUMENTS, len(text), len(binary)) + text + binary


def _blob_body(blob: BlobView) -> dict[str, object]:
    return {
        "blob_id": blob.blob_id,
        "property": blob.property,
        "type": blob.type,
        "filename": blob.filename,
        "mime_type": blob.mime_type,
        "size_bytes": blob.size_bytes,
        "sha256": blob.sha256,
        "metadata": blob.metadata,
        "charset": blob.charset,
    }


def _input_body(value: object) -> dict[str, object]:
    if isinstance(value, BlobView):
        return {"blob": value.blob_id}
    if isinstance(value, list | tuple):
        return {"list": [_input_body(item) for item in value]}
    return {"value": value}


def _read_input(body: dict[str, object], blobs: Mapping[str, BlobView]) -> object:
    if "blob" in body:
        return blobs[str(body["blob"])]
    items = body.get("list")
    return [_read_input(item, blobs) for item in items] if isinstance(items, list) else body["value"]


def _rows(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value
