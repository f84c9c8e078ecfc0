"""``bucketline upload``: store files as objects in a bucket of a running Bucketline, and process them as one batch.

Objects are created as drafts with an idempotency key from the path and the content, so the same command can be run
again: what was uploaded before is not uploaded twice, and drafts that an interrupted run left are processed.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import glob
import hashlib
import mimetypes
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from bucketline.cli.terminal import print_note, run_until_signal, wide_console
from bucketline.errors import BucketlineError

if TYPE_CHECKING:
    from bucketline.cli.client import ApiClient, Json

SAMPLES_DIR = Path(__file__).parent / "samples"
MAX_INLINE_BYTES = 10 * 1024 * 1024
"""Larger files are sent to S3 with a presigned URL."""
MAX_BATCH_OBJECTS = 1_000
CHUNK_BYTES = 1024 * 1024
CONFIRM_POLL_SECONDS = 0.5
MAX_ROWS = 100
"""Without errors, more files are only counted."""
EXIT_INTERRUPTED = 130

BUCKET_SCHEMA: Json = {
    "properties": {
        "document": {"type": "pdf"},
        "image": {"type": "image"},
        "table": {"type": "excel"},
        "text": {"type": "text"},
        "audio": {"type": "audio"},
        "video": {"type": "video"},
        "name": {"type": "string", "required": True},
    }
}
"""A bucket schema with a property for each kind of file."""

_OFFICE = "application/vnd.openxmlformats-officedocument"
MEDIA_TYPES = {
    ".docx": f"{_OFFICE}.wordprocessingml.document",
    ".dotx": f"{_OFFICE}.wordprocessingml.template",
    ".docm": "application/vnd.ms-word.document.macroenabled.12",
    ".xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".parquet": "application/vnd.apache.parquet",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".webp": "image/webp",
}
"""Media types that not every system knows."""
PROPERTIES = {
    "document": re.compile(r"application/(pdf|.*word.*)"),
    "table": re.compile(r"text/(csv|tab-separated-values)|application/(.*(excel|spreadsheet|parquet).*|jsonl)"),
    "text": re.compile(r"text/.*|application/(json|xml|xhtml\+xml)"),
    "image": re.compile(r"image/.*"),
    "audio": re.compile(r"audio/.*"),
    "video": re.compile(r"video/.*"),
}
"""The property of ``BUCKET_SCHEMA`` for each media type; the first match counts."""


def upload(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, folders with all files below them, or patterns.")
    ],
    url: Annotated[str, typer.Option(envvar="BUCKETLINE_URL", help="URL of the API.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="BUCKETLINE_API_KEY", help="An API key with the WRITE permission.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace, by id or name; created if it does not exist.")] = "default",
    bucket: Annotated[str, typer.Option(help="Bucket, by id or name; created if it does not exist.")] = "files",
    jobs: Annotated[int, typer.Option(help="Number of files to upload at the same time.", min=1, max=64)] = 4,
    wait: Annotated[bool, typer.Option(help="Follow the objects until they are processed.")] = True,
) -> None:
    """Upload files and folders as objects and process them as one batch. Exit 1 if a file is not completed.

    Running the command again adds nothing for files that have not changed.

    Example: [cyan]bucketline upload report.pdf photos '2026/**/*.csv' --bucket inbox[/]
    """
    if not re.match(r"https?://[^/]", url):
        raise typer.BadParameter(f"{url!r} is not a URL such as https://bucketline.example.com", param_hint="--url")
    if not key:
        raise typer.BadParameter("no API key: pass --key or set BUCKETLINE_API_KEY (`make up` prints it)")
    results = [FileResult(path) for path in find_files(paths)]
    try:
        finished = run_until_signal(_run(results, url, key, namespace, bucket, jobs, wait))
    finally:
        if any(result.object_id or result.error for result in results):
            print_results(wide_console(), results)
    if finished is None:
        print_note("interrupted; run the same command again to continue, nothing is uploaded twice")
        raise typer.Exit(EXIT_INTERRUPTED)
    accepted = ("COMPLETED",) if wait else ("COMPLETED", "QUEUED", "PROCESSING")
    raise typer.Exit(0 if all(result.status in accepted for result in results) else 1)


@dataclass
class FileResult:
    """A file and what has become of it. ``status`` is that of its object once there is one."""

    path: Path
    status: str = "not uploaded"
    object_id: str = ""
    documents: int = 0
    error: str = ""


def find_files(paths: Sequence[str]) -> list[Path]:
    """Return the files that the arguments stand for, each once. Hidden files below a folder are left out."""
    files: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        if path.is_dir():
            found = [child for child in sorted(path.rglob("*")) if child.is_file() and not _is_hidden(child, path)]
        elif path.is_file():
            found = [path]
        else:
            matches = glob.iglob(text, recursive=True)  # noqa: PTH207 - Path.glob refuses absolute patterns
            found = sorted(child for child in map(Path, matches) if child.is_file())
        if not found:
            raise typer.BadParameter(f"{text} does not contain any file" if path.is_dir() else f"{text} does not exist")
        files |= dict.fromkeys(found)
    return list(files)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def choose_type(path: Path) -> tuple[str, str]:
    """Return the property of ``BUCKET_SCHEMA`` and the media type for a file.

    Raises BucketlineError for a kind of file that no property can hold, such as an archive.
    """
    media_type = MEDIA_TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0]
    if media_type is None and _is_text(path):
        media_type = "text/plain"
    for name, pattern in PROPERTIES.items():
        if media_type is not None and pattern.fullmatch(media_type):
            return name, media_type
    raise BucketlineError(f"files of the type {media_type or 'unknown'} are not supported")


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(8192)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # allows for a last character that is cut off
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def build_object(path: Path) -> Json:
    """Return the body of a request that creates an object with the content of a file."""
    name, media_type = choose_type(path)
    content = base64.b64encode(path.read_bytes()).decode()
    return _build_body(path, name, data={"base64": content, "mime_type": media_type, "filename": path.name})


def _build_body(path: Path, name: str, **source: object) -> Json:
    blob = {"property": name, "type": BUCKET_SCHEMA["properties"][name]["type"], **source}
    key_prefix = path.name if path.is_absolute() or ".." in path.parts else path.as_posix()
    return {"key_prefix": f"/{key_prefix}", "blobs": [blob], "name": path.name}


async def _run(
    results: list[FileResult], url: str, key: str, namespace: str, bucket: str, jobs: int, wait: bool
) -> bool:
    """Upload, submit and follow the files. Return true, to distinguish it from an interruption."""
    from bucketline.cli.client import ApiClient, follow_objects

    async with ApiClient(url, key) as client:
        await _create_if_missing(client, "/v1/namespaces", {"namespace_name": namespace})
    async with ApiClient(url, key, namespace) as client:
        await _create_if_missing(client, "/v1/buckets", {"bucket_name": bucket, "bucket_schema": BUCKET_SCHEMA})
        with _show_progress("Uploading", sum(result.path.stat().st_size for result in results)) as progress:
            await upload_files(client, bucket, results, jobs, lambda size: progress.advance(progress.task_ids[0], size))
        created = [result for result in results if result.object_id]
        await _submit(client, bucket, [result for result in created if result.status == "DRAFT"])
        if not (wait and created):
            return True
        with _show_progress("Processing", len(created), is_bytes=False) as progress:
            ids = [result.object_id for result in created]
            objects = await follow_objects(
                client, bucket, ids, on_progress=lambda n: progress.update(progress.task_ids[0], completed=n)
            )
        for result, obj in zip(created, objects, strict=True):
            result.status, result.error = obj["status"], obj.get("error") or ""
            result.documents = obj.get("document_count") or 0
    return True


async def upload_files(
    client: ApiClient, bucket: str, results: Sequence[FileResult], jobs: int, on_bytes: Callable[[int], None]
) -> None:
    """Create an object for each file, ``jobs`` at a time. An error is stored with its file and stops no other."""
    waiting = iter(results)

    async def work() -> None:
        for result in waiting:
            try:
                obj = await _upload_file(client, bucket, result.path, on_bytes)
                result.object_id, result.status = obj["object_id"], obj["status"]
            except (BucketlineError, OSError) as error:
                result.status, result.error = "failed", str(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(work())


async def _upload_file(client: ApiClient, bucket: str, path: Path, on_bytes: Callable[[int], None]) -> Json:
    name, media_type = await asyncio.to_thread(choose_type, path)
    size, sha256, idempotency_key = await asyncio.to_thread(_identify, path)
    if size <= MAX_INLINE_BYTES:
        body = await asyncio.to_thread(build_object, path)
    else:
        upload_id = await _upload_large_file(client, bucket, path, media_type, size, sha256, on_bytes)
        body = _build_body(path, name, upload_id=upload_id)
    obj = await client.post(f"/v1/buckets/{bucket}/objects", {**body, "idempotency_key": idempotency_key})
    if size <= MAX_INLINE_BYTES:
        on_bytes(size)
    return obj


async def _upload_large_file(
    client: ApiClient, bucket: str, path: Path, media_type: str, size: int, sha256: str, on_bytes: Callable[[int], None]
) -> str:
    """Send a file to S3 with a presigned URL, unless the bucket has its content already. Return the upload's id."""
    uploads = f"/v1/buckets/{bucket}/uploads"
    body = {
        "filename": path.name,
        "content_type": media_type,
        "file_size_bytes": size,
        "file_hash": sha256,
        "create_object_on_confirm": False,
    }
    upload = await client.post(uploads, body)
    upload_id = str(upload["upload_id"])
    if upload.get("presigned_url") is None:
        on_bytes(size)
        return upload_id
    etag = await client.put_file(upload["presigned_url"], _read_chunks(path, on_bytes), media_type, size)
    confirmed = await client.post(f"{uploads}/{upload_id}/confirm", {"etag": etag, "file_size_bytes": size})
    while confirmed["status"] == "PROCESSING":  # a large upload is confirmed in the background
        await asyncio.sleep(CONFIRM_POLL_SECONDS)
        confirmed = await client.get(f"{uploads}/{upload_id}")
    if confirmed["status"] != "COMPLETED":
        raise BucketlineError(f"the upload was not confirmed: {confirmed.get('message') or confirmed['status']}")
    return upload_id


