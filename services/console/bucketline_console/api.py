"""Client of the public API: the only source of what the console shows."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

Json = dict[str, Any]

MAX_VALIDATION_ERRORS = 5
TRANSFER_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=300.0)


class ApiError(Exception):
    """The API refused a request or cannot be reached. ``message`` can be shown to the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Api:
    """Sends requests with one API key, in one namespace if given."""

    def __init__(self, session: aiohttp.ClientSession, key: str, namespace: str | None = None) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {key}", **({"X-Namespace": namespace} if namespace else {})}

    async def get(self, path: str, **query: str) -> Json:
        """Send a GET request and return the JSON of the response."""
        return await self._request("GET", path, None, query)

    async def post(self, path: str, body: Json | None = None, **query: str) -> Json:
        """Send a POST request and return the JSON of the response."""
        return await self._request("POST", path, body, query)

    async def put_file(self, url: str, content: AsyncIterator[bytes], media_type: str, size: int) -> str:
        """Send ``size`` bytes to a presigned URL as they arrive, without the API key. Return the ETag."""
        headers = {"Content-Type": media_type, "Content-Length": str(size)}
        try:
            async with self._session.put(
                URL(url, encoded=True), data=content, headers=headers, timeout=TRANSFER_TIMEOUT
            ) as response:
                if response.status != 200:
                    raise ApiError(response.status, f"The store refused the file ({response.status}).")
                return response.headers["ETag"]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(503, f"The store did not accept the file: {type(error).__name__}.") from error

    @asynccontextmanager
    async def open_file(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response of a presigned URL."""
        try:
            async with self._session.get(URL(url, encoded=True), headers=headers, timeout=TRANSFER_TIMEOUT) as response:
                yield response
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise ApiError(503, f"The store does not answer: {type(error).__name__}.") from error

    async def _request(self, method: str, path: str, body: Json | None, query: Mapping[str, str]) -> Json:
        try:
            async with self._session.request(
                method, URL(path, encoded=True).with_query(query), json=body, headers=self._headers
            ) as response:
                try:
                    content: Json = await response.json() if response.content_length != 0 else {}
                except (aiohttp.ContentTypeError, ValueError):
                    raise ApiError(502, "The address of the API did not return JSON. Is it the API?") from None
                if response.status >= 400:
                    raise ApiError(response.status, _describe_error(content))
                return content
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise ApiError(503, f"The API does not answer: {type(error).__name__}.") from error


def _describe_error(content: Json) -> str:
    error = content.get("error") or {}
    rows = (error.get("details") or {}).get("validation_errors") or []
    details = "; ".join(
        f"{'.'.join(map(str, row['location']))}: {row['message']}" for row in rows[:MAX_VALIDATION_ERRORS]
    )
    return f"{error.get('message', 'unknown error')}{f' ({details})' if details else ''}"
