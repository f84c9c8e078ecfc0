import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

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
from bucketline_dedup.errors import AddressRefused, SourceError, SourceNotFound, SourceTooLarge
from bucketline_dedup.sources import ByteStream, SourceOpener

MB = 1024 * 1024


async def read(opener: SourceOpener, source: Source, *, max_bytes: int = MB) -> bytes:
    async with opener.open(source, max_bytes=max_bytes) as stream:
        return b"".join([chunk async for chunk in stream])


class Elsewhere:
    """Stands for HTTP, S3 and uploads: notes what it was asked for, and answers with it."""

    def __init__(self) -> None:
        self.inline = SourceOpener()

    def open(self, *names: str, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]:
        return self._answer("|".join(names), max_bytes)

    def open_upload(self, upload_id: str, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]:
        return self._answer(f"upload {upload_id}", max_bytes)

    def open_staged(self, key: str, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]:
        return self._answer(f"staged {key}", max_bytes)

    @asynccontextmanager
    async def _answer(self, text: str, max_bytes: int) -> AsyncIterator[ByteStream]:
        async with self.inline.open(TextSource(text), max_bytes=max_bytes) as stream:
            yield stream


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
async def test_inline_content(source: Source, content: bytes, kind: str | None, filename: str | None) -> None:
    async with SourceOpener().open(source, max_bytes=10) as stream:
        assert (stream.content_length, stream.content_type, stream.filename) == (len(content), kind, filename)
        assert b"".join([chunk async for chunk in stream]) == content


async def test_inline_content_has_limits_and_bounded_chunks() -> None:
    source = TextSource("x" * (2 * MB + 5))
    with pytest.raises(SourceTooLarge):
        await read(SourceOpener(), source, max_bytes=2 * MB)
    async with SourceOpener().open(source, max_bytes=3 * MB) as stream:
        assert [len(chunk) async for chunk in stream] == [MB, MB, 5]


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        (UrlSource("https://files.example/a"), b"https://files.example/a"),
        (S3Source("s3://bucket/a/b c"), b"bucket|a/b c"),
        (UploadSource("upl_1"), b"upload upl_1"),
        (StagedSource("staging/1"), b"staged staging/1"),
    ],
)
async def test_each_kind_is_opened_where_it_lies(source: Source, asked: bytes) -> None:
    there = Elsewhere()
    assert await read(SourceOpener(urls=there, objects=there, uploads=there), source) == asked
    with pytest.raises(AddressRefused):
        await read(SourceOpener(), source)


async def test_properties_have_no_bytes() -> None:
    with pytest.raises(ValueError, match="properties"):
        await read(SourceOpener(), PropertiesSource({}))


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

    async def test_below_an_allowed_directory(self, root: Path) -> None:
        opener = SourceOpener(file_roots=[root])
        async with opener.open(FileSource(f"{root}/a.txt"), max_bytes=6) as stream:
            assert (stream.content_length, stream.filename) == (6, "a.txt")
            assert [chunk async for chunk in stream] == [b"inside"]
        assert await read(opener, FileSource(f"{root}/near.txt")) == b"inside"

    @pytest.mark.parametrize(
        "path",
        ["{root}/../secret.txt", "{root}/link.txt", "/etc/passwd", "{root}", "{root}/pipe", "/dev/zero",
         "{root}-other/a",
         "/no/such/file", "/proc/self/environ", "a.txt"],
    )  # fmt: skip
    async def test_nothing_else_and_no_hint_whether_it_exists(self, root: Path, path: str) -> None:
        with pytest.raises(AddressRefused) as refused:
            await read(SourceOpener(file_roots=[root]), FileSource(path.format(root=root)))
        assert refused.value.message == "the address is not allowed"

    async def test_without_directories_none_may_be_read(self, root: Path) -> None:
        with pytest.raises(AddressRefused):
            await read(SourceOpener(), FileSource(f"{root}/a.txt"))

    async def test_missing_and_too_large(self, root: Path) -> None:
        opener = SourceOpener(file_roots=[root])
        with pytest.raises(SourceNotFound):
            await read(opener, FileSource(f"{root}/missing.txt"))
        with pytest.raises(SourceTooLarge):
            await read(opener, FileSource(f"{root}/a.txt"), max_bytes=5)

    @pytest.mark.parametrize("becomes", [b"insi", b"inside and more"])
    async def test_a_file_that_changes_while_it_is_read(self, root: Path, becomes: bytes) -> None:
        opener = SourceOpener(file_roots=[root])
        async with opener.open(FileSource(f"{root}/a.txt"), max_bytes=MB) as stream:
            (root / "a.txt").write_bytes(becomes)
            with pytest.raises(SourceError, match="changed"):
                b"".join([chunk async for chunk in stream])
