"""The MongoDB client with write concern, timeouts, tracing, metrics and errors of Bucketline.

This is the only module that imports motor (at its end of life, see the README): moving to pymongo's own asyncio client
is a change to this file.

Writes are acknowledged by a majority and survive a failover; reads go to the primary and may return newer data that
does not. Network errors and timeouts raise :class:`~bucketline.errors.DependencyUnavailable`, after which it is unknown
whether a write happened. A violation of a unique index raises :class:`DuplicateKey`.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Generic, TypeVar, cast

import bson
import pymongo
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import (
    AsyncIOMotorClient,
    AsyncIOMotorCollection,
    AsyncIOMotorCommandCursor,
    AsyncIOMotorCursor,
)
from pymongo import DeleteMany, DeleteOne, IndexModel, InsertOne, ReplaceOne, ReturnDocument, UpdateMany, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidName,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from bucketline.errors import BucketlineError, DependencyUnavailable, InvalidSetting, ValidationFailed, ValidationIssue
from bucketline.observability.metrics import STORE_SECONDS
from bucketline.observability.tracing import start_mongodb_span
from bucketline.settings import MongoSettings

Filter = Mapping[str, object]
Update = Mapping[str, object] | Sequence[Mapping[str, object]]
Sort = Sequence[tuple[str, int]]
Write = InsertOne[Any] | UpdateOne | UpdateMany | ReplaceOne[Any] | DeleteOne | DeleteMany

DUPLICATE_KEY_CODE = 11000
_REGEX_CODES = frozenset({51091, 51156})
"""The server refused a regular expression, or gave up while it evaluated one (since 6.1). Only filters have those."""

_READ: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
_UNREAD = CodecOptions(RawBSONDocument, tz_aware=True, tzinfo=UTC)
INDEX_SECONDS = 1800.0

_call_seconds: ContextVar[float | None] = ContextVar("call_seconds", default=None)

D = TypeVar("D", bound=Mapping[str, Any])


class DuplicateKey(BucketlineError):
    """A unique index refused the write. ``index`` is its name."""

    retryable = False

    def __init__(self, index: str) -> None:
        super().__init__(f"duplicate key in index {index}")
        self.index = index


class ResultTooLarge(BucketlineError):
    """The result is larger than the ``limit`` in bytes that the caller set."""

    retryable = False

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes were found")
        self.limit = limit


class QueryTimeout(DependencyUnavailable):
    """The calls within :func:`query_timeout` took too long; the server has canceled them."""


@dataclass(frozen=True)
class Index:
    """An index. ``keys`` are in MongoDB's form; ``where`` makes it partial."""

    name: str
    keys: Sequence[tuple[str, int]]
    unique: bool = False
    where: Filter | None = None
    expire_after_seconds: int | None = None

    def model(self) -> IndexModel:
        """Return the index as pymongo expects it."""
        options: dict[str, object] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.where is not None:
            options["partialFilterExpression"] = self.where
        if self.expire_after_seconds is not None:
            options["expireAfterSeconds"] = self.expire_after_seconds
        return IndexModel(list(self.keys), **options)


@dataclass(frozen=True)
class BulkOutcome:
    """The result of an unordered bulk write; ``refused`` maps the position of a refused write to the index's name."""

    matched: int
    modified: int
    deleted: int
    refused: Mapping[int, str]