async def _read_chunks(path: Path, on_bytes: Callable[[int], None]) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
            on_bytes(len(chunk))


def _identify(path: Path) -> tuple[int, str, str]:
    """Return the size and the SHA-256 of a file, and the idempotency key of its object."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return size, sha256, hashlib.sha256(f"{path.resolve()}\0{sha256}".encode()).hexdigest()


async def _submit(client: ApiClient, bucket: str, drafts: Sequence[FileResult]) -> None:
    for start in range(0, len(drafts), MAX_BATCH_OBJECTS):
        part = drafts[start : start + MAX_BATCH_OBJECTS]
        body: Json = {"object_ids": [result.object_id for result in part]}
        await client.post(f"/v1/buckets/{bucket}/batches", body, auto_submit="true")
        for result in part:
            result.status = "QUEUED"


def _show_progress(title: str, total: int, *, is_bytes: bool = True) -> Progress:
    amounts = [DownloadColumn(), TransferSpeedColumn()] if is_bytes else [MofNCompleteColumn()]
    columns = TextColumn(title), BarColumn(), *amounts, TimeRemainingColumn()
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task(title, total=total)
    return progress


def print_results(console: Console, results: Sequence[FileResult]) -> None:
    """Print a table of the files, of those with an error only if there are many, and the number per status."""
    shown = results if len(results) <= MAX_ROWS else [result for result in results if result.error]
    if shown:
        table = Table("File", "Object", "Status", "Documents")
        for result in shown:
            table.add_row(escape(str(result.path)), result.object_id, result.status, str(result.documents))
        console.print(table)
    for result in results:
        if result.error:
            console.print(f"{result.path}: {result.error}", style="red", markup=False, soft_wrap=True)
    counts = Counter(result.status for result in results)
    console.print(f"{len(results)} files: " + ", ".join(f"{count} {status}" for status, count in counts.items()))


async def _create_if_missing(client: ApiClient, path: str, body: dict[str, object]) -> None:
    from bucketline.cli.client import ApiError

    try:
        await client.post(path, body)
    except ApiError as error:
        if error.status != 409:
            raise
