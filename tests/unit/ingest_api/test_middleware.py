"""The edge middleware: body and header limits, disconnects, errors, trailing slashes, CORS."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote

import orjson
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import REGISTRY
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from bucketline.errors import DependencyUnavailable
from bucketline.ids import CountingIds
from bucketline.observability.health import Health
from bucketline_ingest_api import exception_handlers
from bucketline_ingest_api.app import add_cors
from bucketline_ingest_api.middleware import PROBES, BodyLimiter, EdgeMiddleware
from bucketline_ingest_api.settings import ApiSettings

LIMIT = 1000

router = APIRouter()


class Thing(BaseModel):
    name: str


@router.post("/things")
async def parsed(thing: Thing) -> Thing:
    return thing


@router.post("/raw")
async def raw(request: Request) -> Response:
    return JSONResponse({"size": len(await request.body())})


@router.get("/named/{name}")
async def named(name: str) -> str:
    return name


@router.post("/away")
async def away() -> None:
    raise DependencyUnavailable("no primary on db-7.internal")


@router.post("/broken")
async def broken() -> None:
    raise RuntimeError("secret detail")


class FakeGuard:
    """Authenticates every caller and limits none."""

    async def caller(self, _: str | None) -> object:
        return SimpleNamespace()

    async def check(self, *_: object) -> dict[str, str]:
        return {}


def build_app() -> EdgeMiddleware:
    app = FastAPI(redirect_slashes=False)
    app.include_router(router)
    exception_handlers.install(app)
    app.state.container = SimpleNamespace(auth=FakeGuard(), rate_limiter=FakeGuard())
    return EdgeMiddleware(app, ids=CountingIds(), body_limiter=BodyLimiter(LIMIT, LIMIT), store_timeout_seconds=4)


async def ask(path: str, *messages: Message) -> tuple[int, Any] | None:
    """Return status and body of the response to a request that arrives in these pieces; None if there is none."""
    pieces, sent = list(messages), cast("list[Message]", [])

    async def receive() -> Message:
        return pieces.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")],
        "root_path": "",
    }
    await build_app()(scope, receive, send)
    if not sent:
        return None
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], orjson.loads(content) if content else None


def piece(size: int, *, more: bool) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


@pytest.mark.parametrize("path", ["/things", "/raw"])
async def test_chunked_body_above_the_limit_returns_413(path: str) -> None:
    status, body = await ask(path, piece(LIMIT, more=True), piece(1, more=True)) or (0, {})
    assert (status, body["error"]["type"]) == (413, "PayloadTooLargeError")
    assert body["error"]["details"] == {"limit_bytes": LIMIT}


@pytest.mark.parametrize("path", ["/things", "/raw"])
async def test_client_disconnect_during_the_body_is_recorded_as_499(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def count(status: str) -> float:
        labels = {"method": "POST", "route": path, "status": status}
        return REGISTRY.get_sample_value("http_server_request_duration_seconds_count", labels) or 0.0

    before = count("499")
    await ask(path, piece(10, more=True), {"type": "http.disconnect"})
    assert count("499") == before + 1
    assert count("400") == count("500") == 0
    assert "unexpected error" not in caplog.text


async def test_unexpected_error_returns_500_with_the_envelope_and_no_detail() -> None:
    status, body = await ask("/broken", piece(0, more=False)) or (0, {})
    assert status == 500
    assert body["error"] == {"message": "unexpected error", "type": "InternalServerError"}


async def test_unavailable_dependency_returns_503_without_its_name() -> None:
    status, body = await ask("/away", piece(0, more=False)) or (0, {})
    assert status == 503
    assert body["error"]["details"] == {"retryable": True, "retry_after_seconds": 5}
    assert "db-7" not in str(body)


async def test_probes_are_not_measured() -> None:
    def counted() -> float:
        [family] = [f for f in REGISTRY.collect() if f.name == "http_server_request_duration_seconds"]
        return sum(sample.value for sample in family.samples if sample.name.endswith("_count"))

    before = counted()
    for path in sorted(PROBES):
        assert await ask(path, piece(0, more=False)) is not None
    assert counted() == before
    await ask("/things", piece(0, more=False))
    assert counted() == before + 1


def test_probes_are_the_health_routes_of_every_service() -> None:
    assert {route.path for route in Health().routes()} == PROBES


@pytest.mark.parametrize("path", ["/things/", "/raw/"])
async def test_trailing_slash_is_ignored_and_the_body_kept(path: str) -> None:
    status, _ = await ask(path, {"type": "http.request", "body": b'{"name": "a"}', "more_body": False}) or (0, {})
    assert status == 200


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Headers
    body: Any


async def request(app: ASGIApp, method: str, target: str, **headers: str) -> Reply:
    """Send a request without a body; ``target`` is percent-encoded, and underscores in header names are hyphens."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": unquote(target),
        "raw_path": target.encode(),
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "root_path": "",
    }
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent)
    found = Headers(raw=sent[0]["headers"])
    return Reply(sent[0]["status"], found, orjson.loads(content) if content.startswith((b"{", b'"')) else None)


async def test_escaped_trailing_slash_belongs_to_the_name() -> None:
    for target, status in (("/named/a", 200), ("/named/a/", 200), ("/named/a%2F", 404), ("/named/a%2f/", 404)):
        assert (await request(build_app(), "GET", target)).status == status


@pytest.mark.parametrize("count", [1, 3000])
async def test_too_large_headers_return_431(count: int) -> None:
    headers = {f"x_{n}": "v" * (70_000 // count) for n in range(count)}
    answer = await request(build_app(), "GET", "/named/a", **headers)
    assert (answer.status, answer.body["status"], answer.body["success"]) == (431, 431, False)
    assert answer.body["error"]["type"] == "RequestHeaderFieldsTooLargeError"
    assert answer.headers["x-request-id"]
    assert (await request(build_app(), "GET", "/named/a", x_1="v" * 60_000)).status == 200


PREFLIGHT = {"origin": "https://app.example.com", "access_control_request_method": "POST"}


async def test_preflight_without_origins_allows_none() -> None:
    answer = await request(add_cors(build_app(), ApiSettings()), "OPTIONS", "/things", **PREFLIGHT)
    assert (answer.status, answer.headers["allow"]) == (204, "OPTIONS, POST")
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", ["https://app.example.com", "http://localhost:3000, https://app.example.com", "*"])
async def test_preflight_of_a_configured_origin_is_allowed(origins: str) -> None:
    app = add_cors(build_app(), ApiSettings(cors_origins=origins))
    asked = {**PREFLIGHT, "access_control_request_headers": "authorization,content-type,x-namespace"}
    answer = await request(app, "OPTIONS", "/things", **asked)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] in ("*", PREFLIGHT["origin"])
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-namespace" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(("target", "status"), [("/named/a", 200), ("/nothing", 404)])
async def test_response_to_a_configured_origin_can_be_read(target: str, status: int) -> None:
    app = add_cors(build_app(), ApiSettings(cors_origins=PREFLIGHT["origin"]))
    answer = await request(app, "GET", target, origin=PREFLIGHT["origin"])
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == PREFLIGHT["origin"]
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


async def test_preflight_of_another_origin_is_not_allowed() -> None:
    app = add_cors(build_app(), ApiSettings(cors_origins=PREFLIGHT["origin"]))
    answer = await request(app, "OPTIONS", "/things", **{**PREFLIGHT, "origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origins", ["app.example.com", "https://app.example.com/", "https://a.b,,https://c.d", "null"])
def test_invalid_cors_origins_are_rejected(origins: str) -> None:
    with pytest.raises(ValidationError):
        ApiSettings(cors_origins=origins)