class Collection(Generic[D]):
    """One collection whose documents have the shape ``D``."""

    def __init__(self, raw: "AsyncIOMotorCollection[Any]") -> None:
        self._raw = raw
        self._name = raw.name
        self._database = raw.database.name

    async def get(self, identifier: str) -> D | None:
        """Return the document with this id."""
        return await self.find_one({"_id": identifier})

    async def find_one(
        self, where: Filter, *, fields: Sequence[str] | None = None, sort: Sort | None = None
    ) -> D | None:
        """Return the first document that matches."""
        with self._call("find"):
            return cast("D | None", await self._raw.find_one(where, _projection(fields), sort=sort))

    async def find(
        self,
        where: Filter,
        *,
        limit: int,
        sort: Sort | None = None,
        skip: int = 0,
        fields: Sequence[str] | None = None,
        without: Sequence[str] = (),
        hint: str | None = None,
        most_bytes: int | None = None,
        computed: Mapping[str, object] | None = None,
    ) -> list[D]:
        """Return at most ``limit`` documents with only ``fields``, or without the fields in ``without``.

        ``computed`` adds fields from expressions, which the condition and the sort may use. Raise
        :class:`ResultTooLarge` when the documents have more than ``most_bytes`` together; reading stops soon after.
        """
        raw = self._raw if most_bytes is None else self._raw.with_options(codec_options=_UNREAD)
        with self._call("find"):
            found: AsyncIOMotorCursor[Any] | AsyncIOMotorCommandCursor[Any]
            if computed:
                found = raw.aggregate(_pipeline(where, computed, sort, skip, limit, _projection(fields, without)))
            else:
                found = raw.find(where, _projection(fields, without), sort=sort, skip=skip, limit=limit, hint=hint)
            if most_bytes is None:
                return cast("list[D]", await found.to_list(limit))
            rows, size = [], 0
            async for row in found:
                size += len(row.raw)
                if size > most_bytes:
                    await found.close()
                    raise ResultTooLarge(most_bytes)
                rows.append(row.raw)
            return [cast("D", bson.decode(row, _READ)) for row in rows]

    async def stream(
        self, where: Filter, *, sort: Sort | None = None, fields: Sequence[str] | None = None, page: int = 500
    ) -> AsyncIterator[D]:
        """Yield every matching document, fetched ``page`` at a time. Concurrent writes may or may not be seen."""
        cursor = self._raw.find(where, _projection(fields), sort=sort, batch_size=page)
        try:
            while True:
                with self._call("find"):
                    found = await cursor.to_list(page)
                if not found:
                    return
                for document in found:
                    yield cast("D", document)
        finally:
            await cursor.close()

    async def count(
        self, where: Filter, *, limit: int | None = None, computed: Mapping[str, object] | None = None
    ) -> int:
        """Return the number of matching documents, at most ``limit``."""
        if computed:
            stages: list[Mapping[str, object]] = [
                {"$set": computed},
                {"$match": where},
                *([{"$limit": limit}] if limit else []),
                {"$count": "n"},
            ]
            rows = await self.aggregate(stages, limit=1)
            return int(rows[0]["n"]) if rows else 0
        with self._call("count"):
            options: dict[str, Any] = {} if limit is None else {"limit": limit}
            return await self._raw.count_documents(where, **options)

    async def aggregate(self, pipeline: Sequence[Mapping[str, object]], *, limit: int) -> list[Mapping[str, Any]]:
        """Return at most ``limit`` rows of the pipeline."""
        with self._call("aggregate"):
            return cast("list[Mapping[str, Any]]", await self._raw.aggregate(list(pipeline)).to_list(limit))

    async def insert(self, document: D) -> None:
        """Insert the document."""
        with self._call("insert"):
            await self._raw.insert_one(document)

    async def update_one(self, where: Filter, update: Update, *, upsert: bool = False) -> bool:
        """Update a document; return whether one matched or was inserted."""
        with self._call("update"):
            result = await self._raw.update_one(where, update, upsert=upsert)
            return result.matched_count > 0 or result.upserted_id is not None

    async def update_many(self, where: Filter, update: Update) -> int:
        """Update all matching documents; return how many were changed."""
        with self._call("update"):
            return (await self._raw.update_many(where, update)).modified_count

    async def find_and_update(
        self,
        where: Filter,
        update: Update,
        *,
        upsert: bool = False,
        sort: Sort | None = None,
        fields: Sequence[str] | None = None,
    ) -> D | None:
        """Update a document and return it as updated; return None when nothing matched."""
        with self._call("findAndModify"):
            found = await self._raw.find_one_and_update(
                where,
                update,
                projection=_projection(fields),
                upsert=upsert,
                sort=sort,
                return_document=ReturnDocument.AFTER,
            )
            return cast("D | None", found)

    async def delete_one(self, where: Filter) -> bool:
        """Delete a matching document; return whether there was one."""
        with self._call("delete"):
            return (await self._raw.delete_one(where)).deleted_count > 0

    async def delete_many(self, where: Filter) -> int:
        """Delete all matching documents; return how many."""
        with self._call("delete"):
            return (await self._raw.delete_many(where)).deleted_count

    async def bulk(self, writes: Sequence[Write]) -> BulkOutcome:
        """Execute all writes in one unordered round trip, except those that a unique index refuses."""
        if not writes:
            return BulkOutcome(0, 0, 0, {})
        refused: dict[int, str] = {}
        with self._call("bulkWrite", batch=len(writes)):
            try:
                result = (await self._raw.bulk_write(list(writes), ordered=False)).bulk_api_result
            except BulkWriteError as error:
                result = cast("dict[str, Any]", error.details)
                for fault in result["writeErrors"]:
                    if fault["code"] != DUPLICATE_KEY_CODE:
                        raise
                    refused[int(fault["index"])] = _index_name(str(fault["errmsg"]))
                if result["writeConcernErrors"]:
                    raise DependencyUnavailable("a write was not acknowledged by a majority") from error
        return BulkOutcome(
            matched=result["nMatched"],
            modified=result["nModified"],
            deleted=result["nRemoved"],
            refused=refused,
        )

    async def ensure(self, indexes: Sequence[Index]) -> None:
        """Create missing indexes. Idempotent; fails if an index with this name has other options.

        Building an index may take up to :data:`INDEX_SECONDS`; the ping detects an unavailable server earlier.
        """
        if indexes:
            with self._call("createIndexes"):
                await self._raw.database.command("ping")
                with pymongo.timeout(INDEX_SECONDS):
                    await self._raw.create_indexes([index.model() for index in indexes])

    async def index_names(self) -> set[str]:
        """Return the names of the existing indexes."""
        with self._call("listIndexes"):
            return set(await self._raw.index_information())

    @contextmanager
    def _call(self, operation: str, batch: int | None = None) -> Iterator[None]:
        with (
            start_mongodb_span(self._database, self._name, operation, batch),
            STORE_SECONDS.labels(self._name, operation).time(),
            map_driver_errors(),
            _limit_call(),
        ):
            yield


