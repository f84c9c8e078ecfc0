"""The operations commands on running servers, as an operator calls them."""

import asyncio
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from docx import Document
from tests.brokers import needs_java
from tests.conftest import Api, Services
from tests.waiting import completed, eventually

from bucketline.db.indexes import INDEXES
from bucketline.devstack.servers import S3Endpoint
from bucketline.devstack.stack import LocalStack
from bucketline.events.topics import MIRRORED, OBJECTS, STATUS
from bucketline.kafka.admin import denied_groups, wanted
from bucketline.settings import KafkaSettings

pytestmark = pytest.mark.stack


async def bucketline(environment: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bucketline.cli.main",
        *arguments,
        env={**os.environ, **environment, "COLUMNS": "300"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), err.decode()


async def test_doctor_on_the_local_stack_finds_no_failure(services: Services) -> None:
    code, out, err = await bucketline(services.environment, "doctor", "--json")
    rows = {(row["part"], row["check"]): row for row in json.loads(out)}
    assert code == 0, (out, err)
    for part, check in (
        ("MongoDB", "version"),
        ("MongoDB", "write and read"),
        ("MongoDB", "indexes"),
        ("MongoDB", "clock"),
        ("Kafka", "topics"),
        ("Kafka", "retention"),
        ("S3", "bucket"),
        ("S3", "conditional writes"),
        ("S3", "checksums"),
        ("S3", "presigned URLs"),
        ("S3", "list and delete"),
        ("Kafka", "consumer groups"),
        ("S3", "clock"),
        ("Bucketline", "extractors"),
    ):
        assert rows[part, check]["severity"] == "ok", rows[part, check]
    assert rows["MongoDB", "replica set"]["severity"] == "warning"
    assert all(row["advice"] for row in rows.values() if row["severity"] != "ok")


async def test_doctor_with_missing_dependencies_exits_with_1(services: Services) -> None:
    broken = {
        **services.environment,
        "BUCKETLINE_KAFKA_TOPIC_PREFIX": "nobody.",
        "BUCKETLINE_MONGODB_URL": "mongodb://127.0.0.1:1/?directConnection=true",
        "BUCKETLINE_MONGODB_SERVER_SELECTION_TIMEOUT_SECONDS": "1",
        "BUCKETLINE_S3_SECRET_KEY": "wrong",
    }
    code, out, _ = await bucketline(broken, "doctor")
    assert code == 1
    assert "bucketline topics create" in out
    assert "BUCKETLINE_MONGODB_URL" in out
    assert "BUCKETLINE_S3_ENDPOINT_URL" in out
    assert "Traceback" not in out


async def test_doctor_with_unreachable_dependencies_gives_advice_for_each(services: Services) -> None:
    away = {
        **services.environment,
        "BUCKETLINE_MONGODB_URL": "mongodb://127.0.0.1:1/?directConnection=true",
        "BUCKETLINE_MONGODB_SERVER_SELECTION_TIMEOUT_SECONDS": "1",
        "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "BUCKETLINE_S3_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    code, out, err = await bucketline(away, "doctor", "--json")
    rows = json.loads(out)
    assert (code, err) == (1, "")
    bad = {row["part"]: row for row in rows if row["severity"] == "error"}
    assert set(bad) == {"MongoDB", "Kafka", "S3"}
    for part, variable in (("MongoDB", "MONGODB_URL"), ("Kafka", "KAFKA_BOOTSTRAP"), ("S3", "S3_ENDPOINT")):
        assert f"BUCKETLINE_{variable}" in bad[part]["advice"]


async def test_topics_create_creates_what_check_reports_missing(services: Services) -> None:
    prefix = f"made-{secrets.token_hex(4)}."
    own = {**services.environment, "BUCKETLINE_KAFKA_TOPIC_PREFIX": prefix}
    names = [name for name, _, _ in wanted(KafkaSettings(topic_prefix=prefix))]

    code, out, err = await bucketline(own, "topics", "check")
    assert (code, out.count("missing")) == (1, len(names))
    assert "bucketline topics create" in err
    code, out, err = await bucketline(own, "topics", "create")
    assert code == 0, err
    assert set(re.findall(r"created (\S+)", out)) == set(names)
    code, out, err = await bucketline(own, "topics", "check")
    assert (code, "missing" in out) == (0, False), (out, err)
    code, out, _ = await bucketline(own, "topics", "create")
    assert (code, out) == (0, "no topic is missing\n")


@needs_java
async def test_topics_check_with_too_low_values_gives_advice(tmp_path: Path) -> None:
    async with LocalStack(
        tmp_path, broker="kafka", mongodb_url="mongodb://127.0.0.1:1/", s3=S3Endpoint("http://127.0.0.1:1", "", "")
    ) as kafka:
        environment = kafka.environment()
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap)
        await admin.start()
        await admin.create_topics(
            [
                NewTopic(
                    f"bucketline.{OBJECTS.name}", OBJECTS.partitions, 1, topic_configs={"retention.ms": "3600000"}
                ),
                NewTopic(f"bucketline.{MIRRORED.name}", 1, 1, topic_configs={"retention.ms": "-1"}),
            ]
        )
        await admin.close()
        assert (await bucketline(environment, "topics", "create"))[0] == 0
        code, out, err = await bucketline(environment, "topics", "check")
        rows = {line.split()[1]: line for line in out.splitlines() if "bucketline." in line}
        assert code == 1
        assert "0.0416667 d of 7 d" in rows[f"bucketline.{OBJECTS.name}"]
        assert f"1 of {MIRRORED.partitions}" in rows[f"bucketline.{MIRRORED.name}"]
        assert "unlimited" in rows[f"bucketline.{MIRRORED.name}"]
        assert sum("too low" in row for row in rows.values()) == 2, "the others are as they were made"
        assert "kafka-configs.sh" in err
        assert "kafka-topics.sh" in err
        assert "topics create" not in err

        code, out, err = await bucketline(
            {**environment, "BUCKETLINE_KAFKA_REPLICATION_FACTOR": "3"}, "topics", "check"
        )
        assert (code, "1 of 3" in out, "kafka-reassign-partitions.sh" in err) == (1, True, True)

        assert await denied_groups(KafkaSettings(bootstrap_servers=kafka.kafka_bootstrap), ["a.group"]) == []


async def test_indexes_run_twice_creates_them_once(services: Services) -> None:
    own = {**services.environment, "BUCKETLINE_MONGODB_DATABASE": f"made-{secrets.token_hex(4)}"}
    total = sum(map(len, INDEXES.values()))
    code, out, err = await bucketline(own, "indexes")
    assert (code, f"{total} indexes exist, {total} of them are new" in out) == (0, True), (out, err)
    code, out, _ = await bucketline(own, "indexes")
    assert (code, out) == (0, f"{total} indexes exist, 0 of them are new\n")


async def test_events_replay_publishes_the_events_of_stored_objects(api: Api, services: Services) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    ids = []
    for number in range(3):
        body = {"blobs": [{"property": "note", "type": "text", "data": f"replayed {number}"}]}
        ids.append((await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true"))["object_id"])
    for object_id in ids:
        path = f"/v1/buckets/{bucket}/objects/{object_id}"
        await eventually(partial(completed, client, path))

    prefix = "bucketline."
    topics = [prefix + topic.name for topic in (OBJECTS, MIRRORED, STATUS)]
    subscriber = AIOKafkaConsumer(
        *topics, bootstrap_servers=services.stack.kafka_bootstrap, auto_offset_reset="earliest"
    )
    await subscriber.start()
    try:
        where = ("--namespace", namespace, "--bucket", bucket, "--since", "1h")
        code, out, err = await bucketline(services.environment, "events", "replay", *where, "--dry-run")
        assert (code, "3 objects found" in out) == (0, True), (out, err)
        code, out, err = await bucketline(services.environment, "events", "replay", *where)
        assert code == 0, (out, err)
        assert "9 events of 3 objects" in out

        seen: set[tuple[str, str]] = set()

        async def told() -> bool:
            for rows in (await subscriber.getmany(timeout_ms=100)).values():
                for row in rows:
                    headers = dict(row.headers)
                    if headers.get("ce_source") == b"/bucketline/replay":
                        seen.add((row.topic, headers["ce_subject"].decode()))
            return {(topic, object_id) for topic in topics for object_id in ids} <= seen

        await eventually(told)
    finally:
        await subscriber.stop()

    # Our own services took the replay for what it is: nothing was processed again.
    for object_id in ids:
        found = await client.get(f"/v1/buckets/{bucket}/objects/{object_id}")
        assert (found["status"], found["document_count"]) == ("COMPLETED", 1)


async def test_upload_of_a_folder_twice_stores_each_file_once(api: Api, services: Services, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    (folder / "2026").mkdir(parents=True)
    (folder / "note.txt").write_text(f"a note {secrets.token_hex(4)}")
    (folder / "2026" / "page.html").write_text("<html><body>a page</body></html>")
    (folder / "2026" / "large.csv").write_text("number,text\n" + "1,some text of a row\n" * 550_000)
    document = Document()
    document.add_paragraph("a paragraph")
    document.save(str(folder / "letter.docx"))
    namespace = f"upload-{secrets.token_hex(4)}"
    options = ("--url", services.url, "--key", api.key, "--namespace", namespace, "--bucket", "inbox")

    for _ in range(2):
        code, out, err = await bucketline(services.environment, "upload", str(folder), *options)
        assert code == 0, (out, err)
        assert "4 files: 4 COMPLETED" in out
    listed = await api.client(namespace).get("/v1/buckets/inbox/objects", include_total="true")
    assert sorted(obj["name"] for obj in listed["results"]) == ["large.csv", "letter.docx", "note.txt", "page.html"]
    batches = await api.client(namespace).post("/v1/buckets/inbox/batches/list")
    assert [len(batch["object_ids"]) for batch in batches["results"]] == [4]

    (folder / "backup.zip").write_bytes(b"PK\3\4")
    code, out, err = await bucketline(services.environment, "upload", str(folder), *options)
    assert code == 1, (out, err)
    assert "backup.zip" in out
    assert "application/zip are not supported" in out
    assert "5 files: 4 COMPLETED, 1 failed" in out


async def test_events_replay_of_an_unknown_bucket_fails(api: Api, services: Services) -> None:
    namespace = await api.namespace()
    where = ("--namespace", namespace, "--bucket", "nobody", "--since", "1h")
    code, _, err = await bucketline(services.environment, "events", "replay", *where)
    assert code == 1
    assert "no bucket 'nobody'" in err
    assert "Traceback" not in err


async def test_keys_create_rotate_and_revoke_take_effect(api: Api, services: Services) -> None:
    code, out, err = await bucketline(services.environment, "keys", "create", "from-the-shell", "--permission", "READ")
    assert code == 0, err
    key = out.strip()
    assert key.startswith("sk_")
    assert await status_with(api, key) == 200

    code, listed, _ = await bucketline(services.environment, "keys", "list")
    assert code == 0
    assert "from-the-shell" in listed
    assert key not in listed

    code, out, err = await bucketline(services.environment, "keys", "rotate", "from-the-shell")
    assert code == 0, err
    rotated = out.strip()
    assert rotated != key
    assert await status_with(api, rotated) == 200

    # The API keeps a key that it has seen for a while, so a secret that it has not seen shows the end at once.
    unseen = (await bucketline(services.environment, "keys", "rotate", "from-the-shell"))[1].strip()
    code, _, err = await bucketline(services.environment, "keys", "revoke", "from-the-shell", "--yes")
    assert code == 0, err
    assert await status_with(api, unseen) == 401
    code, _, err = await bucketline(services.environment, "keys", "rotate", "from-the-shell")
    assert code == 1
    assert "not found" in err


async def status_with(api: Api, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{api.url}/v1/namespaces/list", headers=headers) as answer,
    ):
        return answer.status
