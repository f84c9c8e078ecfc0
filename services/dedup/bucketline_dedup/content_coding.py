"""Undoes content codings (RFC 9110, section 8.4) that a source applied although none was requested.

The stored bytes are the content itself, as browsers and ``curl --compressed`` would save it. Output is bounded at every
step, and by ``max_bytes`` after each of several stacked codings, so a decompression bomb costs no more than content of
that size. gzip and zstd may consist of several members; bytes after the last one are ignored, as browsers do.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import brotli

from bucketline_dedup.errors import SourceError, SourceTooLarge, SourceUnavailable, SourceUnreadable

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

MAX_CODINGS = 5
"""The limit of curl and urllib3."""
SLICE_BYTES = 16 * 1024
"""Input of one step. The rest is copied after each member, so larger steps would make tiny members slow."""
PIECE_BYTES = 256 * 1024
CHUNK_BYTES = 512 * 1024
ZSTD_WINDOW_LOG = 23
"""8 MiB, the limit that RFC 9659 sets for content codings."""


@dataclass(frozen=True, slots=True)
class _Format:
    """A file format that is a content coding as well, and how to recognize a file of it."""

    media_types: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    signature: bytes | None = None


_FORMATS = {
    "gzip": _Format(
        frozenset({"application/gzip", "application/x-gzip", "application/x-gunzip", "application/gzip-compressed"})
        | {"application/gzipped", "application/x-tgz", "application/x-compressed-tar", "application/x-gtar-compressed"},
        (".gz", ".tgz", ".taz", ".gzip"),
        b"\x1f\x8b",
    ),
    "zstd": _Format(
        frozenset({"application/zstd", "application/x-zstd"}), (".zst", ".tzst", ".zstd"), b"\x28\xb5\x2f\xfd"
    ),
    "br": _Format(frozenset({"application/x-br", "application/brotli"}), (".br",)),
    "deflate": _Format(),
}
_ALIASES = {"x-gzip": "gzip"}
# Registered with IANA, but not supported: the body is not what its media type says.
_UNSUPPORTED = frozenset({"aes128gcm", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip"})


def codings_of(headers: Iterable[str]) -> tuple[str, ...]:
    """Return the codings that ``Content-Encoding`` lists, in the order in which they were applied.

    Values that are not content codings ("utf-8", "none", "aws-chunked") are skipped, as browsers do. Raises
    :class:`SourceUnreadable` for codings that are not supported, and for more than five.
    """
    names = [name.strip().lower() for header in headers for name in header.split(",")]
    codings = tuple(name for name in (_ALIASES.get(name, name) for name in names) if name in _FORMATS)
    if unsupported := next((name for name in names if name in _UNSUPPORTED), None):
        raise SourceUnreadable(f"the source sent the content encoding {unsupported!r}, which is not supported")
    if len(codings) > MAX_CODINGS:
        raise SourceUnreadable(f"the source sent more than {MAX_CODINGS} stacked content encodings")
    return codings


async def decode(
    chunks: AsyncIterator[bytes],
    codings: Sequence[str],
    *,
    max_bytes: int,
    content_type: str | None = None,
    filename: str | None = None,
) -> AsyncGenerator[bytes]:
    """Yield the content in chunks of at most 1 MiB.

    Raises :class:`SourceUnreadable` for invalid input, :class:`SourceUnavailable` for input that ends too early, and
    :class:`SourceTooLarge`.
    """
    stages: list[_Stage] | None = None
    async for chunk in chunks:
        if stages is None:
            if _is_file_of(codings[0], content_type, filename) and not _is_encoded_file(chunk, codings):
                codings = codings[1:]
            stages = [_Stage(coding, max_bytes) for coding in reversed(codings)]
        pieces = _through(stages, chunk)
        # In a thread, because a small chunk may decode to a gigabyte.
        while content := await asyncio.to_thread(_gather, pieces):
            yield content
    for stage in stages or ():
        if not stage.decoder.complete:
            raise SourceUnavailable(f"the {stage.coding} encoded content of the source ends too early")


def _is_file_of(coding: str, content_type: str | None, filename: str | None) -> bool:
    """Return whether the type or the name says that the content itself is, for instance, a ``.tar.gz``.

    Some servers send such a file as it is and announce its format as a ``Content-Encoding`` too (Apache's
    ``AddEncoding x-gzip .gz``). Firefox checks the type, Wget the name.
    """
    file_format = _FORMATS[coding]
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in file_format.media_types:
        return True
    is_text = kind.startswith("text/") or kind.endswith(("json", "xml", "javascript"))
    return not is_text and (filename or "").lower().endswith(file_format.suffixes or "\0")


def _is_encoded_file(first: bytes, codings: Sequence[str]) -> bool:
    """Return whether such a file was really encoded once more, so that it is still one after decoding."""
    signature = _FORMATS[codings[0]].signature
    try:
        start = next(_through([_Stage(coding, PIECE_BYTES) for coding in reversed(codings)], first[:SLICE_BYTES]), b"")
    except SourceError:
        return False
    return signature is not None and start.startswith(signature)


class _Member(Protocol):
    """The common interface of the decompressors of :mod:`zlib` and zstd, which stop at the end of one member."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Members:
    """Decodes gzip, deflate and zstd. ``begin`` returns a decompressor, or None while it needs more input to choose."""

    def __init__(self, begin: Callable[[bytes], _Member | None]) -> None:
        self._begin = begin
        self._member: _Member | None = None
        self._held = b""
        self._ended = 0
        self._ignoring = False

    @property
    def complete(self) -> bool:
        return self._member is None and not self._held

    def decode(self, data: bytes) -> Iterator[bytes]:
        rest = self._held + data
        self._held = b""
        while rest and not self._ignoring:
            if self._member is None:
                self._member = self._begin(rest)
                if self._member is None:
                    self._held = rest
                    return
            try:
                piece = self._member.decompress(rest, PIECE_BYTES)
            except (zlib.error, ZstdError):
                if not self._ended:
                    raise
                # Padding, not another member.
                self._member, self._ignoring = None, True
                return
            if piece:
                yield piece
            # zlib returns unread input, zstd keeps it.
            rest = getattr(self._member, "unconsumed_tail", b"")
            if self._member.eof:
                rest = self._member.unused_data
                self._member = None
                self._ended += 1
            elif not rest:
                yield from self._flush(self._member, len(piece))

    def _flush(self, member: _Member, last: int) -> Iterator[bytes]:
        """Yield the output that remains in the decompressor after a full piece."""
        while last == PIECE_BYTES and not member.eof:
            piece = member.decompress(b"", PIECE_BYTES)
            last = len(piece)
            if piece:
                yield piece
        if member.eof:
            self._member = None
            self._ended += 1


