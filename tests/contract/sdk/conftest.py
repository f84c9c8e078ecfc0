"""The official clients, pointed at the running services.

Both are synchronous: tests call them through :func:`call`, so that the services' output is read meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import pytest
from mixpeek import ApiClient, Configuration, Mixpeek
from tests.conftest import Api
from tests.waiting import present

P = ParamSpec("P")
R = TypeVar("R")


async def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """One call of a client, in a thread."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def call_list(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
    """Call a list method of the hand-written client, which returns a page although its annotation says a list."""
    page = await call(function, *args, **kwargs)
    assert isinstance(page, dict)
    return page


class Parsed(Protocol):
    """A generated model, which parses itself."""

    @classmethod
    def from_dict(cls, obj: dict[str, Any] | None, /) -> Self | None: ...


M = TypeVar("M", bound=Parsed)


def parse(model: type[M], body: Mapping[str, object]) -> M:
    """Return ``body`` as a model of the generated client."""
    return present(model.from_dict(dict(body)))


class Sdk:
    """Makes clients of both kinds for one API."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def mixpeek(self, namespace: str | None = None, key: str | None = None) -> Mixpeek:
        """The hand-written client: its base URL ends in /v1."""
        return Mixpeek(key or self._api.key, namespace=namespace, base_url=f"{self._api.url}/v1", timeout=30)

    def generated(self, kind: Callable[[ApiClient], R], namespace: str | None = None, key: str | None = None) -> R:
        """One of the generated ``*Api`` classes."""
        configuration = Configuration(
            host=self._api.url,
            access_token=key or self._api.key,
            api_key={"NamespaceHeader": namespace} if namespace else {},
        )
        return kind(ApiClient(configuration))


@pytest.fixture
def sdk(api: Api) -> Sdk:
    """The official clients."""
    return Sdk(api)
