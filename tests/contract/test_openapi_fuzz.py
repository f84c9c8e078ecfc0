"""schemathesis over our own OpenAPI: whatever is sent, the answer is one that the document declares.

Half of the cases name things that exist, so that more than the 404 is reached. The seed is fixed: a failure is found
again by running the test again.
"""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from tests import sdk_models
from tests.conftest import Api

from bucketline_ingest_api.app import build

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

CASES = 40
"""For each operation; with about 70 operations well above 2,000 in all."""

SCHEMA = schemathesis.openapi.from_dict(build().openapi())
SCHEMA.config.checks.positive_data_acceptance.expected_statuses += ["400", "413", "422"]
"""Some rules no JSON schema can say: what a bucket's own schema demands, that a batch is not empty, what a key is."""
SCHEMA.config.generation.with_security_parameters = False
"""Every case is sent with a valid key and namespace, so a case without them would not be invalid."""
ENDLESS = {"GET /v1/events/stream"}
"""Responses that do not end by themselves."""
OPERATIONS = {
    found.ok().label: found.ok()
    for found in SCHEMA.get_all_operations()
    if isinstance(found, Ok) and found.ok().label not in ENDLESS
}
SPARED = {"DELETE /v1/namespaces/{namespace_identifier}", "DELETE /v1/buckets/{bucket_identifier}"}
"""Deletes of what the other cases need: they are only tried with made-up names."""


@dataclass(frozen=True)
class World:
    """Things that exist, by the name of the path parameter that may name them."""

    namespace: str
    known: dict[str, str]


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    """The one world of this module, made by the first test that needs it."""
    return {}


async def world_of(api: Api, worlds: dict[str, World]) -> World:
    if "one" not in worlds:
        namespace = await api.namespace()
        client = api.client(namespace)
        bucket = await api.bucket(namespace)
        collection = await api.collection(namespace, bucket)
        body = {"blobs": [{"property": "note", "type": "text", "data": "fuzzed"}], "name": "n"}
        created = await client.post(f"/v1/buckets/{bucket}/objects", body)
        batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": [created["object_id"]]})
        worlds["one"] = World(
            namespace,
            {
                "namespace_identifier": namespace,
                "bucket_identifier": bucket,
                "collection_identifier": collection,
                "object_id": str(created["object_id"]),
                "batch_id": str(batch["batch_id"]),
            },
        )
    return worlds["one"]


@pytest.mark.parametrize("label", sorted(OPERATIONS))
async def test_every_answer_is_declared(label: str, api: Api, worlds: dict[str, World]) -> None:
    world = await world_of(api, worlds)
    operation = OPERATIONS[label]
    headers = {"Authorization": f"Bearer {api.key}", "X-Namespace": world.namespace}
    cases = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, known=st.booleans())
    def check(case: Any, known: bool) -> None:
        if known and label not in SPARED:
            named = {name: value for name, value in world.known.items() if name in (case.path_parameters or {})}
            case.path_parameters = {**(case.path_parameters or {}), **named}
        response = case.call(base_url=api.url, headers=headers, timeout=20)
        case.validate_response(response, headers=headers)
        if response.content:
            path = urlsplit(response.request.url).path
            sdk_models.parse(case.method, path, response.status_code, orjson.loads(response.content))

    # In a thread: the services' output is read on this loop, which must go on meanwhile.
    await asyncio.to_thread(check)


def test_there_are_enough_cases() -> None:
    assert len(OPERATIONS) * CASES >= 2_000
