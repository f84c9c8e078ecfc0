"""The overview of a namespace."""

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.responses import Response

from bucketline_console.api import Json
from bucketline_console.charts import render_bars, render_lines
from bucketline_console.page import PageDep, gather_or_none

router = APIRouter()

STAGES = (
    ("Unpublished events", "unpublished_events", "accepted, waiting for Kafka"),
    ("To mirror", "mirroring", "blobs to fetch and hash"),
    ("Large, to mirror", "mirroring_large", "large blobs to fetch and hash"),
    ("Work units", "work_units", "running or waiting for a processor"),
    ("Webhook deliveries", "webhook_deliveries", "due to be sent"),
)


@router.get("/namespaces/{namespace}")
async def show_overview(page: PageDep) -> Response:
    """Show counts, the last hour, the backlog and the content."""
    overview = await page.api.get("/v1/overview")
    # A key that may not see the whole deployment gets the page without the backlog.
    backlog = (await gather_or_none(page.api.get("/v1/admin/backlog")))[0] if page.can("ADMIN") else None
    minutes = overview["last_hour"] or []
    return page.render(
        "overview.html",
        overview=overview,
        minutes=minutes,
        finished=sum(minute["finished"] for minute in minutes),
        created=sum(minute["created"] for minute in minutes),
        busiest=max((max(minute["created"], minute["finished"]) for minute in minutes), default=0),
        slowest=max((minute["p95_seconds"] for minute in minutes if minute["p95_seconds"]), default=None),
        throughput=render_bars(
            [
                ("created", [minute["created"] for minute in minutes]),
                ("finished", [minute["finished"] for minute in minutes]),
                ("failed", [minute["failed"] for minute in minutes]),
            ],
            "Objects created, finished and failed per minute of the last hour",
        ),
        latency=render_lines(
            [
                ("p95", [minute["p95_seconds"] for minute in minutes]),
                ("p50", [minute["p50_seconds"] for minute in minutes]),
            ],
            "Median and 95th percentile of the latency per minute of the last hour",
        ),
        stages=[(title, backlog[name], hint) for title, name, hint in STAGES] if backlog else None,
        lag=_sum_lag((backlog or {}).get("consumer_lag") or []),
        dead_letters=(backlog or {}).get("dead_letters"),
    )


def _sum_lag(rows: Sequence[Json]) -> list[tuple[str, str, int]]:
    """Return name, topics and lag of each service."""
    services = dict.fromkeys(row["service"] for row in rows)
    own = {name: [row for row in rows if row["service"] == name] for name in services}
    return [
        (name, ", ".join(row["topic"] for row in of), sum(row["records"] for row in of)) for name, of in own.items()
    ]
