"""A small client of our own HTTP API, for the commands that use it."""

from types import TracebackType
from typing import Any, Self

import aiohttp

from bucketline.errors import BucketlineError

Json = dict[str, Any]


class ApiFailure(BucketlineError):
    """The API said no; ``status`` is the HTTP status, the message the API's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class ApiClient:
    """Talks to one Bucketline API as one key in one namespace."""

    def __init__(self, url: str, key: str, namespace: str | None = None, *, timeout: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        if namespace:
            headers["X-Namespace"] = namespace
        self._session = aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Json:
        return await self._call("GET", path, None, query)

    async def post(self, path: str, body: Json | None = None, **query: str) -> Json:
        return await self._call("POST", path, body, query)

    async def _call(self, method: str, path: str, body: Json | None, query: dict[str, str]) -> Json:
        try:
            async with self._session.request(method, path, json=body, params=query) as response:
                try:
                    answer: Json = await response.json() if response.content_length != 0 else {}
                except (aiohttp.ContentTypeError, ValueError):
                    raise ApiFailure(response.status, f"{self._session._base_url} does not answer as the API") from None
                if response.status >= 400:
                    raise ApiFailure(response.status, _message(answer))
                return answer
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise BucketlineError(
                f"the API at {self._session._base_url} does not answer; is `make up` running?"
            ) from error


def _message(answer: Json) -> str:
    error = answer.get("error", {})
    rows = (error.get("details") or {}).get("validation_errors") or []
    faults = "; ".join(f"{'.'.join(map(str, row['location']))}: {row['message']}" for row in rows[:5])
    return f"{error.get('message', 'unknown error')}{f' ({faults})' if faults else ''}"
