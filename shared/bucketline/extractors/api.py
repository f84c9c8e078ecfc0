"""The types that an extractor receives and returns.

An extractor is a class with an ``info`` and an ``extract``; it reads one object and yields documents::

    class WordCount:
        info = ExtractorInfo(name="word_count", version="v1", description="Counts words.", accepts=("text",))

        async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
            for blob in selected_blobs(self.info, obj, context):
                text = (await blob.read(10_000_000)).decode()
                yield Document({"words": len(text.split())})

Guarantees: parameters are validated and have their defaults; blobs are complete and their hashes are verified; one
instance handles many objects, one at a time if ``cpu_bound``, otherwise concurrently. Documents yielded before an error
are discarded. The same object may be extracted again (after a crash or a retry) and must then yield the same documents
in the same order, because the id of a document is derived from its ordinal.
"""

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from bucketline.extractors.errors import PermanentError, ResourceError

T = TypeVar("T")

Schema = Mapping[str, object]
OutputSchema = Schema | Callable[[Mapping[str, object]], Schema]


@dataclass(frozen=True, slots=True)
class ExtractorInfo:
    """Describes an extractor.

    ``parameters_schema`` is a JSON schema (draft 2020-12) of an object; its ``default`` values are filled in.
    ``output_schema`` is ``{"properties": {name: {"type": …}}}`` with the types of a bucket schema, or a
    function that returns it for validated parameters.
    ``accepts`` names the blobs it reads by type (``"pdf"``), media type (``"text/csv"``, ``"image/*"``) or
    ``"*"``. ``cpu_bound`` extractors run in a worker process with limits; all others run in the
    event loop of the service and must not block it.
    """

    name: str
    version: str
    description: str
    accepts: tuple[str, ...] = ()
    parameters_schema: Schema = dataclasses.field(
        default_factory=lambda: {"type": "object", "additionalProperties": False}
    )
    output_schema: OutputSchema = dataclasses.field(default_factory=lambda: {"properties": {}})
    cpu_bound: bool = True

    @property
    def id(self) -> str:
        """``name_version``: the id on the wire, and the name of the entry point."""
        return f"{self.name}_{self.version}"

    @property
    def label(self) -> str:
        """``name@version``, for logs and metrics."""
        return f"{self.name}@{self.version}"

    def schema_for(self, parameters: Mapping[str, object]) -> Schema:
        """Return the schema of the documents for these validated parameters."""
        return self.output_schema(parameters) if callable(self.output_schema) else self.output_schema

    def reads(self, blob: "BlobView") -> bool:
        """Return whether ``accepts`` includes the blob, by its type or media type."""
        media_type = blob.mime_type.partition(";")[0].strip().lower()
        family = media_type.partition("/")[0] + "/*"
        return any(wanted in ("*", blob.type, media_type, family) for wanted in self.accepts)