class Database:
    """The connection of one service.

    Raises :class:`~bucketline.errors.InvalidSetting` when the URL or the name of the database is invalid.
    """

    def __init__(self, settings: MongoSettings) -> None:
        self._client = _client(settings)
        try:
            self._database = self._client.get_database(
                settings.database,
                codec_options=_READ,
                write_concern=WriteConcern(w="majority"),
                read_concern=ReadConcern("local"),
            )
        except InvalidName as error:
            raise InvalidSetting(f"BUCKETLINE_MONGODB_DATABASE={settings.database} is invalid: {error}") from error

    def collection(self, name: str) -> Collection[Any]:
        """Return a collection."""
        return Collection(self._database[name])

    async def ping(self) -> None:
        """Return when the primary has answered; raise :class:`DependencyUnavailable` otherwise."""
        with map_driver_errors():
            await self._client.admin.command("ping")

    async def server_info(self) -> Mapping[str, Any]:
        """Return the server's ``version`` and replica-set membership."""
        with map_driver_errors():
            return {
                **await self._client.admin.command("buildInfo"),
                **await self._client.admin.command("hello"),
            }

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _client(settings: MongoSettings) -> "AsyncIOMotorClient[Any]":
    try:
        return AsyncIOMotorClient(
            settings.url.get_secret_value(),
            serverSelectionTimeoutMS=round(settings.server_selection_timeout_seconds * 1000),
            timeoutMS=round(settings.timeout_seconds * 1000),
            maxPoolSize=settings.max_pool_size,
            appname="bucketline",
        )
    except (ConfigurationError, ValueError) as error:
        # The message of these errors may quote a part of the URL that contains the password.
        reason = "" if isinstance(error, InvalidURI | ValueError) else f": {error}"
    raise InvalidSetting(
        f"BUCKETLINE_MONGODB_URL is invalid{reason}. It has the form "
        "mongodb://user:password@host:27017/?replicaSet=rs, and characters such as @ : / in user and password are "
        "written as %40 %3A %2F"
    )


