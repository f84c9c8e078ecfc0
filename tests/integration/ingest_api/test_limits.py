"""Rate limits: one count over all replicas, told on every answer."""

import asyncio

import pytest
from tests.integration.ingest_api.conftest import World

pytestmark = pytest.mark.stack


async def test_rate_limit_is_shared_by_replicas_and_resets_with_the_window(world: World) -> None:
    replicas = [world.replica(rate_limit=5, rate_window_seconds=60) for _ in range(2)]
    answers = await asyncio.gather(*(replicas[n % 2].call("GET", "/v1/me") for n in range(8)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 3
    remaining = sorted(int(answer.headers["x-ratelimit-remaining"]) for answer in answers)
    assert remaining == [0, 0, 0, 0, 1, 2, 3, 4]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit"] == "5"
        assert answer.headers["x-ratelimit-window"] == "60"
        reset = int(answer.headers["x-ratelimit-reset"])
        assert 0 < reset - world.clock.now().timestamp() <= 60
    refused = next(answer for answer in answers if answer.status == 429)
    details = refused.body["error"]["details"]
    assert refused.body["error"]["type"] == "TooManyRequestsError"
    assert refused.headers["retry-after"] == str(details["retry_after"]) == str(details["retry_after_seconds"])
    assert details["retryable"] is True
    assert (details["limit"], details["window"], details["api_name"]) == (5, "60s", "GET /v1/me")
    world.clock.advance(60)
    assert (await replicas[0].call("GET", "/v1/me")).status == 200


async def test_every_answer_has_the_headers(world: World) -> None:
    replica = world.replica(rate_limit=100)
    for method, path, body, status in (
        ("GET", "/v1/nowhere", None, 404),
        ("DELETE", "/v1/me", None, 405),
        ("POST", "/v1/namespaces", {}, 422),
        ("GET", "/v1/buckets", None, 400),
        ("POST", "/v1/namespaces", {"namespace_name": "demo"}, 200),
    ):
        answer = await replica.call(method, path, body)
        assert answer.status == status
        assert "x-ratelimit-remaining" in answer.headers, path
        assert "x-request-id" in answer.headers, path


async def test_off_means_no_headers_and_a_key_may_have_its_own_limit(world: World) -> None:
    replica = world.replica()
    assert "x-ratelimit-limit" not in (await replica.call("GET", "/v1/me")).headers
    key = await world.key(rate_limit=2)
    statuses = [(await replica.call("GET", "/v1/me", key=key)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert (await replica.call("GET", "/v1/me")).status == 200


async def test_health_is_not_counted(world: World) -> None:
    replica = world.replica(rate_limit=1)
    assert [(await replica.call("GET", "/v1/health")).status for _ in range(3)] == [200, 200, 200]