@runtime_checkable
class BlobSource(Protocol):
    """Provides the bytes of a blob: from S3, from a file in a worker process, or from memory in a test."""

    def open(self) -> AsyncIterator[bytes]:
        """Yield the bytes from the beginning in chunks of bounded size. May be called more than once."""
        ...

    def as_file(self) -> AbstractAsyncContextManager[Path]:
        """Provide a read-only file for libraries that seek. It is deleted after the context."""
        ...

    async def presigned_url(self) -> str:
        """Return a URL that allows GET for a limited time. Raises ``PermanentError`` if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class BlobView:
    """One file of the object. ``sha256`` is hex, or ``None`` for a blob that is only linked.

    ``metadata`` is free-form data of the producer. ``source`` provides the bytes. ``charset`` was declared with the
    content; it may be None.
    """

    blob_id: str
    property: str
    type: str
    filename: str | None
    mime_type: str
    size_bytes: int
    sha256: str | None
    source: BlobSource = dataclasses.field(compare=False, repr=False)
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)
    charset: str | None = None

    def describe(self) -> str:
        """Return the name of this blob in messages to the producer."""
        return f"'{self.filename}'" if self.filename else f"the blob in '{self.property}'"

    def open(self) -> AsyncIterator[bytes]:
        """Stream the bytes in chunks of bounded size."""
        return self.source.open()

    async def read(self, limit: int) -> bytes:
        """Return all bytes. Raises ``ResourceError`` if there are more than ``limit``."""
        if self.size_bytes > limit:
            raise ResourceError(f"{self.describe()} has {self.size_bytes} bytes, more than the {limit} allowed")
        content = bytearray()
        async for chunk in self.source.open():
            content += chunk
            if len(content) > limit:
                raise ResourceError(f"{self.describe()} has more than the {limit} bytes allowed")
        return bytes(content)

    def as_file(self) -> AbstractAsyncContextManager[Path]:
        """Provide a file for libraries that seek: ``async with blob.as_file() as path``."""
        return self.source.as_file()

    async def presigned_url(self) -> str:
        """Return a URL for a server that fetches the blob. Not available in worker processes."""
        return await self.source.presigned_url()


@dataclass(frozen=True, slots=True)
class ObjectView:
    """The object, or the document of a source collection, to extract from.

    ``fields`` are the root fields of the object, or the fields of the document.
    """

    object_id: str
    bucket_id: str
    namespace_id: str
    key_prefix: str | None = None
    fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
    blobs: tuple[BlobView, ...] = ()


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """The endpoints that an extractor may call. The default allows none.

    ``allowed_endpoints`` are URL prefixes that the operator trusts: scheme, host and port must be equal, and the
    path must be equal or below. Private addresses are allowed, because model servers usually have one.
    ``signing_secret`` signs requests; limits are in bytes and seconds.
    """

    allowed_endpoints: tuple[str, ...] = ()
    signing_secret: str | None = dataclasses.field(default=None, repr=False)
    max_response_bytes: int = 16 * 1024 * 1024
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class ExtractionContext:
    """The settings of the collection for one extraction.

    ``parameters`` passed the extractor's schema. ``inputs`` are the resolved ``input_mappings``: the value of
    a field, a :class:`BlobView`, or a list of them if the property holds several blobs.
    """

    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    outbound: OutboundPolicy = dataclasses.field(default_factory=OutboundPolicy)

    def parameter(self, name: str, kind: type[T]) -> T:
        """Return the parameter as ``kind``. Raises ``PermanentError`` if it is absent or has another type."""
        value = self.parameters.get(name)
        if not isinstance(value, kind):
            raise PermanentError(f"the parameter '{name}' must be of type {kind.__name__}")
        return value


@dataclass(frozen=True, slots=True)
class DerivedBlob:
    """A small file made from the object and stored with the document, such as a thumbnail or page image."""

    field: str
    filename: str
    media_type: str
    data: bytes = dataclasses.field(repr=False)
    role: str = "derived"


@dataclass(frozen=True, slots=True)
class Document:
    """One result of an extraction.

    ``fields`` should hold JSON values: finite numbers, integers within 64 bits, ISO 8601 text for dates. Other values
    are converted when they are stored, and names lose a leading ``$``, which MongoDB reserves.
    ``source_blobs`` are the ids of the blobs it was made from, for lineage; empty means all of them.
    """

    fields: dict[str, object]
    blobs: tuple[DerivedBlob, ...] = ()
    source_blobs: tuple[str, ...] = ()


class Extractor(Protocol):
    """The interface of the classes in the entry-point group ``bucketline.extractors``; they take no arguments."""

    @property
    def info(self) -> ExtractorInfo:
        """The description of the extractor."""
        ...

    def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        """Yield the documents of the object in a stable order.

        Raises :class:`~bucketline.extractors.errors.ExtractionError`.
        """
        ...


def selected_blobs(info: ExtractorInfo, obj: ObjectView, context: ExtractionContext) -> list[BlobView]:
    """Return the blobs that ``input_mappings`` select, or otherwise all that the extractor accepts.

    The result may be empty, because a bucket may hold many kinds of objects. A mapped input that is neither a blob nor
    empty is an error, because the collection expects a file.
    """
    if not context.inputs:
        return [blob for blob in obj.blobs if info.reads(blob)]
    chosen: list[BlobView] = []
    for name, value in context.inputs.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, BlobView):
                chosen.append(item)
            elif item is not None:
                raise PermanentError(f"the input '{name}' of {info.name} must be a file")
    return chosen
