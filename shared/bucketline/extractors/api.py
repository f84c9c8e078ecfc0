"""What an extractor is given and what it returns.

An extractor is a class with an ``info`` and an ``extract``; it reads one object and yields documents::

    class WordCount:
        info = ExtractorInfo(name="word_count", version="v1", description="Counts words.", accepts=("text",))

        async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
            for blob in selected_blobs(self.info, obj, context):
                text = (await blob.read(10_000_000)).decode()
                yield Document({"words": len(text.split())})

What it may rely on: parameters were validated and carry their defaults; blobs are complete and their hash was
checked; one instance is used for many objects, one at a time when ``cpu_bound``, else concurrently.
What it may not: documents yielded before an error do not count; the same object may be given twice (after a
crash, or on a retry) and must then give the same documents in the same order, because a document's id is
derived from its ordinal.
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
    """What is known about an extractor without running it.

    ``parameters_schema`` is a JSON schema (draft 2020-12) of an object; its ``default`` values are filled in.
    ``output_schema`` is ``{"properties": {name: {"type": …}}}`` in the types of a bucket schema, or a
    function from the validated parameters to that.
    ``accepts`` names the blobs it reads by type (``"pdf"``), media type (``"text/csv"``, ``"image/*"``) or
    ``"*"``. ``cpu_bound`` extractors run in a worker process with limits; the others run inside the
    service's event loop and must never block it.
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
        """The fields that documents will have under these (validated) parameters."""
        return self.output_schema(parameters) if callable(self.output_schema) else self.output_schema

    def reads(self, blob: "BlobView") -> bool:
        """Whether ``accepts`` covers the blob, by its type or by its media type."""
        media_type = blob.mime_type.partition(";")[0].strip().lower()
        family = media_type.partition("/")[0] + "/*"
        return any(wanted in ("*", blob.type, media_type, family) for wanted in self.accepts)


@runtime_checkable
class BlobSource(Protocol):
    """Where a blob's bytes come from. The pipeline reads S3, a worker process reads a file, a test reads
    memory.
    """

    def open(self) -> AsyncIterator[bytes]:
        """The bytes from the beginning, in chunks of bounded size. May be called more than once."""
        ...

    def as_file(self) -> AbstractAsyncContextManager[Path]:
        """A read-only file with the bytes, for libraries that seek. Gone after the context."""
        ...

    async def presigned_url(self) -> str:
        """A URL that anybody may GET for a limited time; raises ``PermanentError`` where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class BlobView:
    """One file of the object. ``sha256`` is hex, or ``None`` for a blob that is only linked.

    ``metadata`` is the producer's, with free-form data of the blob. ``source`` gives the bytes. ``charset`` is the one
    declared with the content, where that was one.
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
        """How a message to the producer names this blob."""
        return f"'{self.filename}'" if self.filename else f"the blob in '{self.property}'"

    def open(self) -> AsyncIterator[bytes]:
        """Stream the bytes in chunks of bounded size."""
        return self.source.open()

    async def read(self, limit: int) -> bytes:
        """All bytes at once; ``ResourceError`` when there are more than ``limit``."""
        if self.size_bytes > limit:
            raise ResourceError(f"{self.describe()} has {self.size_bytes} bytes, more than the {limit} allowed")
        content = bytearray()
        async for chunk in self.source.open():
            content += chunk
            if len(content) > limit:
                raise ResourceError(f"{self.describe()} has more than the {limit} bytes allowed")
        return bytes(content)

    def as_file(self) -> AbstractAsyncContextManager[Path]:
        """A file with the bytes, for libraries that seek: ``async with blob.as_file() as path``."""
        return self.source.as_file()

    async def presigned_url(self) -> str:
        """A URL for a server that fetches the blob itself. Only outside worker processes."""
        return await self.source.presigned_url()


@dataclass(frozen=True, slots=True)
class ObjectView:
    """The object, or the document of a source collection, that is extracted from.

    ``fields`` are the root fields the producer sent (for a document: its fields).
    """

    object_id: str
    bucket_id: str
    namespace_id: str
    key_prefix: str | None = None
    fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
    blobs: tuple[BlobView, ...] = ()


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """What an extractor may call. Empty, the default, allows nothing.

    ``allowed_endpoints`` are URL prefixes the operator trusts: scheme, host and port must be equal, and the
    path must be the prefix or below it. They may be private addresses: that is where model servers live.
    ``signing_secret`` signs what is sent; limits are bytes and seconds.
    """

    allowed_endpoints: tuple[str, ...] = ()
    signing_secret: str | None = dataclasses.field(default=None, repr=False)
    max_response_bytes: int = 16 * 1024 * 1024
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class ExtractionContext:
    """The collection's side of one extraction.

    ``parameters`` passed the extractor's schema. ``inputs`` is what ``input_mappings`` resolved to: a
    field's value, a :class:`BlobView`, or a list of them when the property holds several blobs.
    """

    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    outbound: OutboundPolicy = dataclasses.field(default_factory=OutboundPolicy)

    def parameter(self, name: str, kind: type[T]) -> T:
        """The parameter as a value of ``kind``; ``PermanentError`` when it is absent or of another type."""
        value = self.parameters.get(name)
        if not isinstance(value, kind):
            raise PermanentError(f"the parameter '{name}' must be of type {kind.__name__}")
        return value


@dataclass(frozen=True, slots=True)
class DerivedBlob:
    """A file made from the object, stored beside the document: a thumbnail, a page image. ``data`` is
    small.
    """

    field: str
    filename: str
    media_type: str
    data: bytes = dataclasses.field(repr=False)
    role: str = "derived"


@dataclass(frozen=True, slots=True)
class Document:
    """One result.

    ``fields`` hold JSON values only: finite numbers, integers within 64 bits, ISO 8601 text for dates; what is none
    is made one where it is stored. Names lose a leading ``$``, which the database would take for its own.
    ``source_blobs`` are the ids of the blobs it was made from, for its lineage; empty means all of them.
    """

    fields: dict[str, object]
    blobs: tuple[DerivedBlob, ...] = ()
    source_blobs: tuple[str, ...] = ()


class Extractor(Protocol):
    """What an entry point of the group ``bucketline.extractors`` refers to: a class without arguments."""

    @property
    def info(self) -> ExtractorInfo: ...

    def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        """Yield the object's documents in a stable order.

        Raises :class:`~bucketline.extractors.errors.ExtractionError`; see there what each kind means.
        """
        ...


def selected_blobs(info: ExtractorInfo, obj: ObjectView, context: ExtractionContext) -> list[BlobView]:
    """The blobs to read: those that ``input_mappings`` chose, or else all that the extractor accepts.

    An object without any is no error: a bucket may hold many kinds of objects, and it simply has no
    documents. A mapped input that is neither a blob nor empty is one, since the collection asked for a file.
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
