"""Past the framework, a request is answered as through it."""

import json
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from bucketline_ingest_api.fast_path import FastPath

router = APIRouter()


@router.post("/things/{name}")
async def hot(request: Request) -> Response:
    body = await request.json()
    seen = {"name": request.path_params["name"], "app": request.app.title, "route": request.scope["route"].path}
    return JSONResponse({**seen, "body": body, "layers": "router" in request.scope})


@router.get("/things/{name}")
async def cold(name: str) -> dict[str, str]:
    return {"cold": name}


async def ask(method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    app = FastAPI(title="demo")
    app.include_router(router)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "root_path": ""}
    await FastPath(app, router.routes, (hot,))(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(text)


async def test_the_endpoint_sees_what_it_would_see_through_the_framework() -> None:
    status, answer = await ask("POST", "/things/a b", b'{"n": 1}')
    assert status == 200
    assert answer == {"name": "a b", "app": "demo", "route": "/things/{name}", "body": {"n": 1}, "layers": False}


async def test_everything_else_goes_through_the_framework() -> None:
    assert await ask("GET", "/things/a") == (200, {"cold": "a"})
    assert (await ask("PUT", "/things/a"))[0] == 405
    assert (await ask("POST", "/things/a/b"))[0] == 404
