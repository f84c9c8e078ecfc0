"""A batch of one does not wait for a large batch that was submitted before it."""

from functools import partial

import pytest
from tests.bench.processing import drafts
from tests.conftest import Api
from tests.waiting import eventually, over

pytestmark = pytest.mark.stack

MANY = 10_000
MAX_ACTIVE_OBJECTS = 16 * 100
"""Objects of a batch that may be active at once.

A batch that had to wait for them would see all of them completed every time. One that does not wait may still see as
many completed once, because the machine is busy.
"""


async def test_batch_of_one_completes_while_thousands_are_queued(api: Api) -> None:
    """The objects are extracted in the two worker processes, which are shared between batches as well."""
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    collection = await api.collection(
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

    async def made() -> int:
        """Return the number of documents, one per object. The progress shown by the batch lags behind."""
        return int((await client.get(f"/v1/collections/{collection}"))["document_count"])

    async def under_way() -> bool:
        return await made() > 0

    await eventually(under_way, deadline=60)
    completed_during = []
    for object_id in ids[MANY:]:
        before = await made()
        small = await client.post(place, {"object_ids": [object_id], "auto_submit": True})
        done = await eventually(partial(over, client, f"{place}/{small['batch_id']}"))
        completed_during.append(await made() - before)
        assert (done["status"], done["documents_written"]) == ("COMPLETED", 1)
    assert await made() < MANY, "the large batch was still under way"
    assert min(completed_during) < MAX_ACTIVE_OBJECTS, completed_during

    done = await eventually(lambda: over(client, f"{place}/{large['batch_id']}"), deadline=120)
    assert (done["status"], done["documents_written"]) == ("COMPLETED", MANY)