@contextmanager
def map_driver_errors() -> Iterator[None]:
    """Raise the project's errors for those of the driver."""
    try:
        yield
    except DuplicateKeyError as error:
        raise DuplicateKey(_index_name(str(error))) from error
    except (ConnectionFailure, ExecutionTimeout) as error:
        raise DependencyUnavailable(f"MongoDB did not answer: {type(error).__name__}") from error
    except PyMongoError as error:
        if isinstance(error, OperationFailure) and error.code in _REGEX_CODES:
            reason = str((error.details or {}).get("errmsg", "refused by the server"))[:200]
            raise ValidationFailed([ValidationIssue("regex", ("body", "filters"), reason)]) from error
        if error.timeout or error.has_error_label("RetryableWriteError"):
            raise DependencyUnavailable(f"MongoDB did not answer: {type(error).__name__}") from error
        raise


@contextmanager
def call_timeout(seconds: float | None) -> Iterator[None]:
    """Limit each call in the block instead of by ``timeout_seconds`` of the settings. None: do not.

    The tasks that the block starts inherit the limit.
    """
    token = _call_seconds.set(seconds)
    try:
        yield
    finally:
        _call_seconds.reset(token)


@contextmanager
def query_timeout(seconds: float) -> Iterator[None]:
    """Limit the total time of all calls in the block; raise :class:`QueryTimeout` when it is exceeded.

    A server that hangs raises it too; one that cannot be reached raises ``DependencyUnavailable``. The limit replaces
    that of :func:`call_timeout`.
    """
    try:
        with call_timeout(None), pymongo.timeout(seconds):
            yield
    except DependencyUnavailable as error:
        if isinstance(error.__cause__, ExecutionTimeout | NetworkTimeout):
            raise QueryTimeout(f"MongoDB did not finish within {seconds:g} seconds") from error
        raise


def _limit_call() -> AbstractContextManager[object]:
    seconds = _call_seconds.get()
    return nullcontext() if seconds is None else pymongo.timeout(seconds)


def _projection(fields: Sequence[str] | None, without: Sequence[str] = ()) -> dict[str, int] | None:
    return dict.fromkeys(fields, 1) if fields is not None else dict.fromkeys(without, 0) or None


def _pipeline(
    where: Filter,
    computed: Mapping[str, object],
    sort: Sort | None,
    skip: int,
    limit: int,
    projection: Mapping[str, int] | None,
) -> list[Mapping[str, object]]:
    """Return the pipeline of a search over computed fields. The server moves conditions on other fields forward."""
    stages: list[Mapping[str, object]] = [{"$set": computed}, {"$match": where}]
    if sort:
        stages.append({"$sort": dict(sort)})
    if skip:
        stages.append({"$skip": skip})
    stages.append({"$limit": limit})
    if projection:
        shown = dict.fromkeys(computed, 1) if 1 in projection.values() else {}
        stages.append({"$project": {**projection, **shown}})
    return stages


def _index_name(message: str) -> str:
    found = re.search(r"index: (\S+)", message)
    return found.group(1) if found else "?"
