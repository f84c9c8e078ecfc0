"""Composition root of the console: a small FastAPI application without access to MongoDB, Kafka or S3 credentials."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import aiohttp
from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from bucketline.observability.health import Health
from bucketline_console.api import ApiError
from bucketline_console.page import SignInRequired, cookie_name, render_plain
from bucketline_console.pages import batches, buckets, dead_letters, objects, overview, session, uploads, webhooks
from bucketline_console.settings import ConsoleSettings

STATIC = Path(__file__).parent / "static"

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def create(settings: ConsoleSettings) -> ASGIApp:
    """Build the ASGI application."""
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=settings.api.timeout_seconds)
        async with aiohttp.ClientSession(settings.api.api_url.rstrip("/"), timeout=timeout) as client:
            app.state.session = client
            yield

    app = FastAPI(
        title="Bucketline console",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.middleware("http")(protect)
    app.add_exception_handler(SignInRequired, _on_sign_in_required)
    app.add_exception_handler(ApiError, _on_api_error)
    for module in (session, overview, objects, batches, buckets, uploads, webhooks, dead_letters):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.router.routes.extend(health.routes())
    return app


async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse writes that pages of other origins send, and add the security headers.

    The cookie is ``SameSite=Strict``. The check of the origin also covers other ports and subdomains of this site.
    """
    if request.method not in ("GET", "HEAD") and not _is_same_origin(request):
        return PlainTextResponse("This request did not come from a page of this console.", 403)
    response = await call_next(request)
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if not request.url.path.startswith("/static/"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _is_same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


async def _on_sign_in_required(request: Request, _: Exception) -> Response:
    target = request.url.path if request.method == "GET" else "/"
    return RedirectResponse(f"/sign-in?next={quote(target)}", 303)


async def _on_api_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    if error.status == 401:
        response = await _on_sign_in_required(request, error)
        response.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
        return response
    return render_plain("error.html", error.status, message=error.message, code=error.status)
