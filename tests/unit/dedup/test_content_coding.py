"""Content codings that were not requested are undone within limits, or refused with a clear error."""

import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from bucketline_dedup.content_coding import codings_of, decode
from bucketline_dedup.errors import SourceError, SourceTooLarge, SourceUnavailable, SourceUnreadable

MB = 1024 * 1024
NOISE = hashlib.shake_256(b"noise").digest(300_000)
CONTENTS = [b"", b"x", b"hello " * 1000, NOISE, b"0" * (3 * MB) + NOISE]


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without its header": raw_deflate,
    "br": lambda data: bytes(brotli.compress(data, quality=5)),
    "zstd": zstd.compress,
}


def coding_of(name: str) -> str:
    return name.partition(" ")[0]


async def decoded(
    body: bytes,
    *codings: str,
    max_bytes: int = 10 * MB,
    step: int = 64 * 1024,
    content_type: str | None = None,
    filename: str | None = None,
) -> bytes:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), step):
            yield body[start : start + step]

    stream = decode(chunks(), codings, max_bytes=max_bytes, content_type=content_type, filename=filename)
    pieces = [chunk async for chunk in stream]
    assert all(0 < len(piece) <= MB for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("headers", "codings"),
    [
        ([], ()),
        (["gzip"], ("gzip",)),
        (["X-GZip"], ("gzip",)),
        (["deflate, br"], ("deflate", "br")),
        (["deflate", "zstd , gzip"], ("deflate", "zstd", "gzip")),
        (["identity", ""], ()),
        (["utf-8"], ()),
        (["none"], ()),
        (["aws-chunked,gzip"], ("gzip",)),
    ],
)
def test_codings_of_headers_returns_known_ones_in_order(headers: list[str], codings: tuple[str, ...]) -> None:
    assert codings_of(headers) == codings


@pytest.mark.parametrize("header", ["compress", "gzip, x-compress", "dcb", ", ".join(["gzip"] * 6)])
def test_codings_of_unsupported_header_is_refused(header: str) -> None:
    with pytest.raises(SourceUnreadable):
        codings_of([header])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: f"{len(content)} bytes")
@pytest.mark.parametrize("step", [1, 100_000])
async def test_decode_returns_the_content(name: str, content: bytes, step: int) -> None:
    body = ENCODERS[name](content)
    if step == 1:
        body = ENCODERS[name](content[:2000])
        content = content[:2000]
    assert await decoded(body, coding_of(name), step=step) == content


@pytest.mark.parametrize("name", ENCODERS)
async def test_decode_with_empty_body_returns_nothing(name: str) -> None:
    assert await decoded(b"", coding_of(name)) == b""


@pytest.mark.parametrize("outer", ENCODERS)
@pytest.mark.parametrize("inner", ENCODERS)
async def test_decode_undoes_stacked_codings_last_first(inner: str, outer: str) -> None:
    body = ENCODERS[outer](ENCODERS[inner](NOISE))
    assert await decoded(body, coding_of(inner), coding_of(outer)) == NOISE


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("step", [7, 64 * 1024])
async def test_decode_reads_every_member_and_ignores_padding(name: str, step: int) -> None:
    members = [b"one" * 1000, b"", b"three"]
    body = b"".join(map(ENCODERS[name], members))
    assert await decoded(body, name, step=step) == b"".join(members)
    assert await decoded(body + b"\0" * 512, name, step=step) == b"".join(members)


async def test_decode_skips_frames_without_content() -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz"
    assert await decoded(skippable + zstd.compress(b"content"), "zstd") == b"content"


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("cut", [1, 3, 0.5, 0.9])
async def test_decode_of_truncated_body_is_retryable_error(name: str, cut: float) -> None:
    body = ENCODERS[name](NOISE)
    with pytest.raises(SourceUnavailable, match="too early"):
        await decoded(body[: int(cut * len(body)) if cut < 1 else len(body) - int(cut)], coding_of(name))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("body", [b"<html>not encoded at all</html>", b"\xff" * 1000], ids=["text", "binary"])
async def test_decode_of_invalid_body_is_refused(name: str, body: bytes) -> None:
    with pytest.raises(SourceUnreadable, match="content encoding"):
        await decoded(body, coding_of(name))


@pytest.mark.parametrize("name", ["gzip", "deflate"])
async def test_decode_verifies_the_checksum(name: str) -> None:
    body = bytearray(ENCODERS[name](b"hello" * 100))
    body[-5] ^= 0xFF
    with pytest.raises(SourceError):
        await decoded(bytes(body), name)


@pytest.mark.parametrize("name", ENCODERS)
async def test_decode_above_the_limit_is_refused(name: str) -> None:
    body = ENCODERS[name](b"0" * (20 * MB))
    assert len(body) < 100_000
    with pytest.raises(SourceTooLarge):
        await decoded(body, coding_of(name), max_bytes=20 * MB - 1)
    assert len(await decoded(body, coding_of(name), max_bytes=20 * MB)) == 20 * MB


async def test_decode_limits_the_size_between_stacked_codings() -> None:
    """Empty members decode to nothing, however many there are."""
    with pytest.raises(SourceTooLarge):
        await decoded(gzip.compress(gzip.compress(b"") * 1_000_000), "gzip", "gzip", max_bytes=MB)


@pytest.mark.parametrize(
    ("content_type", "filename"),
    [
        ("application/x-gzip", None),
        ("application/gzip", "download"),
        ("application/x-tar", "a.tar.gz"),
        ("application/octet-stream", "A.TGZ"),
        (None, "nii.gz"),
    ],
)
async def test_decode_of_archive_with_bogus_coding_keeps_it_as_sent(
    content_type: str | None, filename: str | None
) -> None:
    archive = gzip.compress(NOISE)
    assert await decoded(archive, "gzip", content_type=content_type, filename=filename) == archive
    # The bogus coding is the inner one if the server really encoded the file as well.
    sent = gzip.compress(archive)
    assert await decoded(sent, "gzip", "gzip", content_type=content_type, filename=filename) == archive
    assert await decoded(sent, "gzip", content_type=content_type, filename=filename) == archive


@pytest.mark.parametrize(
    ("content_type", "filename"),
    [("text/plain", "log.gz"), ("application/json", "rows.json.gz"), ("image/svg+xml", "a.svgz"), ("text/html", None)],
)
async def test_decode_of_text_with_archive_name_returns_the_text(content_type: str, filename: str | None) -> None:
    assert await decoded(gzip.compress(b"text"), "gzip", content_type=content_type, filename=filename) == b"text"


@pytest.mark.parametrize(("coding", "filename"), [("zstd", "a.tar.zst"), ("br", "a.tar.br")])
async def test_decode_of_other_archives_keeps_them_as_sent(coding: str, filename: str) -> None:
    archive = ENCODERS[coding](NOISE)
    assert await decoded(archive, coding, filename=filename) == archive


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "br", "zstd"]), st.integers(1, 50))
async def test_decode_of_any_bytes_returns_or_raises_source_error(body: bytes, coding: str, step: int) -> None:
    with suppress(SourceError):
        assert len(await decoded(body, coding, step=step, max_bytes=MB)) <= MB
