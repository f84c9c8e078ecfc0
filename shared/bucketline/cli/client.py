"""A small client of Bucketline's own HTTP API for the commands that need it."""

import asyncio
import time
from collections import Counter
from typing import Any, Self

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bucketline.domain.status import FINAL
from bucketline.errors import BucketlineError

Json = dict[str, Any]

MAX_ROWS = 20
MAX_VALIDATION_ERRORS = 5
_COLORS = {"DRAFT": "dim", "QUEUED": "cyan", "PROCESSING": "yellow", "COMPLETED": "green"}


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

    async def _request(self, method: str, path: str, body: Json | None, query: dict[str, str]) -> Json:
        try:
            async with self._session.request(method, path, json=body, params=query) as response:
                try:
                    content: Json = await response.json() if response.content_length != 0 else {}
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
    console: Console,
    client: ApiClient,
    bucket: str,
    object_ids: list[str],
    *,
    idle_timeout: float = 120.0,
    poll_interval: float = 0.1,
) -> list[Json]:
    """Show the objects until all have a final status. Return them in the order of ``object_ids``.

    Raises BucketlineError when no status has changed for ``idle_timeout`` seconds.
    """
    objects: dict[str, Json] = {}
    counts: Counter[str] = Counter()
    started = changed = time.monotonic()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            pending = [oid for oid in object_ids if objects.get(oid, {}).get("status") not in FINAL]
            responses = await asyncio.gather(*(client.get(f"/v1/buckets/{bucket}/objects/{oid}") for oid in pending))
            objects |= {response["object_id"]: response for response in responses}
            live.update(_build_table(objects, time.monotonic() - started))
            if all(objects[oid]["status"] in FINAL for oid in object_ids):
                return [objects[oid] for oid in object_ids]
            previous, counts = counts, Counter(obj["status"] for obj in objects.values())
            if counts != previous:
                changed = time.monotonic()
            elif time.monotonic() - changed > idle_timeout:
                raise BucketlineError(
                    f"no object has changed its status for {idle_timeout:.0f} s: {dict(counts)}; "
                    "see the logs of the services"
                )
            await asyncio.sleep(poll_interval)


def _build_table(objects: dict[str, Json], seconds: float) -> Table:
    title = f"Following {len(objects)} objects · {seconds:.1f} s"
    table = Table("Object", "Status", title=title, title_justify="left")
    for obj in list(objects.values())[:MAX_ROWS]:
        color = _COLORS.get(obj["status"], "red")
        table.add_row(obj.get("key_prefix") or obj["object_id"], f"[{color}]{obj['status']}[/]")
    return table
