"""``bucketline demo``: the main job on real files, on real servers, from nothing to nothing."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bucketline.cli.output import progress_reporter, run_until_signal, wide_console
from bucketline.cli.upload_body import MAX_INLINE, SAMPLES, SCHEMA, object_of
from bucketline.errors import BucketlineError

if TYPE_CHECKING:
    from bucketline.cli.client import Json
    from bucketline.devstack.supervisor import Event

KEY = "sk_demo"
LINES_SHOWN = 40
TELL_EVERY_SECONDS = 4.0
INTERRUPTED = 130
COLUMNS = {"file": 0, "object": 0, "status": 0, "sha256": 100, "bytes": 0, "storage key": 132, "documents": 0}
"""What is shown of an object, and how wide a terminal must be for it."""


def demo(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files to push; the samples that come along if none is named.", exists=True, dir_okay=False
        ),
    ] = None,
) -> None:
    """Start everything, push files, follow them to COMPLETED, show what happened, stop everything.

    Example: [cyan]bucketline demo report.pdf photo.png[/]
    """
    console = wide_console()
    chosen = files or sorted(path for path in SAMPLES.iterdir() if path.is_file() and path.suffix != ".py")
    for path in chosen:
        if path.stat().st_size > MAX_INLINE:
            raise typer.BadParameter(f"{path} is above 10 MB, which is what the demo sends inline")
    lines: deque[str] = deque(maxlen=LINES_SHOWN)
    try:
        good = run_until_signal(_demo(console, chosen, lines))
    except BucketlineError:
        for line in lines:
            Console(stderr=True, style="dim").print(line, highlight=False, markup=False)
        raise
    raise typer.Exit(INTERRUPTED if good is None else 0 if good else 1)


async def _demo(console: Console, files: list[Path], lines: deque[str]) -> bool:
    from bucketline.cli.local_stack import local_stack, service_environment
    from bucketline.devstack.supervisor import Supervisor, Waiting, bucketline_services

    started = time.monotonic()
    with ExitStack() as start:
        folder = start.enter_context(tempfile.TemporaryDirectory(prefix="bucketline-demo-"))
        status = start.enter_context(ExitStack())
        tell = status.enter_context(progress_reporter("starting MongoDB, Kafka and S3", every=TELL_EVERY_SECONDS))

        def on_event(event: Event) -> None:
            if isinstance(event, Waiting):
                tell(f"waiting for {', '.join(event.instances)} ({event.seconds:.0f} s)")

        async with local_stack(Path(folder), tell) as stack:
            tell("MongoDB, Kafka and S3 are up; starting the services")
            services = bucketline_services(service_environment(stack, KEY))
            supervisor = Supervisor(
                services, on_line=lambda name, line: lines.append(f"{name} │ {line}"), on_event=on_event
            )
            async with supervisor:
                status.close()
                console.print(
                    f"MongoDB, Kafka, S3 and {len(services)} services are up after {time.monotonic() - started:.1f} s"
                )
                good = await _job(console, supervisor.url("ingest-api"), files)
    console.print(f"Everything is stopped. The whole demo took {time.monotonic() - started:.1f} s.")
    return good


async def _job(console: Console, url: str, files: list[Path]) -> bool:
    from bucketline.cli.client import ApiClient
    from bucketline.cli.watch import follow

    async with ApiClient(url, KEY) as client:
        await client.post("/v1/namespaces", {"namespace_name": "demo"})
    async with ApiClient(url, KEY, "demo") as client:
        bucket = await client.post("/v1/buckets", {"bucket_name": "files", "bucket_schema": SCHEMA})
        await client.post("/v1/collections", _collection(bucket["bucket_id"]))
        place = f"/v1/buckets/{bucket['bucket_id']}"

        first, *rest = files
        at_once = await client.post(f"{place}/objects", object_of(first), auto_process="true")
        console.print(f"pushed {first.name} with auto_process")
        drafts = [await client.post(f"{place}/objects", object_of(path)) for path in [*rest, first]]
        console.print(f"pushed {len(drafts)} drafts, the last of them {first.name} for a second time")
        batch = await client.post(f"{place}/batches", {"object_ids": [draft["object_id"] for draft in drafts]})
        await client.post(f"{place}/batches/{batch['batch_id']}/submit")
        console.print(f"submitted them as batch {batch['batch_id']}")

        ids = [obj["object_id"] for obj in (at_once, *drafts)]
        objects = await follow(console, client, bucket["bucket_id"], ids)
        _show(console, [first, *rest, first], objects)
        return _verdict(console, objects)


def _collection(bucket_id: str) -> Json:
    return {
        "collection_name": "everything",
        "source": {"type": "bucket", "bucket_ids": [bucket_id]},
        "feature_extractor": {
            "feature_extractor_name": "passthrough_extractor",
            "version": "v1",
            "field_passthrough": [{"source_path": "name"}],
        },
    }


def _show(console: Console, files: list[Path], objects: list[Json]) -> None:
    """A row an object, in one line each: what a narrow terminal has no room for is left out."""
    table = Table(title="What happened", title_justify="left")
    columns = [heading for heading, room in COLUMNS.items() if console.width >= room]
    for heading in columns:
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("bytes", "documents") else "left")
    for path, obj in zip(files, objects, strict=True):
        blob = obj["blobs"][0]
        details = blob.get("details") or {}
        key = (blob["properties"].get("url") or "").removeprefix("s3://").partition("/")[2]
        color = "green" if obj["status"] == "COMPLETED" else "red"
        row = {
            "file": path.name,
            "object": obj["object_id"],
            "status": f"[{color}]{obj['status']}[/]",
            "sha256": str(details.get("hash", "")).removeprefix("sha256:")[:12],
            "bytes": str(details.get("size_bytes", "")),
            "storage key": _short(key),
            "documents": str(obj["document_count"]),
        }
        table.add_row(*(row[heading] for heading in columns))
    console.print(table)


def _short(key: str) -> str:
    """A content key without the middle of its hash: the hash stands beside it."""
    return f"{key[:31]}…" if len(key) > 32 else key


def _verdict(console: Console, objects: list[Json]) -> bool:
    completed = all(obj["status"] == "COMPLETED" and obj["document_count"] == 1 for obj in objects)
    urls = [obj["blobs"][0]["properties"].get("url") for obj in objects]
    once = urls[0] is not None and urls[0] == urls[-1]
    stored = len(set(urls))
    console.print(f"{len(objects)} objects, {stored} blobs stored" + (": the duplicate is stored once" if once else ""))
    if not completed:
        console.print("[red]not every object was completed[/]")
    return completed and once