class _Brotli:
    """Decodes brotli, which has one member."""

    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self._fed = False

    @property
    def complete(self) -> bool:
        return not self._fed or self._decompressor.is_finished()

    def decode(self, data: bytes) -> Iterator[bytes]:
        self._fed = True
        if self._decompressor.is_finished():
            return
        piece = self._decompressor.process(data, output_buffer_limit=PIECE_BYTES)
        while piece:
            yield piece
            piece = self._decompressor.process(b"", output_buffer_limit=PIECE_BYTES)


def _gzip(_: bytes) -> _Member:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _deflate(start: bytes) -> _Member | None:
    """Decode the zlib format; some servers omit its header, and every client accepts both."""
    if len(start) < 2:
        return None
    has_header = start[0] & 0x0F == 8 and int.from_bytes(start[:2]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _zstd(_: bytes) -> _Member:
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})


class _Stage:
    """One coding of one body."""

    def __init__(self, coding: str, max_bytes: int) -> None:
        self.coding = coding
        self.decoder: _Members | _Brotli
        match coding:
            case "br":
                self.decoder = _Brotli()
            case "zstd":
                self.decoder = _Members(_zstd)
            case "deflate":
                self.decoder = _Members(_deflate)
            case _:
                self.decoder = _Members(_gzip)
        self._max_bytes = max_bytes
        self._size = 0

    def decode(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            for start in range(0, len(piece), SLICE_BYTES):
                try:
                    for content in self.decoder.decode(piece[start : start + SLICE_BYTES]):
                        self._size += len(content)
                        if self._size > self._max_bytes:
                            raise SourceTooLarge(self._max_bytes, detail=f"counted after {self.coding}")
                        yield content
                except (zlib.error, ZstdError, brotli.error) as error:
                    raise SourceUnreadable(
                        f"the source announced the content encoding {self.coding}, but its content is not valid",
                        detail=repr(error),
                    ) from error


def _through(stages: Sequence[_Stage], chunk: bytes) -> Iterator[bytes]:
    pieces: Iterator[bytes] = iter((chunk,))
    for stage in stages:
        pieces = stage.decode(pieces)
    return pieces


def _gather(pieces: Iterator[bytes]) -> bytes:
    """Join the next pieces; empty at their end."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            break
    return b"".join(gathered)
