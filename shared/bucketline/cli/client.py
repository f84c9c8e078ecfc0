"""A small client of Bucketline's own HTTP API for the commands that need it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self

import aiohttp
from yarl import URL

from bucketline.domain.status import FINAL
from bucketline.errors import BucketlineError

Json = dict[str, Any]

MAX_VALIDATION_ERRORS = 5
MAX_LISTED = 500
"""Objects per request while they are followed; the API allows 1,000."""
MAX_CONCURRENT_READS = 16


class ApiError(BucketlineError):
    """The API returned an error: ``status`` is the HTTP status, the message comes from the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class ApiClient:
    """Sends requests to one Bucketline API with one key and in one namespace."""

    def __init__(self, url: str, key: str, namespace: str | None = None, *, timeout: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        if namespace:
            headers["X-Namespace"] = namespace
        self._url = url
        self._session = aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Json:
        """Send a GET request and return the JSON of the response."""
        return await self._request("GET", path, None, query)

    async def post(self, path: str, body: Json | None = None, **query: str) -> Json:
        """Send a POST request and return the JSON of the response."""
        return await self._request("POST", path, body, query)

    async def put_file(self, url: str, content: AsyncIterator[bytes], media_type: str, size: int) -> str:
        """Send ``size`` bytes to a presigned URL, without a time limit and without the API key. Return the ETag."""
        headers = {"Content-Type": media_type, "Content-Length": str(size)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=300.0)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.put(URL(url, encoded=True), data=content, headers=headers) as response,
            ):
                if response.status != 200:
                    raise ApiError(response.status, "the store refused the file")
                return response.headers["ETag"]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BucketlineError(f"the store did not accept the file: {type(error).__name__}") from error

    async def _request(self, method: str, path: str, body: Json | None, query: dict[str, str]) -> Json:
        try:
            async with self._session.request(method, path, json=body, params=query) as response:
                try:
                    is_empty = response.status == 204 or response.content_length == 0
                    content: Json = {} if is_empty else await response.json()
                except (aiohttp.ContentTypeError, ValueError):
                    raise ApiError(response.status, f"{self._url} did not return JSON; is it the API?") from None
                if response.status >= 400:
                    raise ApiError(response.status, _describe_error(content))
                return content
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise BucketlineError(f"the API at {self._url} did not answer; is `make up` running?") from error


def _describe_error(content: Json) -> str:
    error = content.get("error", {})
    rows = (error.get("details") or {}).get("validation_errors") or []
    details = "; ".join(
        f"{'.'.join(map(str, row['location']))}: {row['message']}" for row in rows[:MAX_VALIDATION_ERRORS]
    )
    return f"{error.get('message', 'unknown error')}{f' ({details})' if details else ''}"


async def follow_objects(
    client: ApiClient,
    bucket: str,
    object_ids: Sequence[str],
    *,
    on_progress: Callable[[int], None] = lambda _finished: None,
    poll_interval: float = 0.5,
) -> list[Json]:
    """Wait, without a limit, until all objects have a final status. Return them in the order of ``object_ids``.

    Of an object that was deleted meanwhile only the id and the status ``DELETED`` are returned. ``on_progress`` is
    called with the number of finished objects after each look.
    """
    path = f"/v1/buckets/{bucket}/objects"
    pending = list(dict.fromkeys(object_ids))
    total = len(pending)
    deleted: set[str] = set()
    while pending:
        statuses: dict[str, str] = {}
        for ids in _split(pending, MAX_LISTED):
            condition = {"field": "object_id", "operator": "in", "value": ids}
            body = {"filters": {"AND": [condition]}, "select": ["status"], "limit": MAX_LISTED}
            results = (await client.post(f"{path}/list", body))["results"]
            statuses |= {row["object_id"]: row["status"] for row in results}
        deleted.update(set(pending) - statuses.keys())
        pending = [object_id for object_id in pending if object_id in statuses and statuses[object_id] not in FINAL]
        on_progress(total - len(pending))
        if pending:
            await asyncio.sleep(poll_interval)

    async def read(object_id: str) -> Json:
        if object_id in deleted:
            return {"object_id": object_id, "status": "DELETED"}
        return await client.get(f"{path}/{object_id}")

    objects: list[Json] = []
    for ids in _split(object_ids, MAX_CONCURRENT_READS):
        objects += await asyncio.gather(*map(read, ids))
    return objects


def _split(items: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
