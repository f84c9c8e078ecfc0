import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.unit.processor.extractors.conftest import DocumentsOf

from bucketline.extractors import (
    BlobView,
    MemorySource,
    OutboundPolicy,
    PermanentError,
    ResourceError,
    TransientError,
)
from bucketline_processor.extractors.http import HEADER, HttpExtractor, sign

NOW = 1_700_000_000.0
BLOB = BlobView("blob_1", "photo", "image", "a.png", "image/png", 3, "ab", MemorySource(b"png", "http://s3/a?sig=1"))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """Start a model server on loopback; gives its URL."""
    servers: list[TestServer] = []

    async def start(handler: Handler) -> str:
        application = web.Application()
        application.router.add_post("/model", handler)
        server = TestServer(application)
        await server.start_server()
        servers.append(server)
        return str(server.make_url("/model"))

    yield start
    for server in servers:
        await server.close()


def extractor() -> HttpExtractor:
    return HttpExtractor(clock=lambda: NOW, first_wait=0.0)


def policy(url: str, **limits: Any) -> OutboundPolicy:
    return OutboundPolicy(allowed_endpoints=(url,), signing_secret="s3cret", **limits)


async def test_the_server_gets_a_signed_object_with_urls_and_its_answer_becomes_documents(
    serve: Serve, documents_of: DocumentsOf
) -> None:
    seen: dict[str, Any] = {}

    async def model(request: web.Request) -> web.Response:
        body = await request.read()
        seen.update(json.loads(body), signed=request.headers[HEADER] == sign("s3cret", body, NOW))
        return web.json_response({"documents": [{"label": "cat", "score": 0.9}, {"label": "dog"}]})

    url = await serve(model)
    documents = await documents_of(
        extractor(),
        BLOB,
        parameters={"endpoint": url, "options": {"top": 2}},
        fields={"sku": "A-17"},
        inputs={"hint": "animals"},
        outbound=policy(url),
    )

    assert [document.fields for document in documents] == [{"label": "cat", "score": 0.9}, {"label": "dog"}]
    assert seen["signed"] is True
    assert seen["object"]["object_id"] == "obj_1"
    assert seen["object"]["fields"] == {"sku": "A-17"}
    assert seen["inputs"] == {"hint": "animals"}
    assert seen["options"] == {"top": 2}
    assert seen["blobs"][0]["url"] == "http://s3/a?sig=1"
    assert seen["blobs"][0]["size_bytes"] == 3


async def test_a_server_that_recovers_is_asked_again(serve: Serve, documents_of: DocumentsOf) -> None:
    calls = []

    async def model(request: web.Request) -> web.Response:
        calls.append(1)
        if len(calls) < 3:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return web.json_response({"documents": []})

    url = await serve(model)
    assert await documents_of(extractor(), parameters={"endpoint": url}, outbound=policy(url)) == []
    assert len(calls) == 3


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 504, 507, 529, 599])
async def test_attempts_are_limited_and_then_the_error_is_transient(
    serve: Serve, documents_of: DocumentsOf, status: int
) -> None:
    calls = []

    async def model(request: web.Request) -> web.Response:
        calls.append(1)
        return web.Response(status=status)

    url = await serve(model)
    with pytest.raises(TransientError, match=f"answered {status}"):
        await documents_of(extractor(), parameters={"endpoint": url, "attempts": 2}, outbound=policy(url))
    assert len(calls) == 2


async def test_rejected_request_is_permanent_and_quotes_the_server(serve: Serve, documents_of: DocumentsOf) -> None:
    calls = []

    async def model(request: web.Request) -> web.Response:
        calls.append(1)
        return web.Response(status=422, text="image too small")

    url = await serve(model)
    with pytest.raises(PermanentError, match="answered 422: image too small"):
        await documents_of(extractor(), parameters={"endpoint": url}, outbound=policy(url))
    assert len(calls) == 1


async def test_a_silent_server_is_transient(serve: Serve, documents_of: DocumentsOf) -> None:
    over = asyncio.Event()

    async def model(request: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    url = await serve(model)
    with pytest.raises(TransientError, match=r"within 0\.2 seconds"):
        await documents_of(extractor(), parameters={"endpoint": url, "attempts": 1}, outbound=policy(url, timeout=0.2))
    over.set()


async def test_refused_connection_is_transient(documents_of: DocumentsOf, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/model"
    with pytest.raises(TransientError, match="could not be reached"):
        await documents_of(extractor(), parameters={"endpoint": url, "attempts": 1}, outbound=policy(url))


async def test_an_endless_answer_is_cut(serve: Serve, documents_of: DocumentsOf) -> None:
    async def model(request: web.Request) -> web.Response:
        return web.json_response({"documents": [{"text": "x" * 100_000}]})

    url = await serve(model)
    with pytest.raises(ResourceError, match="larger than 5000 bytes"):
        await documents_of(extractor(), parameters={"endpoint": url}, outbound=policy(url, max_response_bytes=5000))


async def test_an_endpoint_that_is_not_allowed_is_never_called(serve: Serve, documents_of: DocumentsOf) -> None:
    calls = []

    async def model(request: web.Request) -> web.Response:
        calls.append(1)
        return web.json_response({"documents": []})

    url = await serve(model)
    with pytest.raises(PermanentError, match="not among those"):
        await documents_of(extractor(), parameters={"endpoint": url}, outbound=OutboundPolicy())
    assert calls == []


async def test_a_redirect_out_of_the_allowed_place_is_not_followed(serve: Serve, documents_of: DocumentsOf) -> None:
    calls = []

    async def other(request: web.Request) -> web.Response:
        calls.append(1)
        return web.json_response({"documents": []})

    elsewhere = await serve(other)

    async def model(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": elsewhere})

    url = await serve(model)
    with pytest.raises(PermanentError, match="answered 307"):
        await documents_of(extractor(), parameters={"endpoint": url}, outbound=policy(url))
    assert calls == []


@pytest.mark.parametrize("answer", ["not json", "[]", '{"documents": {}}', '{"documents": [1]}'])
async def test_an_answer_of_another_shape_is_permanent(serve: Serve, documents_of: DocumentsOf, answer: str) -> None:
    async def model(request: web.Request) -> web.Response:
        return web.Response(text=answer)

    url = await serve(model)
    with pytest.raises(PermanentError, match="the model server's answer"):
        await documents_of(extractor(), parameters={"endpoint": url}, outbound=policy(url))
