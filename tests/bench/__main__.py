"""Measures Bucketline, its peers and the limits of the servers in one run, prints a table and writes JSON.

Compare ratios, which depend little on the machine; never compare figures of different runs.
"""

import argparse
import tempfile
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import orjson
import uvloop
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from tests.bench import dedup, limits, pipeline, processing
from tests.bench.comparison import PEERS, compare
from tests.bench.rows import Row
from tests.brokers import LIGHT
from tests.conftest import ADMIN_KEY, Api

from bucketline.db.mongo import Database
from bucketline.devstack.downloads import default_cache_dir
from bucketline.devstack.stack import Broker, LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services
from bucketline.settings import MongoSettings

PROCESSORS = 2


SECTIONS = ("comparison", "latency", "creates", "pipeline", "processing", "large")


async def measure(
    console: Console, *, broker: Broker, scale: float, sections: Collection[str], peers: Collection[str]
) -> list[Row]:
    """Return the rows of ``sections``, in order; ``scale`` multiplies the numbers of requests."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bucketline-bench-") as folder, console.status("starting") as status:
        async with LocalStack(Path(folder), broker=broker) as stack:
            if "comparison" in sections:
                rows += await compare(stack, default_cache_dir(), peers, int(2_000 * scale), status.update)
            if not {"comparison", "large"}.issuperset(sections):
                rows += await _own_rows(stack, status.update, scale, sections)
            if "large" in sections:
                status.update("mirroring 2 GiB: memory, then throughput")
                rows += await dedup.memory(stack)
                rows += await dedup.throughput(stack)
    return rows


async def _own_rows(
    stack: LocalStack, progress: Callable[[str], None], scale: float, sections: Collection[str]
) -> list[Row]:
    """Return Bucketline's rows beside the limits of the servers."""
    rows: list[Row] = []
    environment = {**stack.environment(), "BUCKETLINE_API_KEY": ADMIN_KEY}
    services = bucketline_services(environment, replicas={"processor": PROCESSORS})
    async with AsyncExitStack() as resources:
        supervisor = await resources.enter_async_context(Supervisor(services))
        database = Database(MongoSettings(url=SecretStr(stack.mongodb_url)))
        resources.callback(database.close)
        api = Api(supervisor.url("ingest-api"))
        resources.push_async_callback(api.close)
        progress("the limits of the servers")
        raw = await limits.limits(stack)
        rows += raw.values()
        rows += pipeline.memory(supervisor, "idle")
        if "latency" in sections:
            progress("latency at idle")
            rows += await pipeline.latency(api)
        if "creates" in sections:
            progress("creates")
            rows += await pipeline.creates(api, database, raw, requests=int(10_000 * scale))
        if "pipeline" in sections:
            progress("the whole pipeline")
            rows += await pipeline.whole(api, database, raw, objects=int(5_000 * scale))
        rows += pipeline.memory(supervisor, "after load")
        if "processing" in sections:
            progress("batches of growing size")
            rows += await processing.growth(api, database)
    return rows


def show(console: Console, rows: list[Row]) -> None:
    table = Table("what", "value", "unit", "beside", "ratio")
    for row in rows:
        beside = f"{row.beside} {row.baseline:,.0f}" if row.beside and row.baseline else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        table.add_row(row.name, f"{row.value:,.1f}", row.unit, beside, ratio)
    console.print(table)


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests")
    parser.add_argument("--json", type=Path, default=Path("bench-results/latest.json"), help="where the JSON goes")
    parser.add_argument("--rows", default="", help=f"comma-separated parts to run, of {', '.join(SECTIONS)}")
    parser.add_argument("--peers", default="", help=f"comma-separated peers to compare with, of {', '.join(PEERS)}")
    parser.add_argument("--broker", choices=get_args(Broker), default=LIGHT, help="the Kafka broker to run on")
    options = parser.parse_args()
    sections, peers = _choose(parser, options.rows, SECTIONS), _choose(parser, options.peers, PEERS)
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    measuring = measure(console, broker=options.broker, scale=options.scale, sections=sections, peers=peers)
    rows = uvloop.run(measuring)
    show(console, rows)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"at": datetime.now(UTC).isoformat(), "broker": options.broker, "rows": [row.as_json() for row in rows]}
    options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    console.print(f"written to {options.json}")


def _choose(parser: argparse.ArgumentParser, names: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the named parts, all of them for an empty string. An unknown name ends the program."""
    chosen = tuple(name.strip() for name in names.split(",") if name.strip()) or known
    if unknown := set(chosen) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    return chosen


if __name__ == "__main__":
    main()
