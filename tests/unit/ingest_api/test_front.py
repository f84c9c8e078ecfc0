"""What the outermost layer makes of requests that do not arrive as they should."""

from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import REGISTRY
from pydantic import BaseModel
from starlette.types import Message

from bucketline.errors import StoreUnavailable
from bucketline.ids import CountingIds
from bucketline.telemetry.health import Health
from ingest_api import faults
from ingest_api.auth import Auth
from ingest_api.bodies import Bodies, Bounds
from ingest_api.front import PROBES, Front
from ingest_api.limits import Limiter
from ingest_api.shortcut import Shortcut

LIMIT = 1000

router = APIRouter()


class Thing(BaseModel):
    name: str


@router.post("/things")
async def through_the_framework(thing: Thing) -> Thing:
    return thing


@router.post("/hot")
async def past_the_framework(request: Request) -> Response:
    return JSONResponse({"size": len(await request.body())})


@router.post("/away")
async def away() -> None:
    raise StoreUnavailable("no primary on db-7.internal")


class Doorman:
    """Lets everybody in."""

    async def caller(self, _: str | None) -> object:
        return SimpleNamespace()

    async def admit(self, *_: object) -> dict[str, str]:
        return {}


async def ask(path: str, *messages: Message) -> tuple[int, Any] | None:
    """The status and the body of the answer to a request that arrives in these pieces; None if there is none."""
    app = FastAPI()
    app.include_router(router)
    faults.install(app)
    front = Front(
        Shortcut(app, router.routes, (past_the_framework,)),
        auth=lambda: cast("Auth", Doorman()),
        limiter=lambda: cast("Limiter", Doorman()),
        ids=CountingIds(),
        bodies=Bodies(Bounds(LIMIT, together=LIMIT)),
    )
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
    await front(scope, receive, send)
    if not sent:
        return None
    return sent[0]["status"], orjson.loads(b"".join(message.get("body", b"") for message in sent))


def piece(size: int, *, more: bool) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


@pytest.mark.parametrize("path", ["/things", "/hot"])
async def test_a_body_whose_length_was_not_announced_is_refused_where_it_gets_too_long(path: str) -> None:
    status, body = await ask(path, piece(LIMIT, more=True), piece(1, more=True)) or (0, {})
    assert (status, body["error"]["type"]) == (413, "PayloadTooLargeError")
    assert body["error"]["details"] == {"limit_bytes": LIMIT}


async def test_a_client_that_leaves_in_the_middle_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    def counted(status: str) -> float:
        labels = {"method": "POST", "route": "/hot", "status": status}
        return REGISTRY.get_sample_value("bucketline_http_request_seconds_count", labels) or 0.0

    before = counted("499")
    assert await ask("/hot", piece(10, more=True), {"type": "http.disconnect"}) is None
    assert counted("499") == before + 1
    assert counted("500") == 0
    assert "unexpected error" not in caplog.text


async def test_a_store_that_is_away_is_told_without_its_name() -> None:
    status, body = await ask("/away", piece(0, more=False)) or (0, {})
    assert status == 503
    assert body["error"]["details"] == {"retryable": True, "retry_after_seconds": 5}
    assert "db-7" not in str(body)


async def test_probes_are_not_among_the_requests_that_are_counted() -> None:
    def counted() -> float:
        [family] = [f for f in REGISTRY.collect() if f.name == "bucketline_http_request_seconds"]
        return sum(sample.value for sample in family.samples if sample.name.endswith("_count"))

    before = counted()
    for path in sorted(PROBES):
        assert await ask(path, piece(0, more=False)) is not None
    assert counted() == before
    await ask("/things", piece(0, more=False))
    assert counted() == before + 1


def test_probes_are_what_every_service_answers_beside_its_work() -> None:
    assert {route.path for route in Health().routes()} == PROBES
