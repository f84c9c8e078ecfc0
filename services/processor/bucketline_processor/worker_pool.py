"""CPU-bound extractors in worker processes, so that one bad file kills a worker and not the service.

What it guarantees:

- A worker has a memory limit, a time limit, no secrets in its environment, and dies with the service. Processes that it
  started end with it, and its files go; only when the service itself is killed may they outlive it.
- Neither a blob nor the documents are ever whole in the service's memory: blobs are written to a private folder chunk
  by chunk, documents come in small frames, and a worker whose documents nobody takes stands still.
- Whatever a file does to its worker ends as an :class:`~bucketline.extractors.ExtractionError` of that object.

What it does not: it is no jail. A worker has the service's user and network; the pod's limits are the outer wall.
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
    WireError,
    known_blobs,
    pack,
    read_documents,
    run_body,
)

MIB = 1024**2
GIB = 1024**3
PREFIX = "bucketline-sandbox-"

log = get_logger(__name__)


class WorkerPool:
    """A bounded pool of worker processes, started when first needed and used again.

    ``memory_bytes`` is a worker's whole memory, its libraries included (about 200 MB); ``time_limit`` counts
    the seconds a run keeps its worker busy, without the time that blobs take to arrive and documents to be
    taken; ``max_blob_bytes`` is what all the blobs of one run may take on the disk. A worker is replaced
    after ``runs_per_worker`` runs, since libraries leak.
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
        self._turns = FairSemaphore(self._workers)
        self._folder, self._lock = await asyncio.to_thread(_private_folder, self._temp_dir)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what runs; a run in progress ends as transient."""
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
        """The documents that the extractor makes of the object, as they are made.

        Waits, inside ``waiting()``, for a free worker; groups take turns. Close the generator (``aclosing``) if it
        is not read to its end: the worker is held until then. Raises ``ExtractionError``: ``resource`` when the
        worker ran out of memory or time or died, ``transient`` when it could not be started; and whatever a blob's
        source raises.
        """
        with waiting():
            await self._turns.take(group)
        try:
            worker = await self._begin(extractor_id, obj, context)
            reusable = False
            deliveries = _BlobFiles(self._folder, known_blobs(obj, context), self._max_blob_bytes)
            try:
                while True:
                    frame = await worker.receive()
                    if frame.kind is FrameType.DOCUMENTS:
                        for document in read_documents(frame):
                            yield document
                    elif frame.kind is FrameType.NEED:
                        path = await deliveries.file_of(str(frame.body["blob_id"]))
                        await worker.send(pack(FrameType.BLOB, {"path": str(path)}))
                    elif frame.kind is FrameType.ERROR:
                        reusable = frame.body["kind"] != "memory"
                        raise self._reported(extractor_id, obj, frame)
                    elif frame.kind is FrameType.DONE:
                        reusable = True
                        return
                    else:
                        raise WireError(f"{frame.kind.name} in the middle of a run")
            except (WireError, KeyError) as error:
                log.warning("a worker's answer makes no sense", object_id=obj.object_id, error=str(error))
                raise ResourceError("the extractor's worker broke down on this object") from error
            except WorkerDied as death:
                raise self._explained(extractor_id, obj, death) from death
            finally:
                await self._end(worker, reusable)
                await deliveries.remove()
        finally:
            self._turns.give(group)

    async def _begin(self, extractor_id: str, obj: ObjectView, context: ExtractionContext) -> WorkerProcess:
        """A worker that has taken up the run. One that died while it was idle is passed over."""
        try:
            request = pack(FrameType.RUN, run_body(extractor_id, obj, context))
        except TypeError as error:
            raise PermanentError(f"the object's fields cannot be given to an extractor: {error}") from error
        while True:
            used_before = bool(self._idle)
            try:
                worker = self._idle.pop() if used_before else await self._start()
            except WorkerDied as death:
                log.error("a worker did not start", error=str(death))
                raise TransientError("the extractor's worker could not be started") from death
            self._busy.add(worker)
            try:
                await worker.begin(request)
            except WorkerDied as death:
                await self._end(worker, reusable=False)
                if not used_before:
                    raise self._explained(extractor_id, obj, death) from death
            except BaseException:
                await self._end(worker, reusable=False)
                raise
            else:
                return worker

    async def _start(self) -> WorkerProcess:
        if self._closing:
            raise TransientError("the service is stopping")
        return await WorkerProcess.start(self._limits, self._folder)

    async def _end(self, worker: WorkerProcess, reusable: bool) -> None:
        self._busy.discard(worker)
        if reusable and worker.runs < self._runs_per_worker and not self._closing:
            self._idle.append(worker)
        else:
            await worker.kill()

    def _reported(self, extractor_id: str, obj: ObjectView, frame: Frame) -> ExtractionError:
        """What the worker itself said went wrong."""
        match frame.body["kind"]:
            case "memory":
                return self._too_much_memory()
            case "transient" | "permanent" | "resource" as kind:
                if detail := frame.body.get("detail"):
                    log.warning("an extractor raised", extractor=extractor_id, object_id=obj.object_id, error=detail)
                return ExtractionError.of(kind, str(frame.body["message"]))
            case other:
                raise WireError(f"an error of the kind {other}")

    def _explained(self, extractor_id: str, obj: ObjectView, death: WorkerDied) -> ExtractionError:
        """What a worker's end means for the object."""
        log.warning("a worker died", extractor=extractor_id, object_id=obj.object_id, error=str(death))
        if self._closing:
            return TransientError("the service is stopping")
        if death.cause == "time":
            return ResourceError(f"processing this object took longer than {self._limits.time_limit:g} seconds")
        if death.cause == "memory":
            return self._too_much_memory()
        return ResourceError("processing this object broke the extractor's worker: a file may be damaged or too large")

    def _too_much_memory(self) -> ResourceError:
        allowed = self._limits.memory_bytes // MIB
        return ResourceError(f"processing this object needed more than the {allowed} MiB of memory it may use")


