"""A client that sends too much, too slowly or nothing does not hold a connection."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

PROGRAM = """
import sys
from bucketline.server import serve
from bucketline.settings import read_settings
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def read(request):
    return PlainTextResponse(str(len(await request.body())))

sys.exit(serve(read_settings("batcher"), lambda _: Starlette(routes=[Route("/", read, methods=["GET", "POST"])])))
"""
LIMITS = {
    "MAX_CONNECTIONS": "20",
    "HEADER_TIMEOUT_SECONDS": "1",
    "BODY_TIMEOUT_SECONDS": "1",
    "KEEP_ALIVE_TIMEOUT_SECONDS": "1",
}
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    environment = {"PATH": "", "BUCKETLINE_HTTP_PORT": str(port)}
    environment |= {f"BUCKETLINE_HTTP_{name}": value for name, value in LIMITS.items()}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                _connect(port).close()
                break
            except OSError:
                assert time.monotonic() < until, "the service did not start"
        yield port
    finally:
        process.kill()
        process.wait()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def _read(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def _error(response: bytes) -> tuple[int, str]:
    head, _, body = response.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    envelope = json.loads(body)
    assert envelope["success"] is False
    assert envelope["status"] == status
    return status, envelope["error"]["type"]


def test_headers_above_the_limit_are_refused(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 60_000_000:
                connection.sendall(b"x-filler: " + b"a" * 8000 + b"\r\n")
                sent += 8012
        except OSError:
            pass
        assert sent < 8_000_000, "the server went on reading"
        response = _read(connection)
    assert not response or _error(response) == (431, "RequestHeaderFieldsTooLargeError")


def test_one_header_above_the_limit_is_answered_with_431(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nx-filler: " + b"a" * 66_000)
        assert _error(_read(connection)) == (431, "RequestHeaderFieldsTooLargeError")


def test_trailers_above_the_limit_are_answered_with_431(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
        time.sleep(0.1)  # so that the trailer does not arrive together with the body
        connection.sendall(b"x-filler: " + b"a" * 66_000)
        assert _error(_read(connection)) == (431, "RequestHeaderFieldsTooLargeError")


def test_headers_that_arrive_slowly_are_answered_with_408(port: int) -> None:
    started = time.monotonic()
    with _connect(port) as connection:
        connection.sendall(GET[:-2])
        assert _error(_read(connection)) == (408, "RequestTimeoutError")
    assert time.monotonic() - started < 4


def test_headers_of_a_second_request_have_a_deadline_too(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(GET)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(GET[:-2])
        assert _error(_read(connection)) == (408, "RequestTimeoutError")


def test_a_body_without_progress_is_answered_with_408(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(POST + b"12345")
        assert _error(_read(connection)) == (408, "RequestTimeoutError")


def test_a_body_with_progress_is_accepted_after_the_deadline(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(POST)
        for _ in range(10):
            time.sleep(0.2)  # the pace of the client; together longer than the limit
            connection.sendall(b"1")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("request_", [b"", GET], ids=["new", "after a response"])
def test_an_idle_connection_is_closed(port: int, request_: bytes) -> None:
    with _connect(port) as connection:
        connection.sendall(request_)
        assert _read(connection).count(b"HTTP/1.1") == (1 if request_ else 0)


def test_a_connection_above_the_limit_is_answered_with_503(port: int) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(_connect(port)) for _ in range(21)]
        response = _read(connections[-1])
        assert _error(response) == (503, "ServiceUnavailableError")
        assert b"Retry-After: 5" in response
        connections[0].sendall(GET)
        assert connections[0].recv(65536).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(POST + b"1234567890" + GET + POST + b"1234567890")
        assert _read(connection).count(b"HTTP/1.1 200 ") == 3
