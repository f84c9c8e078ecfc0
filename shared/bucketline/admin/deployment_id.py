"""Whether this database and this bucket belong together: known before a collector removes anything.

A collector takes content that the database does not know for nobody's. With another deployment's database (a typo in
its name, a laptop's MongoDB beside production's S3), or with one that came back from an old backup, that is everything.
So two things are looked at:

- the deployment's name, made by the first run and kept in both. The bucket of one deployment refuses the database of
  another, and one that is empty;
- a sample: content is listed by its hash, so the first page is as good as any. Where the database has no record of most
  of it, the database is not to be believed.
"""

import hashlib
from datetime import datetime
from typing import TypedDict

from bucketline.blobs.store import BlobStore, ObjectMissing
from bucketline.db.blobs import Blobs
from bucketline.db.mongo import Collection, Database
from bucketline.errors import BucketlineError
from bucketline.ids import Ids

KEY = "deployment"
"""The key of the deployment's name in the bucket."""

MAX_NAME = 200
CONTENT = "blobs/sha256/"
SAMPLE = 200
MANY = 10
"""Unknown content that a crash or two may have left behind is less than this, or less than half of the sample."""


class ForeignBucketError(BucketlineError):
    """The bucket holds what this database does not know. Nothing was changed."""

    retryable = False


class NameDocument(TypedDict):
    """``_id`` is always ``bucket``."""

    _id: str
    name: str


class DeploymentOwnership:
    """Of one bucket by one database. Raises ``StoreUnavailable`` when a store is away."""

    def __init__(self, database: Database, store: BlobStore, ids: Ids) -> None:
        self._names: Collection[NameDocument] = database.collection("deployment_info")
        self._blobs = Blobs(database)
        self._store = store
        self._ids = ids

    async def doubt(self, before: datetime) -> str | None:
        """Why the two do not belong together; None when they seem to. Content since ``before`` may lack a record."""
        ours, theirs = await self._ours(), await self._theirs()
        if theirs is not None and theirs != ours:
            known = "belongs to another deployment" if ours else "was never cleaned up by this database"
            return f"the bucket {known}: it is the bucket of {theirs}, the database is that of {ours or 'nobody yet'}"
        listed = await self._store.list(CONTENT, limit=SAMPLE)
        old = {row.key.rpartition("/")[2] for row in listed if row.last_modified < before}
        rows = await self._blobs.collection.find({"_id": {"$in": list(old)}}, limit=SAMPLE, fields=["_id"])
        unknown = len(old) - len(rows)
        if unknown >= MANY and unknown * 2 > len(old):
            return f"the database has no record of {unknown} of {len(old)} blobs that were looked at in the bucket"
        return None

    async def settle(self) -> None:
        """From now on the bucket is this database's, and no other's. Idempotent."""
        found = await self._names.find_and_update(
            {"_id": "bucket"}, {"$setOnInsert": {"name": self._ids.new("req")}}, upsert=True
        )
        assert found is not None  # noqa: S101  an upsert has made one
        name, theirs = found["name"].encode(), await self._theirs()
        if theirs == found["name"]:
            return
        if theirs is not None:
            await self._store.delete([KEY])
        await self._store.put_if_absent(KEY, name, sha256=hashlib.sha256(name).hexdigest(), content_type="text/plain")

    async def _ours(self) -> str | None:
        found = await self._names.get("bucket")
        return found and found["name"]

    async def _theirs(self) -> str | None:
        try:
            return (await self._store.read(KEY, limit=MAX_NAME)).decode(errors="replace")
        except ObjectMissing:
            return None
