"""Files that extractors make: stored like every other content, once, under the hash of their bytes."""

import hashlib
from collections.abc import Sequence

from bucketline.db.blobs import Blobs, NewContent, blob_key
from bucketline.domain.media_types import document_blob_type
from bucketline.errors import DependencyUnavailable
from bucketline.extractors import DerivedBlob
from bucketline.service_context import ServiceContext


class DerivedBlobs:
    """Stores derived files and describes them as a document's ``document_blobs``."""

    def __init__(self, runtime: ServiceContext) -> None:
        self._runtime = runtime
        self._records = Blobs(runtime.database)

    async def store(self, blobs: Sequence[DerivedBlob]) -> list[dict[str, object]]:
        """Content first, then its record; both may be done again. The document must be written within minutes.

        Raises ``DependencyUnavailable`` also while the same content is being removed: a moment later it is stored anew.
        """
        if not blobs:
            return []
        hashes = [hashlib.sha256(blob.data).hexdigest() for blob in blobs]
        claimed = await self._records.claim(set(hashes), self._runtime.clock.now())
        leaving = set(claimed.leaving)
        new = {sha256: blob for sha256, blob in zip(hashes, blobs, strict=True) if sha256 not in claimed.held}
        if not leaving:
            for sha256, blob in new.items():
                await self._runtime.blobs.put_if_absent(
                    blob_key(sha256), blob.data, sha256=sha256, content_type=blob.media_type
                )
            rows = [NewContent(sha256, len(blob.data), blob.media_type) for sha256, blob in new.items()]
            leaving |= await self._records.record(rows, self._runtime.clock.now()) if rows else set()
        if leaving:
            raise DependencyUnavailable("content is being removed, it can be stored again in a moment")
        return [self._described(blob, sha256) for sha256, blob in zip(hashes, blobs, strict=True)]

    def _described(self, blob: DerivedBlob, sha256: str) -> dict[str, object]:
        return {
            "field": blob.field,
            "role": blob.role,
            "type": document_blob_type(blob.media_type.partition("/")[0]),
            "url": self._runtime.blobs.url_of(blob_key(sha256)),
            "filename": blob.filename,
            "size_bytes": len(blob.data),
            "content_type": blob.media_type,
            "checksum": f"sha256:{sha256}",
        }
