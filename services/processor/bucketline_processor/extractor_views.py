"""What an extractor sees of a stored object."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from bucketline.blobs.store import BlobStore, BlobStoreError, ObjectMissing
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.dotted_path import get_path
from bucketline.extractors import BlobView, ObjectView, PermanentError

PRESIGNED_SECONDS = 3600


class StoredBlob:
    """A blob in our S3, read as a stream of bounded chunks."""

    def __init__(self, store: BlobStore, key: str, size_bytes: int, temp_dir: Path | None) -> None:
        self._store = store
        self._key = key
        self._size = size_bytes
        self._temp_dir = temp_dir

    async def open(self) -> AsyncGenerator[bytes, None]:
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
        with tempfile.TemporaryDirectory(prefix="bucketline-", dir=self._temp_dir) as folder:
            path = Path(folder) / "blob"
            with path.open("wb") as file:
                async with aclosing(self.open()) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
            yield path

    async def presigned_url(self) -> str:
        return await self._store.presign_get(self._key, expires=PRESIGNED_SECONDS, public=False)


def object_view(obj: ObjectDocument, store: BlobStore, temp_dir: Path | None) -> ObjectView:
    """The object with those of its blobs that are in our store."""
    return ObjectView(
        object_id=obj["_id"],
        bucket_id=obj["bucket_id"],
        namespace_id=obj["namespace_id"],
        key_prefix=obj["key_prefix"],
        fields=obj["custom"],
        blobs=tuple(view for blob in obj["blobs"] if (view := _blob_view(blob, store, temp_dir)) is not None),
    )


def document_view(document: DocumentDocument, obj: ObjectView) -> ObjectView:
    """A document of a source collection in the place of the object; the object's blobs stay within reach."""
    return ObjectView(
        object_id=obj.object_id,
        bucket_id=obj.bucket_id,
        namespace_id=obj.namespace_id,
        key_prefix=obj.key_prefix,
        fields=document["fields"],
        blobs=obj.blobs,
    )


def resolve_inputs(mappings: Mapping[str, str], view: ObjectView) -> dict[str, object]:
    """What ``input_mappings`` (input name → path) resolve to: blobs of a property, or a field's value."""
    found: dict[str, object] = {}
    for name, path in mappings.items():
        blobs = [blob for blob in view.blobs if blob.property == path]
        found[name] = (blobs[0] if len(blobs) == 1 else blobs) if blobs else get_path(view.fields, path)
    return found


def _blob_view(blob: BlobDocument, store: BlobStore, temp_dir: Path | None) -> BlobView | None:
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
