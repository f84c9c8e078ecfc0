"""``bucketline push``: files into a bucket of a running Bucketline."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bucketline.cli.output import wide_console
from bucketline.cli.upload_body import MAX_INLINE, SCHEMA, object_of

if TYPE_CHECKING:
    from bucketline.cli.client import ApiClient


def push(
    files: Annotated[list[Path], typer.Argument(help="Files to push, one object each.", exists=True, dir_okay=False)],
    url: Annotated[str, typer.Option(envvar="BUCKETLINE_URL", help="Where the API is.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="BUCKETLINE_API_KEY", help="An API key that may write.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace, by id or name; made if it is missing.")] = "default",
    bucket: Annotated[str, typer.Option(help="Bucket, by id or name; made if it is missing.")] = "files",
    wait: Annotated[bool, typer.Option(help="Follow the objects until they are processed.")] = True,
) -> None:
    """Push files as objects and have them processed at once.

    Example: [cyan]bucketline push report.pdf photo.png --bucket inbox[/]
    """
    console = wide_console()
    if not re.match(r"https?://[^/]", url):
        raise typer.BadParameter(f"{url!r} is not a URL such as https://bucketline.example.com", param_hint="--url")
    if not key:
        raise typer.BadParameter("no key: pass --key or set BUCKETLINE_API_KEY (`make up` prints it)")
    for path in files:
        if path.stat().st_size > MAX_INLINE:
            raise typer.BadParameter(f"{path} is above 10 MB: use an upload (POST /v1/buckets/{{id}}/uploads)")
    done = asyncio.run(_push(console, files, url, key, namespace, bucket, wait))
    raise typer.Exit(0 if done else 1)


async def _push(
    console: Console, files: list[Path], url: str, key: str, namespace: str, bucket: str, wait: bool
) -> bool:
    from bucketline.cli.client import ApiClient
    from bucketline.cli.watch import follow

    async with ApiClient(url, key) as client:
        await _ensure(client, "/v1/namespaces", {"namespace_name": namespace})
    async with ApiClient(url, key, namespace) as client:
        await _ensure(client, "/v1/buckets", {"bucket_name": bucket, "bucket_schema": SCHEMA})
        place = f"/v1/buckets/{bucket}/objects"
        created = [await client.post(place, object_of(path), auto_process="true") for path in files]
        ids = [obj["object_id"] for obj in created]
        objects = await follow(console, client, bucket, ids) if wait else created
    table = Table("file", "object", "status", "documents", "error")
    for path, obj in zip(files, objects, strict=True):
        table.add_row(
            path.name, obj["object_id"], obj["status"], str(obj.get("document_count") or 0), obj.get("error") or ""
        )
    console.print(table)
    return not wait or all(obj["status"] == "COMPLETED" for obj in objects)


async def _ensure(client: "ApiClient", path: str, body: dict[str, object]) -> None:
    from bucketline.cli.client import ApiFailure

    try:
        await client.post(path, body)
    except ApiFailure as failure:
        if failure.status != 409:
            raise
