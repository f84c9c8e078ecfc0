"""A service that is told to stop has stopped when it says it will have."""

import socket
import subprocess
import sys
import time
from contextlib import closing
from signal import SIGTERM

import pytest

PROGRAM = """
import asyncio, sys
from contextlib import asynccontextmanager
import bucketline.server
from bucketline.settings import read_settings
from starlette.applications import Starlette

bucketline.server.DRAIN_SECONDS = 0.5

@asynccontextmanager
async def lifespan(_):
    yield
    await asyncio.sleep(float(sys.argv[1]))

sys.exit(bucketline.server.serve(read_settings("batcher"), lambda _: Starlette(lifespan=lifespan)))
"""


@pytest.fixture
def port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(("needs", "code"), [("0", -SIGTERM), ("60", 4)])
def test_service_that_does_not_drain_in_time_is_killed(port: int, needs: str, code: int) -> None:
    environment = {"BUCKETLINE_HTTP_PORT": str(port), "PATH": ""}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, needs], env=environment, stdout=subprocess.PIPE)
    try:
        _connected(port, until=time.monotonic() + 30)
        process.terminate()
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == code
    assert (b"shutdown timed out" in out) == (code == 4)


def _connected(port: int, until: float) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, "the service did not start"
        else:
            return
