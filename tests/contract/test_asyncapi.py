"""The AsyncAPI document: current, complete, and accepted by AsyncAPI's own parser."""

import shutil
import subprocess
from pathlib import Path

import orjson
import pytest
from faststream.kafka import KafkaRouter
from jsonschema import Draft202012Validator
from tests.requirements import lacking
from typer.testing import CliRunner

from bucketline.cli.topics import app
from bucketline.events.models import EVENT_TYPES
from bucketline.events.topics import TOPICS, topic_of
from bucketline.kafka.asyncapi import COMMITTED, Json, asyncapi, rendered
from bucketline.settings import ServiceName
from bucketline_batcher.subscribers import router as batcher_router
from bucketline_dedup.subscribers import router as dedup_router
from bucketline_ingest_api.subscribers import router as ingest_api_router
from bucketline_processor.subscribers import router as processor_router

ROUTERS: dict[ServiceName, KafkaRouter] = {
    "ingest-api": ingest_api_router,
    "dedup": dedup_router,
    "batcher": batcher_router,
    "processor": processor_router,
}
PARSER = Path(__file__).parent / "asyncapi"


@pytest.fixture(scope="module")
def parser() -> Path:
    """AsyncAPI's own parser, installed from the lock file once."""
    if not (shutil.which("node") and shutil.which("npm")):
        lacking("AsyncAPI's parser needs node and npm")
    installed = PARSER / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (PARSER / "package-lock.json").stat().st_mtime:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(command, cwd=PARSER, capture_output=True, text=True, timeout=240, check=False)
        if result.returncode:
            lacking(f"AsyncAPI's parser cannot be installed: {result.stderr[-500:]}")
    return PARSER / "validate.js"


def validate(parser: Path, document: bytes) -> tuple[int, str]:
    result = subprocess.run(["node", parser], input=document, capture_output=True, timeout=120, check=False)
    return result.returncode, (result.stdout + result.stderr).decode()


def resolve(document: Json, reference: str) -> Json:
    node = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_document_is_accepted_by_the_official_parser(parser: Path) -> None:
    code, findings = validate(parser, rendered(ROUTERS, "acme."))
    assert code == 0, findings


def test_official_parser_rejects_a_broken_reference(parser: Path) -> None:
    broken = rendered(ROUTERS, "acme.").replace(b"#/components/schemas/MirroredBlob", b"#/$defs/MirroredBlob")
    code, findings = validate(parser, broken)
    assert code == 1
    assert "invalid-ref" in findings


def test_committed_document_is_current() -> None:
    assert Path(str(COMMITTED)).read_bytes() == rendered(ROUTERS, "bucketline."), (
        "run: bucketline topics --asyncapi > shared/bucketline/events/asyncapi.json"
    )


def test_command_prints_the_document_with_the_prefix_of_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKETLINE_KAFKA_TOPIC_PREFIX", "acme.")
    result = CliRunner().invoke(app, ["--asyncapi"])
    assert result.exit_code == 0
    channels = orjson.loads(result.stdout)["channels"]
    assert {channel["address"] for channel in channels.values()} == {f"acme.{topic.name}" for topic in TOPICS}


def test_every_event_has_a_message_with_a_valid_schema_on_its_topic() -> None:
    document = asyncapi(ROUTERS, "bucketline.")
    messages = document["components"]["messages"]
    assert messages.keys() == {event.__name__ for event in EVENT_TYPES}
    for event in EVENT_TYPES:
        message = messages[event.__name__]
        assert message["name"] == message["headers"]["properties"]["ce_type"]["const"] == event.type
        assert message["summary"]
        assert event.__name__ in document["channels"][topic_of(event).name]["messages"]
        schema = resolve(document, message["payload"]["$ref"])
        Draft202012Validator.check_schema(schema)
        assert schema["properties"].keys() == event.model_fields.keys()


def test_services_consume_and_publish_as_in_the_topic_table() -> None:
    operations = asyncapi(ROUTERS, "")["operations"]
    assert operations.keys() == {
        *(f"{service}.receive.{topic.name}" for topic in TOPICS for service in topic.consumers),
        *(f"{service}.send.{topic.name}" for topic in TOPICS for service in topic.producers),
    }
    for router in ROUTERS.values():
        for subscriber in router.subscribers:
            service, _, topic = str(subscriber.group_id).partition(".")  # type: ignore[attr-defined]  # Kafka's have one
            assert f"{service}.receive.{topic}" in operations


def test_batcher_does_not_receive_the_events_that_it_publishes_itself() -> None:
    messages = asyncapi(ROUTERS, "")["operations"]["batcher.receive.batches.v1"]["messages"]
    assert [message["$ref"].rpartition("/")[2] for message in messages] == ["BatchCanceled", "BatchSubmitted"]
