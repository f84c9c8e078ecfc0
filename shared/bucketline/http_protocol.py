"""The HTTP protocol of the services: uvicorn's, with limits on headers, connections and slow clients."""

import asyncio
from typing import ClassVar, Literal

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bucketline.errors import ApiError, BadRequest, HeadersTooLarge, RequestTimeout, ServiceUnavailable
from bucketline.ids import RandomIds
from bucketline.settings import HttpSettings


class HttpProtocol(HttpToolsProtocol):
    """Ends connections that send too much or too slowly, with the error envelope of the contract where possible.

    uvicorn closes a connection that is idle after a response. Subclasses set ``settings``.
    """

    settings: ClassVar[HttpSettings]

    _unparsed = 0
    """Bytes since the parser last completed headers, a piece of the body or a request."""
    _reading: Literal["headers", "body"] | None = "headers"
    _timed: Literal["headers", "body"] | None = None
    """The part of the request that the running timer is for."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many, before anything is read."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(ServiceUnavailable("too many connections: try again later"))
        else:
            self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and refuse headers (or trailers) that are too large before they are complete."""
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            self._stop_timer()
        elif self._unparsed > self.settings.max_header_bytes:
            limit = self.settings.max_header_bytes
            message = f"the headers have more than {limit} bytes together"
            self._refuse(HeadersTooLarge(message, details={"limit_bytes": limit}))
        else:
            if self._reading is None and self._unparsed:
                self._reading = "headers"
            self._set_timer()

    def on_message_begin(self) -> None:
        """Start reading the headers of a request."""
        super().on_message_begin()
        self._stop_timer()
        self._reading = "headers"

    def on_headers_complete(self) -> None:
        """Start reading the body."""
        super().on_headers_complete()
        self._unparsed, self._reading = 0, "body"

    def on_body(self, body: bytes) -> None:
        """Count the progress."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect nothing until the next request."""
        self._unparsed, self._reading = 0, None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP, such as a URL above 64 kB or broken framing."""
        self._refuse(BadRequest(msg.strip() or "this is not a valid HTTP request"))

    def _set_timer(self) -> None:
        is_answered = self.cycle is not None and self.cycle.response_complete
        # Each byte of a body extends its deadline, unless the response has been sent already.
        if self._reading == self._timed and (self._reading != "body" or is_answered):
            return
        self._stop_timer()
        self._timed = self._reading
        if self._reading is not None:
            settings = self.settings
            is_body = self._reading == "body"
            seconds = settings.body_timeout_seconds if is_body else settings.header_timeout_seconds
            self._timer = self.loop.call_later(seconds, self._time_out, seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _time_out(self, seconds: float) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (self._reading == "headers" and is_answering):
            # The client waits for us: its next bytes are not read before we are done with the earlier ones.
            self._timer = self.loop.call_later(seconds, self._time_out, seconds)
        elif self._reading == "body" or self._unparsed:
            self._refuse(
                RequestTimeout(f"the {self._reading} of the request did not arrive within {seconds:g} seconds")
            )
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Send the error, unless another response has started, and close the connection."""
        self._stop_timer()
        if not self._has_started_response():
            body = orjson.dumps(error.envelope())
            headers = {
                "content-type": "application/json",
                "connection": "close",
                "content-length": str(len(body)),
                "x-request-id": RandomIds().new("req"),
                **error.headers,
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _has_started_response(self) -> bool:
        """Return whether the client would take the error for a part of another response."""
        if self.cycle is None:
            return False
        if self._reading == "body":
            return self.cycle.response_started or bool(self.pipeline)
        return not self.cycle.response_complete
