"""Runs one extractor on one object, in the event loop or in a worker process, and builds the views that it sees."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import BlobStoreError, ObjectMissing
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.errors import DependencyUnavailable
from bucketline.extractors import BlobView, Document, ExtractionError, ObjectView, PermanentError, ResourceError
from bucketline.observability.logging import get_logger
from bucketline_processor.fair_semaphore import FairSemaphore
from bucketline_processor.plan import PipelineStage
from bucketline_processor.worker_pool import WorkerPool

log = get_logger(__name__)

PRESIGNED_SECONDS = 3600


class PausableTimeout:
    """Async context manager that raises :class:`ResourceError` when its block takes too long.

    Time spent inside :meth:`paused` does not count.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(self._seconds)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise ResourceError(f"processing this object took longer than {self._seconds:g} seconds") from late

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock inside the block."""
        now = asyncio.get_running_loop().time
        ends_at = self._timeout.when()
        remaining = 0.0 if ends_at is None else ends_at - now()
        if not self._timeout.expired():
            self._timeout.reschedule(None)
        try:
            yield
        finally:
            if not self._timeout.expired():
                self._timeout.reschedule(now() + remaining)


class ExtractorRunner:
    """Runs extractors when a slot is free; at most ``max_concurrency`` run in the event loop.

    An extractor in the event loop may wait for another server for as long as its timeout allows. The slots are
    therefore shared by batch and collection: one batch alone has half of them in each collection.
    """

    def __init__(self, workers: WorkerPool, *, max_concurrency: int) -> None:
        self._workers = workers
        self._slots = FairSemaphore(max_concurrency, reserve=True)

    async def run(
        self, stage: PipelineStage, view: ObjectView, group: str, deadline: PausableTimeout
    ) -> AsyncGenerator[Document, None]:
        """Yield the documents that the extractor makes. Waiting for a slot does not count against ``deadline``.

        Raises ``ExtractionError``, and ``DependencyUnavailable`` when a blob cannot be read now. Close it after use.
        """
        extractor = stage.extractor
        if extractor is None:
            raise stage.problem or PermanentError("the collection's extractor cannot be used")
        context = stage.context_for(view)
        if extractor.info.cpu_bound:
            run = self._workers.run(extractor.info.id, view, context, group=group, waiting=deadline.paused)
            async with aclosing(run) as documents:
                async for document in documents:
                    yield document
            return
        sharing = f"{group}/{stage.id}"
        if not self._slots.try_acquire(sharing):
            with deadline.paused():
                await self._slots.acquire(sharing)
        try:
            # The declared type is AsyncIterator, but extractors are async generators, which have to be closed.
            inline = cast("AsyncGenerator[Document, None]", extractor.extract(view, context))
            async with aclosing(inline) as documents:
                async for document in documents:
                    yield document
        except (ExtractionError, DependencyUnavailable):
            raise
        except Exception as error:
            log.exception("extractor failed", extractor=extractor.info.label, object_id=view.object_id)
            raise PermanentError(f"the extractor failed on this object ({type(error).__name__})") from error
        finally:
            self._slots.release(sharing)


class StoredBlob:
    """A blob in our S3 bucket, read as a stream of bounded chunks."""

    def __init__(self, store: S3BlobStore, key: str, size_bytes: int, temp_dir: Path | None) -> None:
        self._store = store
        self._key = key
        self._size = size_bytes
        self._temp_dir = temp_dir

    async def open(self) -> AsyncGenerator[bytes, None]:
        """Yield the content."""
        try:
            async with aclosing(self._store.get(self._key, limit=self._size)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ObjectMissing as error:
            raise PermanentError("the content of a blob is no longer in the store") from error
        except BlobStoreError as error:
            raise PermanentError("the content of a blob is not what it was when it was stored") from error

    @asynccontextmanager
    async def as_file(self) -> AsyncIterator[Path]:
        """Download the content into a temporary file."""
        with tempfile.TemporaryDirectory(prefix="bucketline-", dir=self._temp_dir) as folder:
            path = Path(folder) / "blob"
            with path.open("wb") as file:
                async with aclosing(self.open()) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
            yield path

    async def presigned_url(self) -> str:
        """Return a URL under which the content can be downloaded for an hour."""
        return await self._store.presign_get(self._key, expires=PRESIGNED_SECONDS, public=False)


def object_view(obj: ObjectDocument, store: S3BlobStore, temp_dir: Path | None) -> ObjectView:
    """Return the object with those of its blobs that are in our store."""
    return ObjectView(
        object_id=obj["_id"],
        bucket_id=obj["bucket_id"],
        namespace_id=obj["namespace_id"],
        key_prefix=obj["key_prefix"],
        fields=obj["custom"],
        blobs=tuple(view for blob in obj["blobs"] if (view := _blob_view(blob, store, temp_dir)) is not None),
    )


def document_view(document: DocumentDocument, obj: ObjectView) -> ObjectView:
    """Return the object with the fields of a document of a source collection in place of its own."""
    return replace(obj, fields=document["fields"])


def _blob_view(blob: BlobDocument, store: S3BlobStore, temp_dir: Path | None) -> BlobView | None:
    details, storage = blob["details"], blob["storage"]
    if details is None or storage is None:
        return None
    return BlobView(
        blob_id=blob["blob_id"],
        property=blob["property"],
        type=blob["type"],
        filename=details["filename"],
        mime_type=details["mime_type"],
        size_bytes=details["size_bytes"],
        sha256=details["hash"].removeprefix("sha256:"),
        source=StoredBlob(store, storage["key"], details["size_bytes"], temp_dir),
        metadata=blob["properties"],
        charset=details.get("charset"),
    )
