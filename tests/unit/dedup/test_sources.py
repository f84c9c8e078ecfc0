"""Opening of sources of every kind."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.domain.blob_sources import (
    Base64Source,
    DataUriSource,
    FileSource,
    JsonSource,
    PropertiesSource,
    S3Source,
    Source,
    StagedSource,
    TextSource,
    UploadSource,
    UrlSource,
)
from bucketline.http.ssrf import AddressRefused
from bucketline_dedup.errors import SourceError, SourceNotFound, SourceTooLarge
from bucketline_dedup.http_fetcher import HttpFetcher
from bucketline_dedup.sources import ByteStream, SourceOpener

MB = 1024 * 1024


async def read(sources: SourceOpener, source: Source, *, max_bytes: int = MB) -> bytes:
    async with sources.open(source, max_bytes=max_bytes) as stream:
        return b"".join([chunk async for chunk in stream])


class Fetcher:
    """Answers with the URL."""

    @asynccontextmanager
    async def open(self, url: str, *, max_bytes: int) -> AsyncIterator[ByteStream]:
        async with opener().open(TextSource(url), max_bytes=max_bytes) as stream:
            yield stream


def opener(*roots: Path) -> SourceOpener:
    """Opens sources in a store with ``staging/1`` and an external bucket with ``a/b c``."""
    store, external = MemoryBlobStore(), MemoryBlobStore(external={"s3://bucket/a/b c": b"external"})
    store.put("staging/1", b"staged")
    return SourceOpener(fetcher=cast("HttpFetcher", Fetcher()), store=store, external=external, file_roots=roots)


@pytest.mark.parametrize(
    ("source", "content", "kind", "filename"),
    [
        (TextSource("é"), b"\xc3\xa9", "text/plain; charset=utf-8", None),
        (TextSource(""), b"", "text/plain; charset=utf-8", None),
        (JsonSource([1, "a"]), b'[1,"a"]', "application/json", None),
        (DataUriSource("image/png", "aGk="), b"hi", "image/png", None),
        (DataUriSource(None, "aGk="), b"hi", None, None),
        (Base64Source("aGk=", "image/png", "../b.png"), b"hi", "image/png", "b.png"),
    ],
)
async def test_open_inline_describes_and_yields_the_content(
    source: Source, content: bytes, kind: str | None, filename: str | None
) -> None:
    async with opener().open(source, max_bytes=10) as stream:
        assert (stream.content_length, stream.content_type, stream.filename) == (len(content), kind, filename)
        assert b"".join([chunk async for chunk in stream]) == content


async def test_open_inline_has_limits_and_bounded_chunks() -> None:
    source = TextSource("x" * (2 * MB + 5))
    with pytest.raises(SourceTooLarge):
        await read(opener(), source, max_bytes=2 * MB)
    async with opener().open(source, max_bytes=3 * MB) as stream:
        assert [len(chunk) async for chunk in stream] == [MB, MB, 5]


@pytest.mark.parametrize(
    ("source", "content"),
    [
        (UrlSource("https://files.example/a"), b"https://files.example/a"),
        (S3Source("s3://bucket/a/b c"), b"external"),
        (StagedSource("staging/1"), b"staged"),
    ],
)
async def test_open_of_each_kind_reads_the_content(source: Source, content: bytes) -> None:
    assert await read(opener(), source) == content
    with pytest.raises(SourceTooLarge):
        await read(opener(), source, max_bytes=len(content) - 1)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (S3Source("s3://other/a"), AddressRefused),
        (S3Source("s3://bucket/missing"), SourceNotFound),
        (StagedSource("staging/missing"), SourceNotFound),
        (UploadSource("upl_1"), SourceNotFound),
    ],
)
async def test_open_of_missing_or_unconfigured_sources_is_refused(source: Source, error: type[Exception]) -> None:
    with pytest.raises(error):
        await read(opener(), source)


async def test_open_of_properties_raises_value_error() -> None:
    with pytest.raises(ValueError, match="properties"):
        await read(opener(), PropertiesSource({}))


class TestFiles:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "shared"
        root.mkdir()
        (root / "a.txt").write_bytes(b"inside")
        (tmp_path / "secret.txt").write_bytes(b"outside")
        (root / "link.txt").symlink_to(tmp_path / "secret.txt")
        (root / "near.txt").symlink_to(root / "a.txt")
        os.mkfifo(root / "pipe")
        return root

    async def test_open_file_below_an_allowed_directory_reads_it(self, root: Path) -> None:
        files = opener(root)
        async with files.open(FileSource(f"{root}/a.txt"), max_bytes=6) as stream:
            assert (stream.content_length, stream.filename) == (6, "a.txt")
            assert [chunk async for chunk in stream] == [b"inside"]
        assert await read(files, FileSource(f"{root}/near.txt")) == b"inside"

    @pytest.mark.parametrize(
        "path",
        ["{root}/../secret.txt", "{root}/link.txt", "/etc/passwd", "{root}", "{root}/pipe", "/dev/zero",
         "{root}-other/a",
         "/no/such/file", "/proc/self/environ", "a.txt"],
    )  # fmt: skip
    async def test_open_file_elsewhere_is_refused_without_a_hint(self, root: Path, path: str) -> None:
        with pytest.raises(AddressRefused) as refused:
            await read(opener(root), FileSource(path.format(root=root)))
        assert refused.value.message == "the address is not allowed"

    async def test_open_file_without_directories_is_refused(self, root: Path) -> None:
        with pytest.raises(AddressRefused):
            await read(opener(), FileSource(f"{root}/a.txt"))

    async def test_open_file_missing_or_too_large_raises(self, root: Path) -> None:
        files = opener(root)
        with pytest.raises(SourceNotFound):
            await read(files, FileSource(f"{root}/missing.txt"))
        with pytest.raises(SourceTooLarge):
            await read(files, FileSource(f"{root}/a.txt"), max_bytes=5)

    @pytest.mark.parametrize("becomes", [b"insi", b"inside and more"])
    async def test_open_file_that_changes_raises(self, root: Path, becomes: bytes) -> None:
        files = opener(root)
        async with files.open(FileSource(f"{root}/a.txt"), max_bytes=MB) as stream:
            (root / "a.txt").write_bytes(becomes)
            with pytest.raises(SourceError, match="changed"):
                b"".join([chunk async for chunk in stream])
