"""Entry point of a worker process: ``python -m bucketline_processor.worker <memory bytes> <pid of the service>``.

It reads runs from standard input, requests the blobs that the extractor opens, and writes documents to standard
output. The pipe provides back-pressure: an extractor waits until its documents are read. Everything here blocks on
purpose.
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
    Document,
    ExtractionError,
    ExtractorRegistry,
    FileSource,
    PermanentError,
    UnknownExtractor,
)
from bucketline_processor.worker_protocol import (
    HEADER,
    Frame,
    FrameType,
    encode_document,
    pack,
    pack_documents,
    parse_frame,
    parse_header,
    parse_run,
)

BATCH_DOCUMENTS = 256
BATCH_BYTES = 256 * 1024
BATCH_SECONDS = 0.25
NICENESS = 5
PR_SET_PDEATHSIG = 1


class Pipe:
    """Both directions to the service. A thread reads, so that the end of the service is noticed at any moment."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._frames: queue.Queue[Frame] = queue.Queue(maxsize=2)
        threading.Thread(target=self._read, name="pipe", daemon=True).start()

    def receive(self) -> Frame:
        """Return the next frame; an idle worker waits for it without a limit."""
        return self._frames.get()

    def send(self, frame: bytes) -> None:
        """Write a frame, and wait while the pipe is full."""
        self._outgoing.write(frame)
        self._outgoing.flush()

    def _read(self) -> NoReturn:
        try:
            while header := self._incoming.read(HEADER.size):
                frame_type, text, binary = parse_header(header)
                self._frames.put(parse_frame(frame_type, self._incoming.read(text), self._incoming.read(binary)))
        finally:
            os._exit(0)  # The service closed the pipe or died.


class LazyBlob:
    """A blob that the service writes to a file when the extractor first opens it."""

    def __init__(self, pipe: Pipe, blob_id: str) -> None:
        self._pipe, self._blob_id = pipe, blob_id
        self._file: FileSource | None = None

    async def open(self) -> AsyncIterator[bytes]:
        """Yield the content."""
        async for chunk in self._request().open():
            yield chunk

    @asynccontextmanager
    async def as_file(self) -> AsyncIterator[Path]:
        """Return the file."""
        async with self._request().as_file() as path:
            yield path

    async def presigned_url(self) -> str:
        """Raise, as for every local file."""
        return await self._request().presigned_url()

    def _request(self) -> FileSource:
        if self._file is None:
            self._pipe.send(pack(FrameType.BLOB_REQUEST, {"blob_id": self._blob_id}))
            self._file = FileSource(Path(str(self._pipe.receive().body["path"])))
        return self._file


async def run(pipe: Pipe, registry: ExtractorRegistry, body: dict[str, object]) -> None:
    """Run an extractor and send its documents, then ``DONE`` or ``ERROR``."""
    try:
        extractor_id, obj, context = parse_run(body, lambda blob_id: LazyBlob(pipe, blob_id))
        extractor = registry.get(extractor_id)
        texts: list[bytes] = []
        binaries: list[bytes] = []
        size, send_at = 0, 0.0  # The first document is sent at once, later ones in batches.
        # The declared type is AsyncIterator, but extractors are async generators, which have to be closed.
        async with aclosing(cast("AsyncGenerator[Document, None]", extractor.extract(obj, context))) as documents:
            async for document in documents:
                text, binary = encode_document(document)
                texts.append(text)
                binaries.append(binary)
                size += len(text) + len(binary)
                if len(texts) >= BATCH_DOCUMENTS or size >= BATCH_BYTES or time.monotonic() >= send_at:
                    pipe.send(pack_documents(texts, binaries))
                    texts, binaries, size, send_at = [], [], 0, time.monotonic() + BATCH_SECONDS
        if texts:
            pipe.send(pack_documents(texts, binaries))
    except MemoryError:
        texts = binaries = []  # This frees memory for the last frame.
        pipe.send(pack(FrameType.ERROR, {"kind": "memory"}))
        os._exit(1)  # The heap may be fragmented beyond use.
    except ExtractionError as error:
        pipe.send(pack(FrameType.ERROR, {"kind": error.kind, "message": error.message}))
    except UnknownExtractor as error:
        pipe.send(pack(FrameType.ERROR, {"kind": PermanentError.kind, "message": error.message}))
    except Exception as error:
        message = f"the extractor failed on this object ({type(error).__name__})"
        detail = repr(error)[:2000]
        pipe.send(pack(FrameType.ERROR, {"kind": PermanentError.kind, "message": message, "detail": detail}))
    else:
        pipe.send(pack(FrameType.DONE, {}))


def apply_limits(memory_bytes: int) -> None:
    """Limit the memory of this process, and make it die with the service.

    The limit is ``RLIMIT_DATA``, which on Linux covers private mappings: libraries that reserve address space without
    using it keep working. Elsewhere the service limits the resident size.
    """
    os.umask(0o077)
    os.nice(NICENESS)  # The event loop of the service, with its heartbeats, has priority.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Serve runs until the service closes the pipe."""
    # The protocol gets a descriptor of its own, because libraries may print to standard output.
    outgoing = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    apply_limits(int(sys.argv[1]))
    if os.getppid() != int(sys.argv[2]):
        os._exit(0)  # The service died before its death could be signalled.
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
