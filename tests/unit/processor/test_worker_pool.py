"""The sandbox with real worker processes, and an extractor that does whatever a hostile file could make it
do.
"""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import cast

import psutil
import pytest
from structlog.testing import capture_logs
from tests.unit.processor.extractors.conftest import JsonDocument

from bucketline.extractors import (
    BlobView,
    ExtractionContext,
    FileSource,
    MemorySource,
    ObjectView,
    PermanentError,
    ResourceError,
    TransientError,
    validate_parameters,
)
from bucketline_processor.extractors.table import TableExtractor
from bucketline_processor.worker_pool import MIB, WorkerPool

DEADLINE = 20.0

NAUGHTY = """
import asyncio, os, subprocess, sys, tempfile, time
from pathlib import Path
from bucketline.extractors import *

class Naughty:
    info = ExtractorInfo(name="naughty", version="v1", description="", accepts=("text",))

    async def extract(self, obj, context):
        do = context.parameters["do"]
        if do == "hello":
            print("a library that prints")
            yield Document({"pid": os.getpid(), "environment": sorted(os.environ), "inputs":
            sorted(context.inputs)})
        elif do == "read":
            for blob in selected_blobs(self.info, obj, context):
                async with blob.as_file() as path:
                    mode = path.parent.stat().st_mode & 0o777
                yield Document({"text": (await blob.read(100)).decode(), "path": str(path), "mode": mode},
                               blobs=(DerivedBlob("copy", "c.bin", "application/x", b"\\x00\\xff" * 3),),
                               source_blobs=(blob.blob_id,))
        elif do == "memory":
            hoard = [bytearray(2**20) for _ in range(4096)]
        elif do == "native memory":
            import ctypes
            block = ctypes.CDLL(None).malloc
            block.restype = ctypes.c_void_p
            if not block(ctypes.c_size_t(2**32)):
                raise MemoryError
        elif do == "children":
            grow = "b = bytearray(150 * 2**20); import time; time.sleep(60)"
            for child in [subprocess.Popen([sys.executable, "-c", grow]) for _ in range(2)]:
                child.wait()
        elif do == "leave":
            # it holds our standard error open, as a child does that nobody thought about
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            file = tempfile.NamedTemporaryFile(delete=False)
            yield Document({"pid": child.pid, "files": [file.name, tempfile.mkdtemp()]})
            if signal := context.parameters.get("signal"):
                os.kill(os.getpid(), signal)
            while context.parameters.get("spin"):
                pass
        elif do == "spin":
            yield Document({"pid": os.getpid()})
            while True:
                pass
        elif do == "die":
            os.kill(os.getpid(), context.parameters["signal"])
        elif do == "babble":
            os.write(1, b"x" * 100); os.write(int(context.parameters["descriptor"]), b"\\xff" * 64)
        elif do == "count":
            for number in range(context.parameters["many"]):
                Path(context.parameters["progress"]).write_text(str(number))
                yield Document({"number": number, "padding": "x" * 20_000})
        elif do == "fail":
            raise TransientError("come back later")
        elif do == "crash":
            raise ZeroDivisionError("secret internals")
        elif do == "not json":
            yield Document({"value": object()})
        elif do == "huge":
            yield Document({"value": "x" * 13_000_000})
"""

