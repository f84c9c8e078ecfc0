"""Runs CPU-bound extractors in worker processes, so that a bad file kills a worker and not the service.

Guarantees:

- A worker has a memory limit, a time limit and no secrets in its environment, and it dies with the service. Its
  children are killed and its files are deleted when it ends, unless the service itself is killed.
- The service never holds a whole blob or all documents in memory: blobs are written to a private folder in chunks,
  documents arrive in small frames, and a worker whose documents are not read waits.
- Whatever a file does to its worker becomes an :class:`~bucketline.extractors.ExtractionError` of that object.

It is not a security sandbox: a worker has the user and the network of the service.
"""

import asyncio
import fcntl
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bucketline.extractors import (
    BlobView,
    Document,
    ExtractionContext,
    ExtractionError,
    ObjectView,
    PermanentError,
    ResourceError,
    TransientError,
)
from bucketline.observability.logging import get_logger
from bucketline_processor.fair_semaphore import FairSemaphore
from bucketline_processor.worker_process import WorkerDied, WorkerLimits, WorkerProcess
from bucketline_processor.worker_protocol import (
    Frame,
    FrameType,
    ProtocolError,
    pack,
    parse_documents,
    run_blobs,
    run_body,
)

MIB = 1024**2
GIB = 1024**3
FOLDER_PREFIX = "bucketline-workers-"

log = get_logger(__name__)


