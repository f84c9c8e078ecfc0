"""The outermost layer, around every path: request id, span, metrics, body limit, authentication, errors.

One ASGI middleware and not six: each of them would cost every request.

It also evens out what clients and load balancers write differently: one slash at the end of a path is dropped (a
redirect would lose the body, and name a host that the client may not reach), and HEAD is answered as GET without its
body.
"""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import orjson
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bucketline.errors import ApiError, DependencyUnavailable, HeadersTooLarge, ServiceUnavailable
from bucketline.ids import Ids
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import HTTP_SECONDS
from bucketline.observability.tracing import current_trace_id, http_method, record_response, start_server_span
from bucketline_ingest_api.auth import Auth
from bucketline_ingest_api.body_limit import BodyLimiter
from bucketline_ingest_api.rate_limit import RateLimiter

log = get_logger(__name__)

OPEN_PATHS = frozenset(
    {
        "/v1/health",
        "/v1/health/liveness",
        "/docs",
        "/docs/oauth2-redirect",
        "/openapi.json",
        "/live",
        "/ready",
        "/metrics",
    }
)
PROBES = frozenset({"/live", "/ready", "/metrics"})
"""Asked every few seconds by the cluster, whoever else asks: in the histogram they would hide what clients see."""

MAX_REQUEST_ID = 128
MAX_HEADER_BYTES = 64 * 1024
"""Names and values of all headers of a request, with :data:`HEADER_OVERHEAD` for each."""
HEADER_OVERHEAD = 32
CLIENT_CLOSED_REQUEST = 499
"""Status that is recorded when a client disconnects before it has sent the whole request; no client receives it."""


class EdgeMiddleware:
    """Wraps the application. ``scope["state"]`` gets ``caller`` and ``request_id``."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        auth: Callable[[], Auth],
        limiter: Callable[[], RateLimiter],
        ids: Ids,
        bodies: BodyLimiter,
    ) -> None:
        self._app = app
        self._auth = auth
        self._limiter = limiter
        self._ids = ids
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id")) or self._ids.new("req")
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started = time.perf_counter()
        answered: dict[str, int] = {}
        extra = {"X-Request-Id": request_id}
        asked, scope = scope, _routed(scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
                found = MutableHeaders(scope=message)
                for name, value in extra.items():
                    found[name] = value
            elif asked["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        parent = {name: value for name in ("traceparent", "tracestate") if (value := headers.get(name))}
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            start_server_span(asked, parent) as opened,
        ):
            try:
                _refuse_large_headers(scope)
                # a preflight carries no key, and learns only which methods a path has
                if scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
                    auth = self._auth()
                    state["caller"] = await auth.caller(headers.get("authorization"))
                    extra |= await self._limiter().admit(state["caller"], scope)
                async with AsyncExitStack() as held:
                    await self._app(scope, self._bodies.taken_in(receive, headers, held), answer)
            except ClientDisconnect:
                answered.setdefault("status", CLIENT_CLOSED_REQUEST)
            except Exception as error:
                if "status" in answered:
                    raise
                await respond_to(error)(scope, receive, answer)
            finally:
                route = _route(scope)
                status = answered.get("status", 500)
                record_response(opened, asked, route, status)
                if scope["path"] not in PROBES:
                    seconds = time.perf_counter() - started
                    HTTP_SECONDS.labels(http_method(asked), route or "unmatched", str(status)).observe(seconds)


def respond_to(error: Exception) -> Response:
    """The answer to an error: ours as they say, everything else as a 500 that tells nothing internal."""
    if isinstance(error, DependencyUnavailable):
        log.warning("a store is away", error=error.message)
        error = ServiceUnavailable()
    if not isinstance(error, ApiError):
        log.error("unexpected error", exc_info=error)
        error = ApiError("unexpected error")
    body = error.envelope()
    trace_id = current_trace_id()
    headers = {**error.headers, **({"X-Trace-Id": trace_id} if trace_id else {})}
    return Response(orjson.dumps(body), error.status, headers, "application/json")


async def on_error(_: Request, error: Exception) -> Response:
    """The same, for errors that FastAPI catches itself."""
    return respond_to(error)


def _routed(scope: Scope) -> Scope:
    """The request as the routes see it: without one slash at the end of the path, and HEAD as GET.

    The slash has to be one on the wire: an escaped one (``%2F``) belongs to the name before it.
    """
    path, method = scope["path"], scope["method"]
    trailing = len(path) > 1 and path.endswith("/") and scope.get("raw_path", b"/").partition(b"?")[0].endswith(b"/")
    if not trailing and method != "HEAD":
        return scope
    return {**scope, "path": path[:-1] if trailing else path, "method": "GET" if method == "HEAD" else method}


def _refuse_large_headers(scope: Scope) -> None:
    size = sum(len(name) + len(value) + HEADER_OVERHEAD for name, value in scope["headers"])
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(
            f"the headers have more than {MAX_HEADER_BYTES} bytes together",
            details={"limit_bytes": MAX_HEADER_BYTES, "size_bytes": size},
        )


def _request_id(given: str | None) -> str | None:
    """A caller's own request id is kept if it is harmless."""
    if given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable():
        return given
    return None


def _route(scope: Scope) -> str | None:
    """The route's template: paths with ids in them would be a metric each. None where there is no such path."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path
