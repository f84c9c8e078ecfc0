"""Keys over several replicas and over time: rotation, revocation, expiry, use; and the secret, nowhere."""

import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta

import pytest
from tests.integration.ingest_api.conftest import Replica, World

from bucketline.admin.api_keys import digest, key_id_of
from bucketline.clock import wire_time
from bucketline.observability.logging import setup_logging
from bucketline.settings import ObservabilitySettings

pytestmark = pytest.mark.stack

KEYS = "/v1/organizations/users/ada@example.org/api-keys"


async def works(replica: Replica, key: str) -> bool:
    answer = await replica.call("GET", "/v1/me", key=key)
    assert answer.status in (200, 401), answer
    return answer.status == 200


async def test_rotated_secret_is_valid_until_the_grace_period_ends(world: World) -> None:
    replica = world.replica(key_grace_seconds=3600, key_cache_seconds=0.001)
    first = (await replica.make(KEYS, {"name": "scanner"}))["key"]
    second = (await replica.make(f"{KEYS}/scanner/rotate", None))["key"]
    assert first != second
    assert key_id_of(first) == key_id_of(second)
    assert await works(replica, first)
    assert await works(replica, second)
    third = (await replica.make(f"{KEYS}/scanner/rotate", None))["key"]
    assert [await works(replica, key) for key in (first, second, third)] == [False, True, True]
    world.clock.advance(3601)
    other = world.replica(key_grace_seconds=3600)
    assert [await works(other, key) for key in (first, second, third)] == [False, False, True]


async def test_revoked_key_is_rejected_by_every_replica_within_the_cache_time(world: World) -> None:
    here, there = world.replica(key_cache_seconds=0.05), world.replica(key_cache_seconds=0.05)
    made = await here.make(KEYS, {"name": "scanner"})
    assert await works(here, made["key"])
    assert await works(there, made["key"])
    assert (await here.call("DELETE", f"{KEYS}/scanner")).body["success"] is True
    assert not await works(here, made["key"])
    third = world.replica()
    assert not await works(third, made["key"])
    # another clock than the tests' decides how long a replica remembers
    import asyncio

    await asyncio.sleep(0.06)
    assert not await works(there, made["key"])
    assert (await here.call("DELETE", f"{KEYS}/scanner")).status == 404
    shown = (await here.call("GET", f"{KEYS}?include_revoked=true")).body["results"]
    assert [row["status"] for row in shown] == ["revoked"]
    assert (await here.call("GET", KEYS)).body["results"] == []
    again = await here.make(KEYS, {"name": "scanner"})
    assert await works(here, again["key"])


async def test_expired_key_is_rejected_although_it_is_cached(world: World, replica: Replica) -> None:
    expires = wire_time(world.clock.now() + timedelta(seconds=60))
    key = (await replica.make(KEYS, {"name": "brief", "expires_at": expires}))["key"]
    assert await works(replica, key)
    world.clock.advance(61)
    assert not await works(replica, key)
    assert (await replica.call("GET", KEYS)).body["results"][0]["status"] == "expired"
    past = {"name": "late", "expires_at": wire_time(world.clock.now() - timedelta(seconds=1))}
    assert (await replica.call("POST", KEYS, past)).status == 422