class WorkerPool:
    """A bounded pool of worker processes, which are started when first needed and reused.

    ``memory_bytes`` is the memory of a worker, its libraries included (about 200 MB). ``time_limit`` is the time in
    seconds for which a run may keep its worker busy, not counting blobs to arrive and documents to be read.
    ``max_blob_bytes`` is what all blobs of a run may take on disk. A worker is replaced after ``runs_per_worker`` runs,
    because libraries leak memory.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        memory_bytes: int = GIB,
        time_limit: float = 120.0,
        temp_dir: Path | None = None,
        max_blob_bytes: int = 4 * GIB,
        runs_per_worker: int = 500,
    ) -> None:
        self._workers = workers
        self._limits = WorkerLimits(memory_bytes=memory_bytes, time_limit=time_limit)
        self._temp_dir = temp_dir
        self._max_blob_bytes = max_blob_bytes
        self._runs_per_worker = runs_per_worker
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        self._slots = FairSemaphore(self._workers)
        self._folder, self._lock = await asyncio.to_thread(_create_private_folder, self._temp_dir)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill all workers; a run in progress fails with a transient error."""
        self._closing = True
        await asyncio.gather(*(worker.kill() for worker in (*self._idle, *self._busy)))
        self._idle.clear()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        self._lock.close()

    async def run(
        self,
        extractor_id: str,
        obj: ObjectView,
        context: ExtractionContext,
        *,
        group: str = "",
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> AsyncGenerator[Document, None]:
        """Yield the documents that the extractor makes of the object, as they are made.

        It waits for a free worker inside ``waiting()``; groups are served in turn. Close the generator (``aclosing``)
        if it is not read to its end, because it holds the worker until then. Raises ``ExtractionError``: ``resource``
        when the worker ran out of memory or time or crashed, ``transient`` when it could not be started; and whatever
        the source of a blob raises.
        """
        with waiting():
            await self._slots.acquire(group)
        try:
            worker = await self._acquire(extractor_id, obj, context)
            reusable = False
            files = _BlobFiles(self._folder, run_blobs(obj, context), self._max_blob_bytes)
            try:
                while True:
                    frame = await worker.receive()
                    if frame.type is FrameType.DOCUMENTS:
                        for document in parse_documents(frame):
                            yield document
                    elif frame.type is FrameType.BLOB_REQUEST:
                        path = await files.get(str(frame.body["blob_id"]))
                        await worker.send(pack(FrameType.BLOB, {"path": str(path)}))
                    elif frame.type is FrameType.ERROR:
                        reusable = frame.body["kind"] != "memory"
                        raise self._error_for_report(extractor_id, obj, frame)
                    elif frame.type is FrameType.DONE:
                        reusable = True
                        return
                    else:
                        raise ProtocolError(f"{frame.type.name} during a run")
            except (ProtocolError, KeyError) as error:
                log.warning("invalid frame received", object_id=obj.object_id, error=str(error))
                raise ResourceError("the extractor's worker broke down on this object") from error
            except WorkerDied as death:
                raise self._error_for_death(extractor_id, obj, death) from death
            finally:
                await self._release(worker, reusable)
                await files.delete()
        finally:
            self._slots.release(group)

    async def _acquire(self, extractor_id: str, obj: ObjectView, context: ExtractionContext) -> WorkerProcess:
        """Return a worker that has started the run. One that died while it was idle is replaced."""
        try:
            request = pack(FrameType.RUN, run_body(extractor_id, obj, context))
        except TypeError as error:
            raise PermanentError(f"the object's fields cannot be given to an extractor: {error}") from error
        while True:
            was_idle = bool(self._idle)
            try:
                worker = self._idle.pop() if was_idle else await self._start()
            except WorkerDied as death:
                log.error("worker not started", error=str(death))
                raise TransientError("the extractor's worker could not be started") from death
            self._busy.add(worker)
            try:
                await worker.begin(request)
            except WorkerDied as death:
                await self._release(worker, reusable=False)
                if not was_idle:
                    raise self._error_for_death(extractor_id, obj, death) from death
            except BaseException:
                await self._release(worker, reusable=False)
                raise
            else:
                return worker

    async def _start(self) -> WorkerProcess:
        if self._closing:
            raise TransientError("the service is stopping")
        return await WorkerProcess.start(self._limits, self._folder)

    async def _release(self, worker: WorkerProcess, reusable: bool) -> None:
        self._busy.discard(worker)
        if reusable and worker.runs < self._runs_per_worker and not self._closing:
            self._idle.append(worker)
        else:
            await worker.kill()

    def _error_for_report(self, extractor_id: str, obj: ObjectView, frame: Frame) -> ExtractionError:
        """Return the error that the worker reported."""
        match frame.body["kind"]:
            case "memory":
                return self._memory_error()
            case "transient" | "permanent" | "resource" as kind:
                if detail := frame.body.get("detail"):
                    log.warning("extractor failed", extractor=extractor_id, object_id=obj.object_id, error=detail)
                return ExtractionError.of(kind, str(frame.body["message"]))
            case other:
                raise ProtocolError(f"an error of the unknown kind {other}")

    def _error_for_death(self, extractor_id: str, obj: ObjectView, death: WorkerDied) -> ExtractionError:
        """Return the error of the object whose worker died."""
        log.warning("worker died", extractor=extractor_id, object_id=obj.object_id, error=str(death))
        if self._closing:
            return TransientError("the service is stopping")
        if death.cause == "time":
            return ResourceError(f"processing this object took longer than {self._limits.time_limit:g} seconds")
        if death.cause == "memory":
            return self._memory_error()
        return ResourceError("processing this object broke the extractor's worker: a file may be damaged or too large")

    def _memory_error(self) -> ResourceError:
        allowed = self._limits.memory_bytes // MIB
        return ResourceError(f"processing this object needed more than the {allowed} MiB of memory it may use")


class _BlobFiles:
    """The files of one run: written when the worker requests them, deleted when the run ends."""

    def __init__(self, parent: Path, blobs: Mapping[str, BlobView], max_bytes: int) -> None:
        self._parent, self._blobs = parent, blobs
        self._max_bytes = self._remaining_bytes = max_bytes
        self._folder: Path | None = None
        self._paths: dict[str, Path] = {}

    async def get(self, blob_id: str) -> Path:
        """Return the blob as a file. Raises ``KeyError`` for a blob that does not belong to the run."""
        if blob_id not in self._paths:
            blob = self._blobs[blob_id]
            if self._folder is None:
                self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._parent))
            path = self._folder / str(len(self._paths))
            await self._write(blob, path)
            self._paths[blob_id] = path
        return self._paths[blob_id]

    async def delete(self) -> None:
        """Delete the files."""
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _write(self, blob: BlobView, path: Path) -> None:
        limit = self._max_bytes // MIB
        too_large = ResourceError(f"{blob.describe()} takes more than the {limit} MiB an object may use")
        if blob.size_bytes > self._remaining_bytes:
            raise too_large
        with path.open("xb") as file:
            async for chunk in blob.open():
                self._remaining_bytes -= len(chunk)
                if self._remaining_bytes < 0:
                    raise too_large
                try:
                    await asyncio.to_thread(file.write, chunk)  # A slow disk must not delay the heartbeats.
                except OSError as error:
                    raise TransientError("there is no room to read the object's files right now") from error


def _create_private_folder(parent: Path | None) -> tuple[Path, IO[bytes]]:
    """Create a folder that only this user can read, locked while this process lives; delete those of dead processes."""
    base = parent or Path(tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    for stale in base.glob(f"{FOLDER_PREFIX}*"):
        _delete_unlocked(stale)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
    lock = (folder / "lock").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock


def _delete_unlocked(folder: Path) -> None:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # It is in use, being created, or belongs to another user.
        return
