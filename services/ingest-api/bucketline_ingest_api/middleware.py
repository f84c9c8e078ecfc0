"""The outermost layer of the application: request id, span, metrics, limits, authentication, errors.

It is one ASGI middleware instead of several, because each costs time on every request. It also evens out differences
between clients: one slash at the end of a path is ignored (a redirect would lose the body), and HEAD is answered as
GET without its body.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from bucketline.clock import Clock
from bucketline.db.mongo import Database, call_timeout
from bucketline.db.rate_limits import RateLimitCounters
from bucketline.errors import (
    BadRequest,
    HeadersTooLarge,
    PayloadTooLarge,
    ServiceUnavailable,
    TooManyRequests,
    ValidationFailed,
    ValidationIssue,
)
from bucketline.ids import Ids
from bucketline.observability.metrics import HTTP_SECONDS
from bucketline.observability.tracing import http_method, record_response, start_server_span
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.exception_handlers import CLIENT_CLOSED_REQUEST, error_response
from bucketline_ingest_api.settings import ApiSettings

PROBES = frozenset({"/live", "/ready", "/metrics"})
"""Paths that are not measured: the cluster requests them so often that they would hide the requests of clients."""
OPEN_PATHS = PROBES | {"/", "/v1/health", "/v1/health/liveness", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
"""Paths that need no API key."""

MAX_REQUEST_ID = 128
MAX_HEADER_BYTES = 64 * 1024
"""Limit on the names and values of all headers, with :data:`HEADER_OVERHEAD` for each."""
HEADER_OVERHEAD = 32
MAX_VALUES = 100_000
"""Limit on the members of objects and elements of arrays in a body."""


class EdgeMiddleware:
    """Wraps the application, whose ``state.container`` authenticates callers and limits their rate.

    ``scope["state"]`` gets ``caller`` and ``request_id``.
    """

    def __init__(self, app: FastAPI, *, ids: Ids, body_limiter: "BodyLimiter", store_timeout_seconds: float) -> None:
        self._app = app
        self._ids = ids
        self._store_timeout_seconds = store_timeout_seconds
        self._body_limiter = body_limiter

    async def __call__(self, original: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if original["type"] != "http":
            await self._app(original, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=original)
        request_id = _valid_request_id(headers.get("x-request-id")) or self._ids.new("req")
        response_headers = {"X-Request-Id": request_id}
        status: int | None = None
        is_answered = False
        state = original.setdefault("state", {})
        state["request_id"] = request_id
        scope = _normalize(original)

        async def send_response(message: Message) -> None:
            nonlocal status, is_answered
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(response_headers)
            else:
                is_answered = not message.get("more_body", False)
                if original["method"] == "HEAD":
                    message = {**message, "body": b""}
            await send(message)

        parent = {name: value for name in ("traceparent", "tracestate") if (value := headers.get(name))}
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            call_timeout(self._store_timeout_seconds),
            start_server_span(original, parent) as span,
        ):
            try:
                _check_header_size(scope)
                # A preflight has no key, and learns only the methods of a path.
                if scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
                    container = self._app.state.container
                    state["caller"] = await container.auth.caller(headers.get("authorization"))
                    response_headers |= await container.rate_limiter.check(state["caller"], scope)
                async with AsyncExitStack() as stack:
                    limited = self._body_limiter.wrap_receive(receive, headers, stack)
                    await self._app(scope, limited, send_response)
            except ClientDisconnect:
                status = status or CLIENT_CLOSED_REQUEST
            except Exception as error:
                if is_answered:
                    return  # Starlette raises an unexpected error again after its handler has sent the response.
                if status is not None:
                    raise
                await error_response(error)(scope, receive, send_response)
            finally:
                # The template of the route: with ids in the paths, each would be a metric of its own.
                route: str | None = getattr(scope.get("route"), "path", None)
                record_response(span, original, route, status or 500)
                if scope["path"] not in PROBES:
                    seconds = time.perf_counter() - started
                    labels = http_method(original), route or "unmatched", str(status or 500)
                    HTTP_SECONDS.labels(*labels).observe(seconds)


def _normalize(scope: Scope) -> Scope:
    """Return the request as the routes see it: without one slash at the end of the path, and HEAD as GET.

    An escaped slash (``%2F``) belongs to the name before it and is kept.
    """
    path, method = scope["path"], scope["method"]
    trailing = len(path) > 1 and path.endswith("/") and scope.get("raw_path", b"/").partition(b"?")[0].endswith(b"/")
    if not trailing and method != "HEAD":
        return scope
    return {**scope, "path": path[:-1] if trailing else path, "method": "GET" if method == "HEAD" else method}


def _check_header_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) + HEADER_OVERHEAD for name, value in scope["headers"])
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(
            f"the headers have more than {MAX_HEADER_BYTES} bytes together",
            details={"limit_bytes": MAX_HEADER_BYTES, "size_bytes": size},
        )


def _valid_request_id(value: str | None) -> str | None:
    return value if value and len(value) <= MAX_REQUEST_ID and value.isascii() and value.isprintable() else None


class RateLimiter:
    """Limits the requests of a key in a fixed window, counted in MongoDB for all replicas together.

    A limit of 0 disables it, except for keys that have their own limit.
    """

    def __init__(self, database: Database, settings: ApiSettings, *, clock: Clock) -> None:
        self._counters = RateLimitCounters(database)
        self._limit = settings.rate_limit
        self._window_seconds = settings.rate_window_seconds
        self._clock = clock

    async def check(self, caller: Principal, scope: Scope) -> Mapping[str, str]:
        """Count one request and return the headers of its response. Raise :class:`TooManyRequests` above the limit."""
        limit = caller.rate_limit or self._limit
        if limit == 0:
            return {}
        now = self._clock.now()
        window = int(now.timestamp()) // self._window_seconds
        ends_at = datetime.fromtimestamp((window + 1) * self._window_seconds, UTC)
        used = await self._counters.count(caller.key_id, window, ends_at)
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - used)),
            "X-RateLimit-Reset": str(int(ends_at.timestamp())),
            "X-RateLimit-Window": str(self._window_seconds),
        }
        if used <= limit:
            return headers
        wait = max(1, int((ends_at - now).total_seconds()))
        raise TooManyRequests(
            "rate limit exceeded",
            details={
                "api_name": f"{scope['method']} {scope['path']}",
                "limit": limit,
                "window": f"{self._window_seconds}s",
                "retry_after": wait,
                "retryable": True,
                "retry_after_seconds": wait,
            },
            headers={**headers, "Retry-After": str(wait)},
        )


class BodyLimiter:
    """Limits each request body, and the memory of all large bodies in this process together.

    A body of more than ``small_bytes`` waits up to ``wait_seconds`` for its share of ``max_inflight_bytes``. It then
    has to arrive within ``arrival_seconds``, so that a slow client does not keep the others waiting.
    """

    def __init__(
        self,
        max_bytes: int,
        max_inflight_bytes: int,
        *,
        small_bytes: int = 1024 * 1024,
        wait_seconds: float = 20.0,
        arrival_seconds: float = 60.0,
    ) -> None:
        self._max_bytes = max_bytes
        self._small_bytes = small_bytes
        self._wait_seconds = wait_seconds
        self._arrival_seconds = arrival_seconds
        self._memory = WeightedSemaphore(max_inflight_bytes)

    def wrap_receive(self, receive: Receive, headers: Headers, stack: AsyncExitStack) -> Receive:
        """Return a ``receive`` that enforces the limits. Memory is released when ``stack`` is closed.

        Raises ``PayloadTooLarge``, at once if the length is announced; ``ValidationFailed`` for more than
        :data:`MAX_VALUES` values; ``ServiceUnavailable`` or ``BadRequest`` when the waiting or arrival time is over.
        """
        length = headers.get("content-length", "")
        announced = int(length) if length.isdigit() else None
        if announced is not None and announced > self._max_bytes:
            raise self._too_large()
        received, deadline = 0, None
        # A value and its comma take two bytes, so the values of shorter bodies need not be counted.
        values = ValueCounter() if announced is None or announced > 2 * MAX_VALUES else None

        async def receive_limited() -> Message:
            nonlocal received, deadline
            message = await (receive() if deadline is None else self._receive_before(deadline, receive))
            if message["type"] != "http.request":
                return message
            piece = message.get("body", b"")
            received += len(piece)
            if received > self._max_bytes:
                raise self._too_large()
            if values is not None and values.feed(piece) > MAX_VALUES:
                text = f"a body has at most {MAX_VALUES} members and elements: send less in one request"
                raise ValidationFailed([ValidationIssue("too_many_values", ("body",), text)])
            if deadline is None and received > self._small_bytes:
                await self._reserve(self._max_bytes if announced is None else announced, stack)
                deadline = asyncio.get_running_loop().time() + self._arrival_seconds
            if not message.get("more_body"):
                deadline = None  # Only the disconnect of the client follows, which may take any time.
            return message

        return receive_limited

    async def _reserve(self, size: int, stack: AsyncExitStack) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await stack.enter_async_context(self._memory.reserve(size))
        except TimeoutError:
            raise ServiceUnavailable("too many large requests at once; try again") from None

    async def _receive_before(self, deadline: float, receive: Receive) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await receive()
        except TimeoutError:
            raise BadRequest(f"the body did not arrive within {self._arrival_seconds:g} seconds") from None

    def _too_large(self) -> PayloadTooLarge:
        limit = self._max_bytes
        return PayloadTooLarge(f"the body is larger than {limit} bytes", details={"limit_bytes": limit})


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|(\\?)\Z)', re.DOTALL)
"""A string, or the start of one that continues in the next piece; the group is then the first half of an escape."""


class ValueCounter:
    """Counts the values of JSON text that arrives in pieces, before it is parsed.

    The cost of a body depends on its values more than on its bytes: each becomes an object that is validated and
    stored. Every member and element follows a comma or an opening bracket. For other text the count means nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._open: bytes | None = None

    def feed(self, piece: bytes) -> int:
        """Return the count including this piece."""
        text = piece if self._open is None else b'"' + self._open + piece
        self._open = None
        outside = _STRING.sub(self._remove, text)
        self.count += outside.count(b",") + outside.count(b"{") + outside.count(b"[")
        return self.count

    def _remove(self, string: re.Match[bytes]) -> bytes:
        self._open = string[1]
        return b""
