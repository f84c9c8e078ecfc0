"""``bucketline upload``: store files as objects in a bucket of a running Bucketline."""

import asyncio
import base64
import mimetypes
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bucketline.cli.terminal import wide_console

if TYPE_CHECKING:
    from bucketline.cli.client import ApiClient, Json

SAMPLES_DIR = Path(__file__).parent / "samples"
MAX_INLINE_BYTES = 10 * 1024 * 1024

BUCKET_SCHEMA: "Json" = {
    "properties": {
        "pdf": {"type": "pdf"},
        "image": {"type": "image"},
        "table": {"type": "excel"},
        "text": {"type": "text"},
        "audio": {"type": "audio"},
        "video": {"type": "video"},
        "name": {"type": "string", "required": True},
    }
}
"""A bucket schema with a property for each kind of file."""


def upload(
    files: Annotated[list[Path], typer.Argument(help="Files to upload, one object each.", exists=True, dir_okay=False)],
    url: Annotated[str, typer.Option(envvar="BUCKETLINE_URL", help="URL of the API.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="BUCKETLINE_API_KEY", help="An API key with the WRITE permission.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace, by id or name; created if it does not exist.")] = "default",
    bucket: Annotated[str, typer.Option(help="Bucket, by id or name; created if it does not exist.")] = "files",
    wait: Annotated[bool, typer.Option(help="Follow the objects until they are processed.")] = True,
) -> None:
    """Upload files as objects and process them. Exit 1 if an object is not completed.

    Example: [cyan]bucketline upload report.pdf photo.png --bucket inbox[/]
    """
    if not re.match(r"https?://[^/]", url):
        raise typer.BadParameter(f"{url!r} is not a URL such as https://bucketline.example.com", param_hint="--url")
    if not key:
        raise typer.BadParameter("no API key: pass --key or set BUCKETLINE_API_KEY (`make up` prints it)")
    check_file_sizes(files)
    is_completed = asyncio.run(_upload(wide_console(), files, url, key, namespace, bucket, wait))
    raise typer.Exit(0 if is_completed else 1)


def check_file_sizes(files: list[Path]) -> None:
    """Raise BadParameter for a file that is too large to be sent inside of a request."""
    for path in files:
        if path.stat().st_size > MAX_INLINE_BYTES:
            raise typer.BadParameter(f"{path} is larger than 10 MB: use POST /v1/buckets/{{id}}/uploads")


async def _upload(
    console: Console, files: list[Path], url: str, key: str, namespace: str, bucket: str, wait: bool
) -> bool:
    from bucketline.cli.client import ApiClient, follow_objects

    async with ApiClient(url, key) as client:
        await _create_if_missing(client, "/v1/namespaces", {"namespace_name": namespace})
    async with ApiClient(url, key, namespace) as client:
        await _create_if_missing(client, "/v1/buckets", {"bucket_name": bucket, "bucket_schema": BUCKET_SCHEMA})
        objects_path = f"/v1/buckets/{bucket}/objects"
        created = [await client.post(objects_path, build_object(path), auto_process="true") for path in files]
        ids = [obj["object_id"] for obj in created]
        objects = await follow_objects(console, client, bucket, ids) if wait else created
    table = Table("File", "Object", "Status", "Documents", "Error")
    for path, obj in zip(files, objects, strict=True):
        table.add_row(
            path.name, obj["object_id"], obj["status"], str(obj.get("document_count") or 0), obj.get("error") or ""
        )
    console.print(table)
    return not wait or all(obj["status"] == "COMPLETED" for obj in objects)


async def _create_if_missing(client: "ApiClient", path: str, body: dict[str, object]) -> None:
    from bucketline.cli.client import ApiError

    try:
        await client.post(path, body)
    except ApiError as error:
        if error.status != 409:
            raise


def build_object(path: Path) -> "Json":
    """Build the request body that creates an object from a file."""
    media_type = mimetypes.guess_type(path.name)[0]
    name, blob_type = _choose_property(media_type or "text/plain")
    data = {
        "base64": base64.b64encode(path.read_bytes()).decode(),
        "mime_type": media_type or "application/octet-stream",
        "filename": path.name,
    }
    blob = {"property": name, "type": blob_type, "data": data}
    return {"key_prefix": f"/{path.name}", "blobs": [blob], "name": path.name}


def _choose_property(media_type: str) -> tuple[str, str]:
    """Return the property of ``BUCKET_SCHEMA`` and the blob type for a media type."""
    if media_type == "application/pdf":
        return "pdf", "pdf"
    if media_type == "text/csv" or "spreadsheet" in media_type or "excel" in media_type:
        return "table", "excel"
    family = media_type.partition("/")[0]
    return (family, family) if family in ("image", "audio", "video") else ("text", "text")
