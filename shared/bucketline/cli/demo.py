"""``bucketline demo``: ingest real files on real servers, and leave nothing behind."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bucketline.cli.terminal import report_progress, run_until_signal, wide_console
from bucketline.cli.upload import BUCKET_SCHEMA, EXIT_INTERRUPTED, MAX_INLINE_BYTES, SAMPLES_DIR, build_object
from bucketline.errors import BucketlineError

if TYPE_CHECKING:
    from bucketline.cli.client import Json
    from bucketline.devstack.supervisor import Event

API_KEY = "sk_demo"
CONSOLE_PORT = 8081
MAX_LOG_LINES = 40
REPORT_INTERVAL_SECONDS = 4.0
COLUMNS = {"File": 0, "Object": 0, "Status": 0, "SHA-256": 100, "Bytes": 0, "Storage key": 132, "Documents": 0}
"""Columns of the result, and the width of a terminal from which each is shown."""


def demo(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files to upload; sample files if none is given.", exists=True, dir_okay=False),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running, with the console, to Ctrl-C.")] = False,
) -> None:
    """Start everything, upload files, follow them to COMPLETED, stop everything. Show what happened.

    Example: [cyan]bucketline demo report.pdf photo.png[/]
    """
    chosen = files or sorted(path for path in SAMPLES_DIR.iterdir() if path.is_file() and path.suffix != ".py")
    for path in chosen:
        if path.stat().st_size > MAX_INLINE_BYTES:
            raise typer.BadParameter(f"{path} is larger than 10 MB; upload it with `bucketline upload`")
    log_lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
    try:
        succeeded = run_until_signal(_run_demo(wide_console(), chosen, log_lines, keep))
    except BucketlineError:
        for line in log_lines:
            Console(stderr=True, style="dim").print(line, highlight=False, markup=False)
        raise
    raise typer.Exit(EXIT_INTERRUPTED if succeeded is None else 0 if succeeded else 1)


async def _run_demo(console: Console, files: list[Path], log_lines: deque[str], keep: bool) -> bool:
    from bucketline.cli.up import build_service_environment, create_local_stack
    from bucketline.devstack.supervisor import Supervisor, Waiting, bucketline_services

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bucketline-demo-") as folder, ExitStack() as progress:
        report = progress.enter_context(
            report_progress("starting MongoDB, Kafka and S3", interval=REPORT_INTERVAL_SECONDS)
        )

        def on_event(event: Event) -> None:
            if isinstance(event, Waiting):
                report(f"waiting for {', '.join(event.instances)} ({event.seconds:.0f} s)")

        async with create_local_stack(Path(folder), report) as stack:
            report("MongoDB, Kafka and S3 are running; starting the services")
            services = bucketline_services(build_service_environment(stack, API_KEY))
            async with Supervisor(
                services, on_line=lambda name, line: log_lines.append(f"{name} │ {line}"), on_event=on_event
            ) as supervisor:
                progress.close()
                console.print(
                    f"MongoDB, Kafka, S3 and {len(services)} services started in {time.monotonic() - started:.1f} s"
                )
                succeeded = await _ingest(console, supervisor.url("ingest-api"), files)
                if keep:
                    await _serve_console(console, supervisor.url("ingest-api"))
    console.print(f"Everything is stopped. The demo took {time.monotonic() - started:.1f} s.")
    return succeeded


async def _serve_console(console: Console, api_url: str) -> None:
    """Serve the console until Ctrl-C."""
    from yarl import URL

    from bucketline.devstack.reservations import reserve_preferred_port
    from bucketline.devstack.supervisor import Supervisor, console_service

    with reserve_preferred_port(CONSOLE_PORT) as reserved:
        service = console_service({}, api_port=URL(api_url).port or 80, port=reserved.ports[0])
        async with Supervisor([service], reserved_ports=reserved.ports) as supervisor:
            console.print(f"console: {supervisor.url('console')}   API: {api_url}/docs   API key: {API_KEY}")
            console.print("Everything keeps running until Ctrl-C.")
            await asyncio.Event().wait()


async def _ingest(console: Console, url: str, files: list[Path]) -> bool:
    from bucketline.cli.client import ApiClient, follow_objects

    async with ApiClient(url, API_KEY) as client:
        await client.post("/v1/namespaces", {"namespace_name": "demo"})
    async with ApiClient(url, API_KEY, "demo") as client:
        bucket = await client.post("/v1/buckets", {"bucket_name": "files", "bucket_schema": BUCKET_SCHEMA})
        await client.post("/v1/collections", _build_collection(bucket["bucket_id"]))
        bucket_path = f"/v1/buckets/{bucket['bucket_id']}"

        first, *rest = files
        processed = await client.post(f"{bucket_path}/objects", build_object(first), auto_process="true")
        console.print(f"uploaded {first.name} with auto_process")
        drafts = [await client.post(f"{bucket_path}/objects", build_object(path)) for path in [*rest, first]]
        console.print(f"uploaded {len(drafts)} drafts, the last of them {first.name} for the second time")
        batch = await client.post(f"{bucket_path}/batches", {"object_ids": [draft["object_id"] for draft in drafts]})
        await client.post(f"{bucket_path}/batches/{batch['batch_id']}/submit")
        console.print(f"submitted the drafts as batch {batch['batch_id']}")

        ids = [obj["object_id"] for obj in (processed, *drafts)]
        with report_progress("processing the objects", interval=REPORT_INTERVAL_SECONDS) as report:
            objects = await follow_objects(
                client,
                bucket["bucket_id"],
                ids,
                on_progress=lambda finished: report(f"{finished} of {len(ids)} objects are processed"),
                poll_interval=0.1,
            )
        console.print(_build_table(console.width, [first, *rest, first], objects))
        return _check_result(console, objects)


def _build_collection(bucket_id: str) -> Json:
    return {
        "collection_name": "everything",
        "source": {"type": "bucket", "bucket_ids": [bucket_id]},
        "feature_extractor": {
            "feature_extractor_name": "passthrough_extractor",
            "version": "v1",
            "field_passthrough": [{"source_path": "name"}],
        },
    }


def _build_table(width: int, files: list[Path], objects: list[Json]) -> Table:
    """Build a table with one line per object. A narrow terminal gets fewer columns."""
    table = Table(title="Result", title_justify="left")
    columns = [heading for heading, min_width in COLUMNS.items() if width >= min_width]
    for heading in columns:
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("Bytes", "Documents") else "left")
    for path, obj in zip(files, objects, strict=True):
        blob = obj["blobs"][0]
        details = blob.get("details") or {}
        key = (blob["properties"].get("url") or "").removeprefix("s3://").partition("/")[2]
        color = "green" if obj["status"] == "COMPLETED" else "red"
        row = {
            "File": path.name,
            "Object": obj["object_id"],
            "Status": f"[{color}]{obj['status']}[/]",
            "SHA-256": str(details.get("hash", "")).removeprefix("sha256:")[:12],
            "Bytes": str(details.get("size_bytes", "")),
            "Storage key": f"{key[:31]}…" if len(key) > 32 else key,
            "Documents": str(obj["document_count"]),
        }
        table.add_row(*(row[heading] for heading in columns))
    return table


def _check_result(console: Console, objects: list[Json]) -> bool:
    """Return whether every object is completed and the duplicate is stored only once."""
    is_completed = all(obj["status"] == "COMPLETED" and obj["document_count"] == 1 for obj in objects)
    urls = [obj["blobs"][0]["properties"].get("url") for obj in objects]
    is_stored_once = urls[0] is not None and urls[0] == urls[-1]
    suffix = ": the duplicate is stored once" if is_stored_once else ""
    console.print(f"{len(objects)} objects, {len(set(urls))} blobs stored{suffix}")
    if not is_completed:
        console.print("[red]some objects are not completed[/]")
    return is_completed and is_stored_once