async def test_key_response_does_not_show_the_secret(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo", "namespace_id": "ns_demo0001"})
    body = {
        "name": "scanner",
        "description": "hall 2",
        "permissions": ["READ", "write"],
        "scopes": [{"resource_type": "namespace", "resource_id": "demo"}],
        "rate_limit_override": 7,
    }
    made = await replica.make(KEYS.replace("ada", "Ada"), body)
    assert made["permissions"] == ["read", "write"]
    assert made["scopes"] == [{"resource_type": "namespace", "resource_id": "ns_demo0001"}]
    assert made["key"].startswith(made["key_prefix"])
    [listed] = (await replica.call("GET", KEYS)).body["results"]
    assert "key" not in listed
    assert listed == {name: value for name, value in made.items() if name != "key"}
    me = (await replica.call("GET", "/v1/me", key=made["key"])).body
    assert me["user_email"] == "ada@example.org"
    assert me["key"]["permissions"] == ["READ", "WRITE"]
    assert me["rate_limits"] == {"requests": 7}


async def test_update_by_name_changes_the_sent_fields(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    key = (await replica.make(KEYS, {"name": "one"}))["key"]
    await replica.make(KEYS, {"name": "two"})
    changed = await replica.call("PATCH", f"{KEYS}/one", {"name": "uno", "permissions": ["read"], "scopes": []})
    assert (changed.body["name"], changed.body["permissions"]) == ("uno", ["read"])
    assert (await replica.call("POST", "/v1/buckets", {}, namespace="demo", key=key)).status == 403
    assert (await replica.call("PATCH", f"{KEYS}/uno", {"name": "two"})).status == 409
    assert (await replica.call("POST", KEYS, {"name": "two"})).status == 409
    assert (await replica.call("PATCH", f"{KEYS}/one", {"description": "gone"})).status == 404
    narrowed = {"scopes": [{"resource_type": "namespace", "resource_id": "nowhere"}]}
    assert (await replica.call("PATCH", f"{KEYS}/uno", narrowed)).status == 422
    assert (await replica.call("PATCH", f"{KEYS}/uno", {"status": "revoked"})).body["status"] == "revoked"
    assert not await works(replica, key)


async def test_unsupported_restrictions_are_rejected(replica: Replica) -> None:
    restrictions: list[dict[str, object]] = [
        {"allowed_origins": ["https://example.org"]},
        {"principal_id": "u1"},
        {"scopes": [{"resource_type": "bucket", "resource_id": "bkt_1"}]},
        {"permissions": ["everything"]},
        {"permissions": []},
        {"name": "a/b"},
        {"rate_limit_override": 0},
    ]
    for more in restrictions:
        assert (await replica.call("POST", KEYS, {"name": "k", **more})).status == 422, more
    assert (await replica.call("POST", KEYS.replace("ada@example.org", "ada"), {"name": "k"})).status == 422


async def test_malformed_keys_are_rejected_without_a_query(replica: Replica) -> None:
    for key in ("", "sk_", "sk_wrong", "Basic x", "sk_abcdefghijkl_" + "A" * 32 + "00000000", "x" * 600):
        answer = await replica.call("GET", "/v1/me", key=key)
        assert answer.status == 401, key
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.body["error"]["type"] == "UnauthorizedError"


async def test_secret_is_in_no_log_response_or_document(world: World) -> None:
    """Everything that is written down while keys are made, used, rotated, refused and revoked."""
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        setup_logging(ObservabilitySettings(log_level="DEBUG", log_format="json"), "ingest-api")
        logging.getLogger("pymongo").setLevel(logging.INFO)
        replica = world.replica(key_cache_seconds=0.001)
        first = (await replica.make(KEYS, {"name": "scanner"}))["key"]
        assert await works(replica, first)
        second = (await replica.make(f"{KEYS}/scanner/rotate", None))["key"]
        answers = [
            await replica.call("GET", KEYS),
            await replica.call("GET", "/v1/me", key=second),
            await replica.call("POST", KEYS, {"name": "scanner"}, key=second),
            await replica.call("GET", "/v1/nowhere", key=second),
            await replica.call("POST", KEYS, {"name": first, "permissions": 1}, key=first + "x"),
            await replica.call("DELETE", f"{KEYS}/scanner"),
            await replica.call("GET", "/v1/me", key=second),
        ]
    stored = await world.database.collection("keys").find({}, limit=10)
    for clear in (first, second):
        secret = clear.rpartition("_")[2][:32]
        assert secret not in written.getvalue()
        assert secret not in repr(answers)
        assert secret not in repr(stored)
    assert stored[0]["hash"] == digest(second, "")
