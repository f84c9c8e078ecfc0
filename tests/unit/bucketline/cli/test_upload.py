"""``bucketline upload`` with a fake API."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from bucketline.cli import upload as module
from bucketline.cli.client import ApiError, Json
from bucketline.cli.upload import BUCKET_SCHEMA, FileResult, choose_type, find_files, print_results, upload_files
from bucketline.errors import BucketlineError


class FakeApi:
    """Stores objects by idempotency key and uploads by hash, as the API does."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.uploads: dict[str, Json] = {}
        self.stored: dict[str, bytes] = {}
        self.refused: str | None = None
        self.active = self.max_active = 0
        self.barrier = asyncio.Barrier(1)

    async def post(self, path: str, body: Json, **_query: str) -> Json:
        if path.endswith("/objects"):
            self.active += 1
            self.max_active = max(self.max_active, self.active)
            await self.barrier.wait()
            self.active -= 1
            if body["name"] == self.refused:
                raise ApiError(422, "unsupported blob")
            new = {**body, "object_id": f"obj_{len(self.objects)}", "status": "DRAFT"}
            return self.objects.setdefault(body["idempotency_key"], new)
        if path.endswith("/uploads"):
            known = body["file_hash"] in self.uploads
            upload = self.uploads.setdefault(body["file_hash"], {"upload_id": f"upl_{len(self.uploads)}"})
            return {**upload, "presigned_url": None if known else f"https://s3/{upload['upload_id']}"}
        assert body["etag"] == '"tag"'
        return {"status": "PROCESSING"}

    async def get(self, _path: str) -> Json:
        return {"status": "COMPLETED"}

    async def put_file(self, url: str, content: AsyncIterator[bytes], _media_type: str, size: int) -> str:
        self.stored[url] = b"".join([chunk async for chunk in content])
        assert len(self.stored[url]) == size
        return '"tag"'


async def run_upload(api: FakeApi, paths: list[Path], jobs: int = 4) -> tuple[list[FileResult], int]:
    """Upload the files; return the results and the number of bytes that were reported."""
    results, sizes = [FileResult(path) for path in paths], list[int]()
    await upload_files(api, "files", results, jobs, sizes.append)  # type: ignore[arg-type]  # a fake client
    return results, sum(sizes)


def test_find_files_in_a_folder_finds_all_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.txt", "sub/a.txt", ".hidden/c.txt", "sub/.d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_files([str(tmp_path)]) == [tmp_path / "b.txt", tmp_path / "sub" / "a.txt"]


def test_find_files_with_a_pattern_and_a_file_names_each_once(tmp_path: Path) -> None:
    for name in ("a.txt", "b.csv", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([str(tmp_path / "a.txt"), f"{tmp_path}/**/*.txt"])
    assert found == [tmp_path / "a.txt", tmp_path / "sub" / "c.txt"]


def test_find_files_without_a_match_names_the_argument(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"missing\.txt does not exist"):
        find_files([str(tmp_path / "missing.txt")])
    with pytest.raises(typer.BadParameter, match="does not contain any file"):
        find_files([str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.pdf", b"%PDF-", ("document", "application/pdf")),
        ("a.DOCX", b"PK", ("document", "application/vnd.openxmlformats-officedocument.wordprocessingml.document")),
        ("a.csv", b"x,y", ("table", "text/csv")),
        ("a.xlsx", b"PK", ("table", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")),
        ("a.parquet", b"PAR1", ("table", "application/vnd.apache.parquet")),
        ("a.html", b"<html>", ("text", "text/html")),
        ("a.json", b"{}", ("text", "application/json")),
        ("a.md", b"# a", ("text", "text/markdown")),
        ("README", "Größe".encode(), ("text", "text/plain")),
        ("a.png", b"\x89PNG", ("image", "image/png")),
        ("a.mp4", b"\0", ("video", "video/mp4")),
    ],
)
def test_choose_type_of_a_supported_file(tmp_path: Path, name: str, content: bytes, expected: tuple[str, str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert choose_type(path) == expected
    assert expected[0] in BUCKET_SCHEMA["properties"]


@pytest.mark.parametrize(("name", "content"), [("a.zip", b"PK"), ("a.bin", b"\0\1"), ("a", b"\xff\xfe\0")])
def test_choose_type_of_an_unsupported_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BucketlineError, match="are not supported"):
        choose_type(path)


async def test_upload_again_creates_objects_for_changed_files_only(tmp_path: Path) -> None:
    api, paths = FakeApi(), [tmp_path / f"{number}.txt" for number in range(6)]
    for path in paths:
        path.write_text("same content")
    api.barrier = asyncio.Barrier(3)
    first, reported = await run_upload(api, paths, jobs=3)
    api.barrier = asyncio.Barrier(1)
    assert len({result.object_id for result in first}) == 6
    assert reported == 6 * len("same content")
    assert api.max_active == 3
    assert [result.object_id for result in (await run_upload(api, paths))[0]] == [r.object_id for r in first]
    paths[0].write_text("changed")
    await run_upload(api, paths)
    assert len(api.objects) == 7


async def test_upload_of_a_refused_file_reports_it_and_uploads_the_others(tmp_path: Path) -> None:
    api, paths = FakeApi(), [tmp_path / name for name in ("a.txt", "bad.txt", "c.zip", "d.txt", "missing.txt")]
    for path in paths[:-1]:
        path.write_text(path.name)
    api.refused = "bad.txt"
    results, _ = await run_upload(api, paths)
    assert [result.status for result in results] == ["DRAFT", "failed", "failed", "DRAFT", "failed"]
    assert "unsupported blob" in results[1].error
    assert "application/zip" in results[2].error
    console = Console(width=200, record=True, quiet=False)
    print_results(console, results)
    text = console.export_text()
    assert "bad.txt" in text
    assert "5 files: 2 DRAFT, 3 failed" in text


async def test_upload_of_a_large_file_sends_it_to_the_store_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_INLINE_BYTES", 10)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4)
    monkeypatch.setattr(module, "CONFIRM_POLL_SECONDS", 0)
    api, path = FakeApi(), tmp_path / "large.txt"
    path.write_text("more than ten bytes")
    results, reported = await run_upload(api, [path])
    assert reported == len("more than ten bytes")
    (obj,) = api.objects.values()
    assert obj["blobs"] == [{"property": "text", "type": "text", "upload_id": "upl_0"}]
    assert api.stored == {"https://s3/upl_0": b"more than ten bytes"}
    api.stored.clear()
    again, reported = await run_upload(api, [path])
    assert (again, reported, api.stored) == (results, len("more than ten bytes"), {})


def test_build_object_has_the_content_and_the_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("notes/a.txt")
    path.parent.mkdir()
    path.write_text("a note")
    body: dict[str, Any] = module.build_object(path)
    assert (body["key_prefix"], body["name"]) == ("/notes/a.txt", "a.txt")
    assert base64.b64decode(body["blobs"][0]["data"]["base64"]) == b"a note"
    assert module.build_object(path.absolute())["key_prefix"] == "/a.txt"


def test_print_results_of_many_files_shows_only_errors() -> None:
    results = [FileResult(Path(f"{number}.txt"), "COMPLETED") for number in range(module.MAX_ROWS)]
    results.append(FileResult(Path("broken.pdf"), "FAILED", error="no page"))
    console = Console(width=200, record=True)
    print_results(console, results)
    text = console.export_text()
    assert "broken.pdf" in text
    assert "1.txt" not in text
    assert "101 files: 100 COMPLETED, 1 FAILED" in text
