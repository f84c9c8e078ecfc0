"""The MongoDB driver, wrapped once.

This is the only module that imports motor (at its end of life, see the README). Repositories take write operators, and
a few modules more, from pymongo and bson: moving to pymongo's own asyncio client is a change to this file.

Everything is written with majority and read from the primary: what a write returned has survived a fail-over, what a
read returns may be too young for that. Network faults and timeouts come out as
:class:`~bucketline.errors.DependencyUnavailable`, whose meaning is "it may or may not have happened"; a unique index
that
refuses comes out as :class:`DuplicateKey`.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

D = TypeVar("D", bound=Mapping[str, Any])


class DuplicateKey(BucketlineError):
    """A unique index refused the write. ``index`` is the index's name."""

    retryable = False

    def __init__(self, index: str) -> None:
        super().__init__(f"duplicate key in index {index}")
        self.index = index


class ResultTooLarge(BucketlineError):
    """What was to be read is larger than the ``limit`` in bytes that the caller set."""

    retryable = False

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes were found")
        self.limit = limit


class QueryTimeout(DependencyUnavailable):
    """The calls within :func:`query_timeout` took too long; the server has stopped working on them."""


@dataclass(frozen=True)
class Index:
    """An index to be made. ``keys`` as MongoDB takes them; ``where`` makes it partial."""

    name: str
    keys: Sequence[tuple[str, int]]
    unique: bool = False
    where: Filter | None = None
    expire_after_seconds: int | None = None

    def model(self) -> IndexModel:
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
    """What an unordered bulk write did; ``refused`` maps the position of each refused write to its index's name."""

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
        return await self.find_one({"_id": identifier})

    async def find_one(
        self, where: Filter, *, fields: Sequence[str] | None = None, sort: Sort | None = None
    ) -> D | None:
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
        """At most ``limit`` documents: ``fields`` of them, or all but those that ``without`` names.

        ``computed`` are expressions of the server's, by the name that conditions and order may then use for them; the
        documents have them too. :class:`ResultTooLarge` when they have more than ``most_bytes`` together; not many
        more are
        read then.
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
        """Every matching document, fetched ``page`` at a time. Documents written meanwhile may or may not appear."""
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
        with self._call("aggregate"):
            return cast("list[Mapping[str, Any]]", await self._raw.aggregate(list(pipeline)).to_list(limit))

    async def insert(self, document: D) -> None:
        with self._call("insert"):
            await self._raw.insert_one(document)

    async def update_one(self, where: Filter, update: Update, *, upsert: bool = False) -> bool:
        """Whether a document matched or was made."""
        with self._call("update"):
            result = await self._raw.update_one(where, update, upsert=upsert)
            return result.matched_count > 0 or result.upserted_id is not None

    async def update_many(self, where: Filter, update: Update) -> int:
        """How many documents were changed."""
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
        """The document after the update; None when nothing matched."""
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
        with self._call("delete"):
            return (await self._raw.delete_one(where)).deleted_count > 0

    async def delete_many(self, where: Filter) -> int:
        with self._call("delete"):
            return (await self._raw.delete_many(where)).deleted_count

    async def bulk(self, writes: Sequence[Write]) -> BulkOutcome:
        """All writes in one unordered round trip; those a unique index refuses are told, the others happen."""
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
        """Makes the indexes that are missing. Idempotent; fails if one exists under its name with other options.

        It may take its time: the server gives an index up when the time for its making is over. A server that is away
        is not waited for that long.
        """
        if indexes:
            with self._call("createIndexes"):
                await self._raw.database.command("ping")
                with pymongo.timeout(INDEX_SECONDS):
                    await self._raw.create_indexes([index.model() for index in indexes])

    async def index_names(self) -> set[str]:
        with self._call("listIndexes"):
            return set(await self._raw.index_information())

    async def explain(self, where: Filter, *, sort: Sort | None = None) -> Mapping[str, Any]:
        """The planner's winning plan, for tests that refuse collection scans."""
        with self._call("explain"):
            plan = await self._raw.find(where, sort=sort).explain()
            return cast("Mapping[str, Any]", plan["queryPlanner"]["winningPlan"])

    @contextmanager
    def _call(self, operation: str, batch: int | None = None) -> Iterator[None]:
        with (
            start_mongodb_span(self._database, self._name, operation, batch),
            STORE_SECONDS.labels(self._name, operation).time(),
            map_driver_errors(),
        ):
            yield


class Database:
    """The connection of one service. Made in ``app.py``, closed at its end.

    Raises :class:`~bucketline.errors.InvalidSetting` when the URL is none, or the name of the database.
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
            raise InvalidSetting(f"BUCKETLINE_MONGODB_DATABASE={settings.database} will not do: {error}") from error

    def collection(self, name: str) -> Collection[Any]:
        return Collection(self._database[name])

    async def ping(self) -> None:
        """Returns when the primary answered; raises :class:`DependencyUnavailable` otherwise."""
        with map_driver_errors():
            await self._client.admin.command("ping")

    async def server_info(self) -> Mapping[str, Any]:
        """``version`` and replica-set membership, for the doctor."""
        with map_driver_errors():
            return {
                **await self._client.admin.command("buildInfo"),
                **await self._client.admin.command("hello"),
            }

    async def empty(self) -> None:
        """Deletes every document and keeps the indexes; only tests do."""
        for name in await self._database.list_collection_names():
            await self._database[name].delete_many({})

    async def drop(self) -> None:
        """Deletes everything; only tests do."""
        await self._client.drop_database(self._database.name)

    def close(self) -> None:
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
        # What cannot be taken apart may be quoted from its middle, and that is where the password is.
        reason = "" if isinstance(error, InvalidURI | ValueError) else f": {error}"
    raise InvalidSetting(
        f"BUCKETLINE_MONGODB_URL will not do{reason}. It is like mongodb://user:password@host:27017/?replicaSet=rs, "
        "and characters such as @ : / in user and password are written as %40 %3A %2F"
    )


@contextmanager
def map_driver_errors() -> Iterator[None]:
    """Turns the driver's errors into ours."""
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
def query_timeout(seconds: float) -> Iterator[None]:
    """Limit the total time of all calls in the block; raise :class:`QueryTimeout` when it is exceeded.

    A server that hangs looks the same. One that cannot be reached is ``DependencyUnavailable``, as everywhere.
    """
    try:
        with pymongo.timeout(seconds):
            yield
    except DependencyUnavailable as error:
        if isinstance(error.__cause__, ExecutionTimeout | NetworkTimeout):
            raise QueryTimeout(f"MongoDB did not finish within {seconds:g} seconds") from error
        raise


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
    """A search over computed fields. The server moves what does not need them to the front, where indexes help."""
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
