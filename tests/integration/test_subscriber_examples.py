"""The subscribers in ``shared/bucketline/events/README.md`` work as they are printed there."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.conftest import Api, Services
from tests.requirements import lacking
from tests.waiting import completed, eventually

from bucketline.devstack.downloads import default_cache_dir, fetch_kafka_jars

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

README = Path("shared/bucketline/events/README.md")
TYPESCRIPT = Path(__file__).with_name("typescript")


def example(repository: Path, title: str) -> str:
    """Return the code block below the heading ``title``."""
    text = (repository / README).read_text(encoding="utf-8")
    section = text.partition(f"\n## {title}\n")[2]
    match = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert match, title
    return match[1]


@asynccontextmanager
async def running(*command: str, services: Services, folder: Path) -> AsyncIterator[list[str]]:
    """Run a subscriber and collect the lines that it prints."""
    environment = {**os.environ, "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS": services.stack.kafka_bootstrap}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            lines.append(line.decode(errors="replace").strip())

    reading = asyncio.create_task(read())
    try:
        yield lines
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def create_object(api: Api) -> str:
    """Create an object that is processed at once, and return its id when it is COMPLETED."""
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    created = await client.post(f"/v1/buckets/{bucket}/objects", {"name": "watched"}, auto_process="true")
    await eventually(lambda: completed(client, f"/v1/buckets/{bucket}/objects/{created['object_id']}"))
    return str(created["object_id"])


async def printed(lines: list[str], text: str) -> None:
    async def found() -> bool:
        return any(text in line for line in lines)

    await eventually(found, deadline=120)


async def test_faststream_subscriber_prints_the_final_status(
    services: Services, api: Api, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "subscriber.py").write_text(example(repository, "Python with FastStream"), encoding="utf-8")
    faststream = str(Path(sys.executable).with_name("faststream"))
    async with running(faststream, "run", "subscriber:app", services=services, folder=tmp_path) as lines:
        await printed(lines, f"{await create_object(api)} COMPLETED")


async def test_aiokafka_subscriber_prints_the_final_status(
    services: Services, api: Api, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "subscriber.py").write_text(example(repository, "Python with aiokafka"), encoding="utf-8")
    async with running(sys.executable, "subscriber.py", services=services, folder=tmp_path) as lines:
        await printed(lines, f"{await create_object(api)} COMPLETED")


async def test_typescript_subscriber_prints_the_final_status(
    services: Services, api: Api, repository: Path, tmp_path: Path
) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        lacking("the TypeScript subscriber needs node and npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(TYPESCRIPT / name, tmp_path)
    install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = await asyncio.to_thread(
        subprocess.run, install, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (tmp_path / "subscriber.mts").write_text(example(repository, "TypeScript with KafkaJS"), encoding="utf-8")
    compiler = ("node_modules/typescript/bin/tsc", "--skipLibCheck", "--module", "nodenext", "--target", "es2022")
    built = await asyncio.to_thread(
        subprocess.run,
        [node, *compiler, "--moduleResolution", "nodenext", "--strict", "--types", "node", "subscriber.mts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stdout[-2000:]
    async with running(node, "subscriber.mjs", services=services, folder=tmp_path) as lines:
        await printed(lines, f"{await create_object(api)} COMPLETED")


def compile_example(*command: str, folder: Path) -> None:
    environment = {**os.environ, "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


def test_go_subscriber_compiles(repository: Path, tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        lacking("the Go subscriber needs go")
    (tmp_path / "main.go").write_text(example(repository, "Go with franz-go"), encoding="utf-8")
    module = "module subscriber\n\ngo 1.23\n\nrequire github.com/twmb/franz-go v1.19.5\n"
    (tmp_path / "go.mod").write_text(module, encoding="utf-8")
    compile_example(go, "build", "-o", "subscriber", ".", folder=tmp_path)


def test_java_subscriber_compiles(repository: Path, tmp_path: Path) -> None:
    javac = shutil.which("javac")
    if javac is None or shutil.which("mvn") is None:
        lacking("the Java subscriber needs javac and mvn")
    jars = fetch_kafka_jars(default_cache_dir())
    (tmp_path / "Subscriber.java").write_text(example(repository, "Java with kafka-clients"), encoding="utf-8")
    compile_example(javac, "-cp", f"{jars.folder}/*", "Subscriber.java", folder=tmp_path)


async def test_tail_prints_the_events_of_one_object_as_json(services: Services, api: Api, tmp_path: Path) -> None:
    object_id = await create_object(api)
    command = (sys.executable, "-m", "bucketline.cli.main", "events", "tail", "--json", "--from-beginning")
    async with running(*command, "--subject", object_id, "--count", "4", services=services, folder=tmp_path) as lines:
        await printed(lines, '"COMPLETED"')

        async def all_printed() -> list[str] | None:
            # The others are log lines of the client, such as a request that it repeats.
            printed_events = [line for line in lines if line.startswith("{")]
            return printed_events if len(printed_events) == 4 else None

        events = [json.loads(line) for line in await eventually(all_printed, deadline=60)]
    assert {event["subject"] for event in events} == {object_id}
    assert {event["type"] for event in events} == {
        "bucketline.object.created.v1",
        "bucketline.object.mirrored.v1",
        "bucketline.object.status_changed.v1",
    }
