"""The services export the metrics that dashboards and alerts read, after objects were processed."""

from functools import partial

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import Api, Services
from tests.deploy.test_monitoring import OF_PROMETHEUS, names_in, queries
from tests.waiting import completed, eventually

from bucketline.events.topics import consumed_by
from bucketline.settings import SERVICES

pytestmark = pytest.mark.stack

Samples = dict[str, list[tuple[dict[str, str], float]]]


async def scrape(services: Services) -> dict[str, Samples]:
    """Return the samples of every service as Prometheus reads them: service → name → (labels, value)."""
    found: dict[str, Samples] = {}
    async with aiohttp.ClientSession() as session:
        for name in SERVICES:
            async with session.get(f"{services.supervisor.url(name)}/metrics") as answer:
                assert answer.status == 200
                text = await answer.text()
            rows: Samples = {}
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    rows.setdefault(sample.name, []).append((sample.labels, sample.value))
            found[name] = rows
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return sum(found for row, found in samples.get(name, []) if labels.items() <= row.items())


@pytest.fixture(scope="module")
async def exported(services: Services) -> dict[str, Samples]:
    """Return the metrics after one object and its duplicate."""
    api = Api(services.url)
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    body = {"blobs": [{"property": "note", "type": "text", "data": f"counted in {namespace}"}]}
    for _ in range(2):
        created = await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")
        path = f"/v1/buckets/{bucket}/objects/{created['object_id']}"
        await eventually(partial(completed, client, path))
    await api.close()

    async def find_samples() -> dict[str, Samples] | None:
        found = await scrape(services)
        final = value(found["ingest-api"], "bucketline_end_to_end_duration_seconds_count", status="COMPLETED") >= 2
        return found if final and "bucketline_consumer_lag" in found["batcher"] else None

    return await eventually(find_samples)


async def test_metrics_of_dashboards_and_alerts_are_exported(exported: dict[str, Samples]) -> None:
    asked = {name for query in queries() for name in names_in(query)} - OF_PROMETHEUS
    there = {name for samples in exported.values() for name in samples}
    assert asked <= there, sorted(asked - there)


@pytest.mark.parametrize("service", SERVICES)
async def test_consumers_export_lag_retries_and_dead_letters_from_the_start(
    exported: dict[str, Samples], service: str
) -> None:
    samples = exported[service]
    for topic in consumed_by(service):  # type: ignore[arg-type]  # one of SERVICES
        name = f"bucketline.{topic.name}"
        for metric in ("bucketline_consumer_lag", "bucketline_dead_letters_total", "bucketline_retries_total"):
            label = "what" if metric == "bucketline_retries_total" else "topic"
            assert any(row[label] == name for row, _ in samples.get(metric, [])), (metric, name)
        # The batcher ignores the events of a batch that it publishes itself.
        outcomes = ("handled", "ignored")
        assert sum(value(samples, "bucketline_records_total", topic=name, outcome=outcome) for outcome in outcomes) > 0


async def test_consumers_report_that_they_have_joined_their_group(
    services: Services, exported: dict[str, Samples]
) -> None:
    async def have_joined() -> bool:
        found = await scrape(services)
        return all(
            value(found[service], "bucketline_consumer_joined", topic=f"bucketline.{topic.name}") == 1
            for service in SERVICES
            for topic in consumed_by(service)
        )

    await eventually(have_joined)


async def test_blob_metrics_count_the_duplicate(exported: dict[str, Samples]) -> None:
    dedup = exported["dedup"]
    assert value(dedup, "bucketline_blobs_total", outcome="stored") >= 1
    assert value(dedup, "bucketline_blobs_total", outcome="duplicate") >= 1
    assert value(dedup, "bucketline_blob_bytes_total", what="received") > value(
        dedup, "bucketline_blob_bytes_total", what="stored"
    )
    assert value(dedup, "bucketline_s3_request_duration_seconds_count", operation="PutObject", outcome="ok") >= 1


async def test_stage_durations_of_an_object_are_exported(exported: dict[str, Samples]) -> None:
    api, processor = exported["ingest-api"], exported["processor"]
    for stage in ("queued", "processing"):
        assert value(api, "bucketline_stage_duration_seconds_count", stage=stage) >= 2, stage
    assert value(exported["dedup"], "bucketline_stage_duration_seconds_count", stage="mirror") >= 2
    assert value(processor, "bucketline_stage_duration_seconds_count", stage="unit") >= 1
    assert value(processor, "bucketline_extraction_duration_seconds_count") >= 2
    assert value(processor, "bucketline_documents_total") >= 2
    assert value(exported["batcher"], "bucketline_work_units_total") >= 1
    route = "/v1/buckets/{bucket_identifier}/objects"
    assert value(api, "http_server_request_duration_seconds_count", method="POST", route=route) >= 2
