"""Requests as they are on the wire, for what the official clients hide: status, headers, odd bodies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from tests import sdk_models
from tests.conftest import Api


@dataclass(frozen=True)
class Reply:
    """An answer. ``body`` is its JSON, None if it has none."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def error(self) -> Any:
        return self.body["error"]

    @property
    def faults(self) -> dict[str, str]:
        """Rows of a 422: dotted location to type."""
        rows = self.error["details"]["validation_errors"]
        return {".".join(map(str, row["location"])): row["type"] for row in rows}


class Wire:
    """One namespace of the API, as one key."""

    def __init__(self, api: Api, namespace: str | None, session: aiohttp.ClientSession) -> None:
        self._api = api
        self._namespace = namespace
        self._session = session

    async def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> Reply:
        sent = {"Authorization": f"Bearer {self._api.key}", **(headers or {})}
        if self._namespace is not None:
            sent["X-Namespace"] = self._namespace
        content: dict[str, Any] = {"json": body} if raw is None and body is not None else {"data": raw}
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self._session.request(
            method, f"{self._api.url}{path}", headers=sent, params=query, **content
        ) as answer:
            text = await answer.read()
            body = await answer.json() if text else None
            sdk_models.parse(method, path, answer.status, body)
            return Reply(answer.status, answer.headers, body)