class _BlobFiles:
    """The files of one run: written when the worker asks, gone when the run ends."""

    def __init__(self, parent: Path, blobs: Mapping[str, BlobView], allowed: int) -> None:
        self._parent, self._blobs = parent, blobs
        self._allowed = self._left = allowed
        self._folder: Path | None = None
        self._written: dict[str, Path] = {}

    async def file_of(self, blob_id: str) -> Path:
        """The blob as a file. ``KeyError`` for a blob that is not of this run."""
        if blob_id not in self._written:
            blob = self._blobs[blob_id]
            if self._folder is None:
                self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._parent))
            path = self._folder / str(len(self._written))
            await self._write(blob, path)
            self._written[blob_id] = path
        return self._written[blob_id]

    async def _write(self, blob: BlobView, path: Path) -> None:
        too_large = ResourceError(f"{blob.describe()} takes more than the {self._allowed // MIB} MiB an object may use")
        if blob.size_bytes > self._left:
            raise too_large
        with path.open("xb") as file:
            async for chunk in blob.open():
                self._left -= len(chunk)
                if self._left < 0:
                    raise too_large
                try:
                    await asyncio.to_thread(file.write, chunk)  # a disk that stalls must not stall the heartbeats
                except OSError as error:
                    raise TransientError("there is no room to read the object's files right now") from error

    async def remove(self) -> None:
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _private_folder(parent: Path | None) -> tuple[Path, IO[bytes]]:
    """A folder that only we may read, locked as long as we live; those of dead services are removed on the
    way.
    """
    base = parent or Path(tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    for stale in base.glob(f"{PREFIX}*"):
        _remove_unlocked(stale)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    lock = (folder / "lock").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock


def _remove_unlocked(folder: Path) -> None:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, being made, or another user's
        return
