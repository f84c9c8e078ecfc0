"""The inside of a worker process: ``python -m bucketline_processor.worker <memory bytes> <pid of the service>``.

It reads runs from standard input, asks for the blobs that the extractor opens, and writes documents to
standard output. A blocked pipe is the back-pressure: what nobody takes is not made. Everything here blocks,
on purpose.
"""

import asyncio
import ctypes
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from bucketline.extractors import (
    BlobSource,
    Document,
    ExtractionError,
    Extractor,
    ExtractorRegistry,
    FileSource,
    PermanentError,
    UnknownExtractor,
)
from bucketline_processor.worker_protocol import (
    HEADER,
    Frame,
    FrameType,
    document_parts,
    frame_sizes,
    pack,
    pack_documents,
    read_run,
    unpack,
)

BATCH_DOCUMENTS = 256
BATCH_BYTES = 256 * 1024
BATCH_SECONDS = 0.25
NICENESS = 5
PR_SET_PDEATHSIG = 1


class Pipe:
    """Both directions to the service. A thread reads, so that the service's end is noticed at any moment."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._frames: queue.Queue[Frame] = queue.Queue(maxsize=2)
        threading.Thread(target=self._read, name="pipe", daemon=True).start()

    def receive(self) -> Frame:
        """The next frame, whenever it comes: an idle worker waits for work without an end."""
        return self._frames.get()

    def send(self, frame: bytes) -> None:
        self._outgoing.write(frame)
        self._outgoing.flush()

    def _read(self) -> NoReturn:
        try:
            while header := self._incoming.read(HEADER.size):
                kind, text, binary = frame_sizes(header)
                self._frames.put(unpack(kind, self._incoming.read(text), self._incoming.read(binary)))
        finally:
            os._exit(0)  # the service closed the pipe or died: nobody wants the result


class LazyBlob:
    """A blob whose file the service writes when an extractor first opens it."""

    def __init__(self, pipe: Pipe, blob_id: str) -> None:
        self._pipe, self._blob_id = pipe, blob_id
        self._file: FileSource | None = None

    async def open(self) -> AsyncIterator[bytes]:
        async for chunk in self._asked().open():
            yield chunk

    @asynccontextmanager
    async def as_file(self) -> AsyncIterator[Path]:
        async with self._asked().as_file() as path:
            yield path

    async def presigned_url(self) -> str:
        return await self._asked().presigned_url()

    def _asked(self) -> FileSource:
        if self._file is None:
            self._pipe.send(pack(FrameType.NEED, {"blob_id": self._blob_id}))
            self._file = FileSource(Path(str(self._pipe.receive().body["path"])))
        return self._file


async def run(pipe: Pipe, registry: ExtractorRegistry, body: dict[str, object]) -> None:
    """One run, up to its ``DONE`` or ``ERROR``."""

    def source(blob_id: str) -> BlobSource:
        return LazyBlob(pipe, blob_id)

    try:
        extractor_id, obj, context = read_run(body, source)
        extractor: Extractor = registry.get(extractor_id)
        texts: list[bytes] = []
        binaries: list[bytes] = []
        size, due = 0, 0.0  # the first document goes at once, then they gather
        # extract is an async generator in all but its declared type
        async with aclosing(cast("AsyncGenerator[Document, None]", extractor.extract(obj, context))) as documents:
            async for document in documents:
                text, binary = document_parts(document)
                texts.append(text)
                binaries.append(binary)
                size += len(text) + len(binary)
                if len(texts) >= BATCH_DOCUMENTS or size >= BATCH_BYTES or time.monotonic() >= due:
                    pipe.send(pack_documents(texts, binaries))
                    texts, binaries, size, due = [], [], 0, time.monotonic() + BATCH_SECONDS
        if texts:
            pipe.send(pack_documents(texts, binaries))
    except MemoryError:
        texts = binaries = []  # room for the farewell
        pipe.send(pack(FrameType.ERROR, {"kind": "memory"}))
        os._exit(1)  # what is left of the heap is not worth keeping
    except ExtractionError as error:
        pipe.send(pack(FrameType.ERROR, {"kind": error.kind, "message": error.message}))
    except UnknownExtractor as error:
        pipe.send(pack(FrameType.ERROR, {"kind": PermanentError.kind, "message": error.message}))
    except Exception as error:
        message = f"the extractor failed on this object ({type(error).__name__})"
        pipe.send(
            pack(FrameType.ERROR, {"kind": PermanentError.kind, "message": message, "detail": repr(error)[:2000]})
        )
    else:
        pipe.send(pack(FrameType.DONE, {}))


def apply_limits(memory_bytes: int) -> None:
    """Limit this process and tie its life to the service's.

    The limit is on data (``RLIMIT_DATA``) where it covers mappings, as Linux does: libraries that reserve
    address space without using it stay usable. Elsewhere the service's own watch on the resident size is
    what holds.
    """
    os.umask(0o077)
    os.nice(NICENESS)  # the service's event loop, with its heartbeats, goes first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Serve runs until the service closes the pipe."""
    # Libraries that print must not break the protocol: it gets a descriptor of its own.
    outgoing = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    apply_limits(int(sys.argv[1]))
    if os.getppid() != int(sys.argv[2]):
        os._exit(0)  # the service died before its death could be reported
    pipe = Pipe(os.fdopen(os.dup(0), "rb"), cast("BinaryIO", outgoing))
    registry = ExtractorRegistry()
    pipe.send(pack(FrameType.READY, {}))
    with asyncio.Runner() as runner:
        while True:
            frame = pipe.receive()
            pipe.send(pack(FrameType.STARTED, {}))
            runner.run(run(pipe, registry, frame.body))


if __name__ == "__main__":
    main()
