"""Following objects live until each has its final status."""

import asyncio
import time
from collections import Counter

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bucketline.cli.client import ApiClient, Json
from bucketline.domain.status import FINAL
from bucketline.errors import BucketlineError

_COLORS = {"DRAFT": "dim", "QUEUED": "cyan", "PROCESSING": "yellow", "COMPLETED": "green"}


async def follow(
    console: Console,
    client: ApiClient,
    bucket: str,
    object_ids: list[str],
    *,
    idle_deadline: float = 120.0,
    pause: float = 0.1,
) -> list[Json]:
    """Show the objects until all have their final status; return them in the order of ``object_ids``.

    Raises :class:`BucketlineError` when no status has changed for ``idle_deadline`` seconds.
    """
    objects: dict[str, Json] = {}
    counts: Counter[str] = Counter()
    started = changed = time.monotonic()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            open_ids = [oid for oid in object_ids if objects.get(oid, {}).get("status") not in FINAL]
            answers = await asyncio.gather(*(client.get(f"/v1/buckets/{bucket}/objects/{oid}") for oid in open_ids))
            objects |= {answer["object_id"]: answer for answer in answers}
            live.update(_view(objects, time.monotonic() - started))
            if all(objects[oid]["status"] in FINAL for oid in object_ids):
                return [objects[oid] for oid in object_ids]
            before, counts = counts, Counter(obj["status"] for obj in objects.values())
            if counts != before:
                changed = time.monotonic()
            elif time.monotonic() - changed > idle_deadline:
                raise BucketlineError(
                    f"no object has changed its status for {idle_deadline:.0f} s: {dict(counts)}; "
                    "look at the services' logs"
                )
            await asyncio.sleep(pause)


def _view(objects: dict[str, Json], seconds: float) -> Table:
    table = Table("object", "status", title=f"following {len(objects)} objects · {seconds:.1f} s", title_justify="left")
    for obj in list(objects.values())[:20]:
        color = _COLORS.get(obj["status"], "red")
        table.add_row(obj.get("key_prefix") or obj["object_id"], f"[{color}]{obj['status']}[/]")
    return table
