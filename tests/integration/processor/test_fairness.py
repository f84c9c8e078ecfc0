"""A batch of one does not wait for a large one that was there before it."""

import time
from typing import Any

import pytest
from tests.bench.processing import drafts
from tests.conditions import eventually
from tests.conftest import Api

from bucketline.cli.client import ApiClient

pytestmark = pytest.mark.stack

MANY = 6000
LONGEST = 8.0
"""Seconds for one object beside thousands, on a machine that other tests use too."""


async def over(client: ApiClient, path: str) -> dict[str, Any] | None:
    found = await client.get(path)
    return found if found["status"] in ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED") else None


async def test_a_batch_of_one_beside_thousands(api: Api) -> None:
    """Extracted in worker processes, of which there are two: what is scarce is shared between batches, too."""
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    await api.collection(
        namespace,
        bucket,
        feature_extractor_name="text_extractor",
        version="v1",
        input_mappings={"text": "name"},
        parameters={"chunk_size": 100, "chunk_overlap": 0},
    )
    ids = await drafts(client, bucket, MANY + 3)
    place = f"/v1/buckets/{bucket}/batches"
    large = await client.post(place, {"object_ids": ids[:MANY], "auto_submit": True})

    async def under_way() -> bool:
        return bool((await client.get(f"{place}/{large['batch_id']}"))["progress"]["processed"])

    await eventually(under_way, deadline=60)
    waits = []
    for object_id in ids[MANY:]:
        began = time.monotonic()
        small = await client.post(place, {"object_ids": [object_id], "auto_submit": True})
        done = await eventually(lambda path=f"{place}/{small['batch_id']}": over(client, path))
        waits.append(time.monotonic() - began)
        assert (done["status"], done["documents_written"]) == ("COMPLETED", 1)
    left = await client.get(f"{place}/{large['batch_id']}")
    assert left["progress"]["processed"] < MANY, "the large batch was still under way"
    assert max(waits) < LONGEST, waits

    done = await eventually(lambda: over(client, f"{place}/{large['batch_id']}"), deadline=120)
    assert (done["status"], done["documents_written"]) == ("COMPLETED", MANY)
