"""The ingest API while a dependency does not respond: it stays ready, and answers soon."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Literal

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from tests.conftest import ADMIN_KEY, FAST, Api
from tests.waiting import eventually

from bucketline.devstack.stack import Broker, LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services

pytestmark = pytest.mark.stack

ANSWER_SECONDS = 5.0
CREATES = 20


@pytest.fixture(scope="module")
async def own_stack(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> AsyncIterator[LocalStack]:
    """Servers that no other test uses, since they are suspended."""
    async with LocalStack(tmp_path_factory.mktemp("away"), broker=broker) as stack:
        yield stack


@pytest.fixture(scope="module")
async def url(own_stack: LocalStack) -> AsyncIterator[str]:
    environment = {**own_stack.environment(), **FAST, "BUCKETLINE_API_KEY": ADMIN_KEY}
    async with Supervisor(bucketline_services(environment, names=["ingest-api"])) as supervisor:
        yield supervisor.url("ingest-api")


@pytest.fixture
async def post(url: str) -> AsyncIterator["Post"]:
    api = Api(url)
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    await api.close()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "X-Namespace": namespace}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        yield Post(session, bucket)


class Post:
    """Creates objects with a small inline text."""

    def __init__(self, session: aiohttp.ClientSession, bucket: str) -> None:
        self.session = session
        self._path = f"/v1/buckets/{bucket}/objects"

    async def __call__(self, **query: str) -> tuple[int, CIMultiDictProxy[str], float]:
        """Return the status, the headers and the seconds until the response."""
        body = {"blobs": [{"property": "note", "type": "text", "data": "small"}]}
        began = time.monotonic()
        async with self.session.post(self._path, json=body, params=query) as response:
            await response.read()
            return response.status, response.headers, time.monotonic() - began


@contextmanager
def suspended(stack: LocalStack, name: Literal["mongodb", "s3"]) -> Iterator[None]:
    pid = stack.pids()[name]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def readiness(session: aiohttp.ClientSession) -> tuple[int, dict[str, bool]]:
    async with session.get("/ready") as response:
        return response.status, (await response.json())["checks"]


async def test_inline_create_without_s3_returns_200(own_stack: LocalStack, post: Post) -> None:
    with suspended(own_stack, "s3"):
        status, checks = await readiness(post.session)
        assert (status, checks["s3"], checks["mongodb"]) == (200, False, True)
        assert (await post())[0] == 200


@pytest.mark.parametrize("auto_process", ["true", "false"])
async def test_create_without_mongodb_returns_503_soon_and_works_again_after(
    own_stack: LocalStack, post: Post, auto_process: str
) -> None:
    assert (await post(auto_process=auto_process))[0] == 200
    with suspended(own_stack, "mongodb"):
        answers = await asyncio.gather(*(post(auto_process=auto_process) for _ in range(CREATES)))
        assert {status for status, *_ in answers} == {503}
        assert all(int(headers["Retry-After"]) > 0 for _, headers, _ in answers)
        assert max(seconds for *_, seconds in answers) < ANSWER_SECONDS
        status, checks = await readiness(post.session)
        assert (status, checks["mongodb"]) == (200, False)

    async def works() -> bool:
        return (await post(auto_process=auto_process))[0] == 200

    await eventually(works, deadline=15)
