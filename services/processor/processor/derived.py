"""Files that extractors make: stored like every other content, once, under the hash of their bytes."""

import hashlib
from collections.abc import Sequence

from pymongo import UpdateOne

from bucketline.extraction import DerivedBlob
from bucketline.runtime import Runtime
from bucketline.storage.blobs import Blobs, blob_key


class DerivedBlobs:
    """Stores derived files and describes them as a document's ``document_blobs``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._records = Blobs(runtime.database)

    async def store(self, blobs: Sequence[DerivedBlob]) -> list[dict[str, object]]:
        """Content first, then its record; both may be done again."""
        return [await self._one(blob) for blob in blobs]

    async def _one(self, blob: DerivedBlob) -> dict[str, object]:
        sha256 = hashlib.sha256(blob.data).hexdigest()
        key = blob_key(sha256)
        now = self._runtime.clock.now()
        first = {
            "key": key,
            "size_bytes": len(blob.data),
            "mime_type": blob.media_type,
            "created_at": now,
            "state": "live",
        }
        await self._runtime.blobs.put_if_absent(key, blob.data, sha256=sha256, content_type=blob.media_type)
        await self._records.collection.bulk(
            [UpdateOne({"_id": sha256}, {"$setOnInsert": first, "$max": {"touched_at": now}}, upsert=True)]
        )
        return {
            "field": blob.field,
            "role": blob.role,
            "type": blob.media_type.partition("/")[0],
            "url": self._runtime.blobs.url_of(key),
            "filename": blob.filename,
            "size_bytes": len(blob.data),
            "content_type": blob.media_type,
            "checksum": f"sha256:{sha256}",
        }
