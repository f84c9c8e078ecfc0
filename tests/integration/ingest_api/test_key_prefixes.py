"""Whatever can be stored as a key prefix is kept byte for byte and found again."""

import unicodedata

import pytest
from tests.integration.ingest_api.conftest import Replica

pytestmark = pytest.mark.stack

LONGEST = 1024
KEYS = {
    "NFC": "café/é",
    "NFD": unicodedata.normalize("NFD", "café/é"),
    "emoji": "😀/👩‍👩‍👧/🏳️‍🌈",
    "right to left": "مجلد/ملف",
    "escapes": "a%2Fb%20c%00",
    "dots": "../../x/./y.tar.gz",
    "slashes": "/lead//double/",
    "blanks": " trailing \t\n",
    "backslash": "a\\b\\\\c",
    "override": "\u202etxt",
    "operators": "$where.{a}[b](c)*+?^|",
    "quotes": "\"'`",
    "NUL": "a\0b",
    "empty": "",
    "cases of one letter": "ſsSKkK" * 170,
    "longest of letters": "x" * LONGEST,
    "longest of letters with three cases": "k" * LONGEST,
    "longest outside of the basic plane": "😀" * LONGEST,
    "longest with cases beyond ASCII": "Ǆθß" * (LONGEST // 3),
    "longest of signs": "." * LONGEST,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
async def test_key_prefix_is_kept_and_found(replica: Replica, key: str) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    schema = {"properties": {"note": {"type": "text"}}}
    made = await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": schema}, namespace="home")
    path = f"/v1/buckets/{made['bucket_id']}/objects"
    for other in KEYS.values():
        if other != key:
            await replica.make(path, {"key_prefix": other}, namespace="home")
    object_id = (await replica.make(path, {"key_prefix": key}, namespace="home"))["object_id"]
    shown = await replica.call("GET", f"{path}/{object_id}", namespace="home")
    assert shown.body["key_prefix"] == key
    for operator, value in (("eq", key), ("in", [key]), ("starts_with", key), ("contains", key), ("ends_with", key)):
        for case_sensitive in (True, False):
            condition = {
                "field": "key_prefix",
                "operator": operator,
                "value": value,
                "case_sensitive": case_sensitive,
            }
            found = await replica.make(
                f"{path}/list", {"filters": {"AND": [condition]}, "limit": 100}, namespace="home"
            )
            ids = [row["object_id"] for row in found["results"]]
            assert object_id in ids, condition
            if operator in ("eq", "in"):
                assert ids == [object_id], condition


async def test_key_prefix_longer_than_the_longest_returns_422(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    schema = {"properties": {"note": {"type": "text"}}}
    made = await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": schema}, namespace="home")
    path = f"/v1/buckets/{made['bucket_id']}/objects"
    for key in ("x" * (LONGEST + 1),):
        assert (await replica.call("POST", path, {"key_prefix": key}, namespace="home")).status == 422
    raw = b'{"key_prefix": "\\ud800"}'
    assert (await replica.call("POST", path, raw=raw, namespace="home")).status == 422