SERVICE = """
import asyncio, sys
from pathlib import Path
from bucketline.extractors import ExtractionContext, ObjectView
from bucketline_processor.worker_pool import WorkerPool

async def main():
    async with WorkerPool(workers=1, temp_dir=Path(sys.argv[1])) as sandbox:
        async for document in sandbox.run("naughty_v1", ObjectView("o", "b", "n"), ExtractionContext({"do":
        "spin"})):
            print(document.fields["pid"], flush=True)

asyncio.run(main())
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The naughty extractor, installed as an outsider's distribution would be."""
    folder = tmp_path / "site"
    (folder / "naughty-1.0.dist-info").mkdir(parents=True)
    (folder / "naughty.py").write_text(NAUGHTY)
    (folder / "naughty-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: naughty\nVersion: 1.0\n")
    entry = "[bucketline.extractors]\nnaughty_v1 = naughty:Naughty\n"
    (folder / "naughty-1.0.dist-info" / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
async def sandbox(plugin: Path, tmp_path: Path) -> AsyncIterator[WorkerPool]:
    async with WorkerPool(workers=1, memory_bytes=192 * MIB, time_limit=DEADLINE, temp_dir=tmp_path / "tmp") as sandbox:
        yield sandbox


def blob(content: bytes = b"hello", blob_id: str = "blob_1") -> BlobView:
    return BlobView(blob_id, "note", "text", "a.txt", "text/plain", len(content), None, MemorySource(content))


async def run(
    sandbox: WorkerPool, do: str, *blobs: BlobView, inputs: Mapping[str, object] | None = None, **parameters: object
) -> list[JsonDocument]:
    obj = ObjectView("obj_1", "bkt_1", "ns_1", fields={"sku": "A"}, blobs=blobs)
    context = ExtractionContext({"do": do, **parameters}, inputs or {})
    return cast("list[JsonDocument]", [document async for document in sandbox.run("naughty_v1", obj, context)])


async def test_run_yields_documents_with_derived_blobs(sandbox: WorkerPool) -> None:
    [one, two] = await run(sandbox, "read", blob(b"one", "b1"), blob(b"two", "b2"))

    assert (one.fields["text"], two.fields["text"]) == ("one", "two")
    assert one.blobs[0].data == two.blobs[0].data == b"\x00\xff" * 3
    assert (one.source_blobs, two.source_blobs) == (("b1",), ("b2",))
    assert one.fields["mode"] == 0o700


async def test_mapped_blobs_reach_the_worker(sandbox: WorkerPool) -> None:
    documents = await run(sandbox, "read", blob(b"other", "b1"), inputs={"text": [blob(b"mapped", "b2")]})
    assert [document.fields["text"] for document in documents] == ["mapped"]


async def test_run_deletes_its_files(sandbox: WorkerPool) -> None:
    [document] = await run(sandbox, "read", blob())
    assert not os.path.exists(document.fields["path"])  # noqa: ASYNC240, PTH110


async def test_worker_is_reused_and_has_no_secrets(sandbox: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKETLINE_S3_SECRET_KEY", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    [first] = await run(sandbox, "hello")
    [second] = await run(sandbox, "hello")

    assert first.fields["pid"] == second.fields["pid"] != os.getpid()
    assert not [name for name in first.fields["environment"] if "BUCKETLINE" in name or "AWS" in name]


async def test_worker_is_replaced_after_its_maximum_of_runs(plugin: Path, tmp_path: Path) -> None:
    async with WorkerPool(workers=1, temp_dir=tmp_path, runs_per_worker=2) as sandbox:
        pids = [(await run(sandbox, "hello"))[0].fields["pid"] for _ in range(3)]
    assert pids[0] == pids[1] != pids[2]


@pytest.mark.parametrize("do", ["memory", "native memory", "children"])
async def test_too_much_memory_kills_the_worker_and_raises_resource_error(sandbox: WorkerPool, do: str) -> None:
    [before] = await run(sandbox, "hello")
    with pytest.raises(ResourceError, match="more than the 192 MiB of memory"):
        await run(sandbox, do)
    [after] = await run(sandbox, "hello")

    assert before.fields["pid"] != after.fields["pid"]
    assert not psutil.pid_exists(before.fields["pid"])


async def test_too_much_time_kills_the_worker_and_raises_resource_error(plugin: Path, tmp_path: Path) -> None:
    async with WorkerPool(workers=1, time_limit=2.5, temp_dir=tmp_path) as sandbox:
        with pytest.raises(ResourceError, match=r"longer than 2\.5 seconds"):
            await run(sandbox, "spin")
        assert await run(sandbox, "hello")


async def test_time_of_a_slow_reader_does_not_count(plugin: Path, tmp_path: Path) -> None:
    async with WorkerPool(workers=1, time_limit=3.0, temp_dir=tmp_path) as sandbox:
        context = ExtractionContext({"do": "count", "many": 200, "progress": str(tmp_path / "progress")})
        numbers = []
        async with aclosing(sandbox.run("naughty_v1", ObjectView("o", "b", "n"), context)) as documents:
            async for document in documents:
                numbers.append(document.fields["number"])
                if len(numbers) == 1:
                    await asyncio.sleep(4.0)  # longer than the limit: time is what this test is about
        assert numbers == list(range(200))


async def test_crash_in_native_code_raises_resource_error(sandbox: WorkerPool) -> None:
    with capture_logs() as logs, pytest.raises(ResourceError, match="broke the extractor's worker"):
        await run(sandbox, "die", signal=int(signal.SIGSEGV))
    [line] = logs
    assert (line["object_id"], line["extractor"]) == ("obj_1", "naughty_v1")
    assert await run(sandbox, "hello")


async def test_worker_killed_by_the_kernel_raises_a_memory_error(sandbox: WorkerPool) -> None:
    with pytest.raises(ResourceError, match="of memory"):
        await run(sandbox, "die", signal=int(signal.SIGKILL))
    assert await run(sandbox, "hello")


async def _left_behind(sandbox: WorkerPool, **parameters: object) -> tuple[psutil.Process, list[str]]:
    """The child and the files of a run that fails."""
    context = ExtractionContext({"do": "leave", **parameters})
    async with aclosing(sandbox.run("naughty_v1", ObjectView("o", "b", "n"), context)) as documents:
        fields = (await anext(documents)).fields
        child = psutil.Process(int(str(fields["pid"])))
        with pytest.raises(ResourceError):
            await anext(documents)
    files = fields["files"]
    assert isinstance(files, list)
    return child, files


@pytest.mark.parametrize("end", [{"signal": int(signal.SIGSEGV)}, {"spin": True}], ids=["crashed", "killed"])
async def test_children_and_files_of_a_worker_do_not_outlive_it(
    plugin: Path, tmp_path: Path, end: dict[str, object]
) -> None:
    async with WorkerPool(workers=1, time_limit=2.0, temp_dir=tmp_path) as sandbox:
        child, files = await _left_behind(sandbox, **end)
        await asyncio.to_thread(child.wait, DEADLINE)
        assert not [name for name in files if os.path.exists(name)]  # noqa: ASYNC240, PTH110
        assert await run(sandbox, "hello")


async def test_child_of_an_idle_worker_that_died_is_killed(sandbox: WorkerPool) -> None:
    [document] = await run(sandbox, "leave")
    [worker] = await run(sandbox, "hello")
    child = psutil.Process(document.fields["pid"])
    psutil.Process(worker.fields["pid"]).kill()
    await asyncio.to_thread(child.wait, DEADLINE)


async def test_idle_worker_that_died_is_replaced(sandbox: WorkerPool) -> None:
    [first] = await run(sandbox, "hello")
    process = psutil.Process(first.fields["pid"])
    process.kill()
    [second] = await run(sandbox, "hello")
    assert second.fields["pid"] != first.fields["pid"]


async def test_errors_of_the_extractor_keep_their_kind_and_the_worker(sandbox: WorkerPool) -> None:
    [before] = await run(sandbox, "hello")
    with pytest.raises(TransientError, match="come back later"):
        await run(sandbox, "fail")
    with pytest.raises(PermanentError, match=r"failed on this object \(ZeroDivisionError\)") as caught:
        await run(sandbox, "crash")
    with pytest.raises(PermanentError, match="not JSON"):
        await run(sandbox, "not json")
    with pytest.raises(ResourceError, match="too large to be stored"):
        await run(sandbox, "huge")
    [after] = await run(sandbox, "hello")

    assert "internals" not in caught.value.message
    assert before.fields["pid"] == after.fields["pid"]


async def test_extractor_that_is_not_installed_raises_permanent_error(sandbox: WorkerPool) -> None:
    with pytest.raises(PermanentError, match="no extractor 'lost_v1' is installed"):
        await anext(sandbox.run("lost_v1", ObjectView("o", "b", "n"), ExtractionContext()))


async def test_invalid_frame_raises_resource_error(sandbox: WorkerPool) -> None:
    with pytest.raises(ResourceError, match="broke"):
        await run(sandbox, "babble", descriptor=3)
    assert await run(sandbox, "hello")


async def _when_still(progress: Path, worker: psutil.Process) -> int:
    """What the file says when the worker waits, and goes on waiting however often this loop takes its turn.

    A worker that is only not given the processor is ready to run, and does not count as one that waits.
    """
    seen, turns, deadline = -1, 0, time.monotonic() + DEADLINE
    while turns < 25:
        assert time.monotonic() < deadline, "it never stood still"
        now = int(await asyncio.to_thread(progress.read_text) or 0)
        waits = worker.status() == psutil.STATUS_SLEEPING
        turns = turns + 1 if waits and now == seen else 0
        seen = now
        await asyncio.sleep(0.02)
    return seen


async def test_worker_whose_documents_are_not_read_waits(sandbox: WorkerPool, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    [idle] = await run(sandbox, "hello")
    worker = psutil.Process(idle.fields["pid"])
    context = ExtractionContext({"do": "count", "many": 5000, "progress": str(progress)})
    async with aclosing(sandbox.run("naughty_v1", ObjectView("o", "b", "n"), context)) as documents:
        await anext(documents)
        assert await _when_still(progress, worker) < 200
    [document] = await run(sandbox, "hello")  # giving up on the rest freed the place
    assert document.fields["pid"]


async def test_runs_wait_for_a_free_worker(plugin: Path, tmp_path: Path) -> None:
    async with WorkerPool(workers=2, temp_dir=tmp_path) as sandbox:
        found = await asyncio.gather(*(run(sandbox, "hello") for _ in range(8)))
    assert len({documents[0].fields["pid"] for documents in found}) <= 2


async def test_blob_beyond_the_disk_limit_raises_resource_error(plugin: Path, tmp_path: Path) -> None:
    async with WorkerPool(workers=1, temp_dir=tmp_path, max_blob_bytes=1000) as sandbox:
        lying = BlobView("b", "note", "text", "a.txt", "text/plain", 10, None, MemorySource(b"x" * 5000))
        for large in (blob(b"x" * 5000), lying):
            with pytest.raises(ResourceError, match="takes more than"):
                await run(sandbox, "read", large)
        assert await run(sandbox, "read", blob(b"small"))


async def test_error_of_the_blob_store_is_raised(sandbox: WorkerPool) -> None:
    class Away(MemorySource):
        async def open(self) -> AsyncIterator[bytes]:
            raise ConnectionError("S3 is away")
            yield b""

    with pytest.raises(ConnectionError, match="S3 is away"):
        await run(sandbox, "read", BlobView("b", "note", "text", "a", "text/plain", 1, None, Away(b"x")))
    assert await run(sandbox, "hello")


async def test_close_kills_running_workers_and_deletes_files(plugin: Path, tmp_path: Path) -> None:
    temp = tmp_path / "tmp"
    sandbox = WorkerPool(workers=2, temp_dir=temp)
    await sandbox.__aenter__()
    documents = sandbox.run("naughty_v1", ObjectView("o", "b", "n"), ExtractionContext({"do": "spin"}))
    pid = cast("int", (await anext(documents)).fields["pid"])
    ending = asyncio.create_task(anext(documents))
    await asyncio.sleep(0)
    await sandbox.__aexit__(None, None, None)

    with pytest.raises(TransientError, match="stopping"):
        await ending
    assert not psutil.pid_exists(pid)
    assert list(temp.iterdir()) == []


def _orphaned_worker(temp: Path) -> psutil.Process:
    """A busy worker whose service was killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(SERVICE), str(temp)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as service:
        try:
            assert service.stdout is not None
            return psutil.Process(int(service.stdout.readline()))
        finally:
            service.kill()


async def test_workers_die_with_the_service_and_the_next_one_deletes_its_files(plugin: Path, tmp_path: Path) -> None:
    temp = tmp_path / "tmp"
    worker = await asyncio.to_thread(_orphaned_worker, temp)
    await asyncio.to_thread(worker.wait, DEADLINE)

    assert not worker.is_running()
    [left] = temp.iterdir()
    async with WorkerPool(temp_dir=temp):
        assert not left.exists()


async def test_table_of_200_000_rows_is_streamed_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write("id,name,amount\n")
        file.writelines(f"{number},customer {number},{number / 4}\n" for number in range(200_000))
    content = BlobView("b", "t", "excel", "big.csv", "text/csv", path.stat().st_size, None, FileSource(path))
    obj = ObjectView("o", "b", "n", blobs=(content,))
    context = ExtractionContext(validate_parameters(TableExtractor.info, {}))

    async with WorkerPool(workers=1, memory_bytes=96 * MIB, temp_dir=tmp_path) as sandbox:
        total, last, start, most = 0, None, 0, 0
        async for document in sandbox.run(TableExtractor.info.id, obj, context):
            row_id = cast("int", document.fields["id"])
            total += row_id
            last = document
            if row_id % 1000 == 0:
                now = psutil.Process().memory_info().rss
                start, most = start or now, max(most, now)

    assert total == sum(range(200_000))
    assert last is not None
    assert last.fields["amount"] == 199_999 / 4
    assert most - start < 32 * MIB
