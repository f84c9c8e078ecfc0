"""Runs the benches on a stack of their own, prints a table, writes JSON."""

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import orjson
import uvloop
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from tests.bench import dedup, limits, pipeline, processing
from tests.bench.rows import Row
from tests.brokers import LIGHT
from tests.conftest import ADMIN_KEY, Api

from bucketline.db.mongo import Database
from bucketline.devstack.stack import Broker, LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services
from bucketline.settings import MongoSettings

PROCESSORS = 2


async def measure(console: Console, *, broker: Broker, scale: float, large: bool) -> list[Row]:
    """Every row, in order; ``scale`` multiplies the counts of requests."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bucketline-bench-") as folder, console.status("starting") as status:
        async with LocalStack(Path(folder), broker=broker) as stack:
            environment = {**stack.environment(), "BUCKETLINE_API_KEY": ADMIN_KEY}
            services = bucketline_services(environment, replicas={"processor": PROCESSORS})
            async with Supervisor(services) as supervisor:
                database = Database(MongoSettings(url=SecretStr(stack.mongodb_url)))
                api = Api(supervisor.url("ingest-api"))
                try:
                    status.update("the raw limits of the parts")
                    raw = await limits.limits(stack)
                    rows += raw.values()
                    rows += pipeline.memory(supervisor, "idle")
                    status.update("latency at idle")
                    rows += await pipeline.latency(api)
                    status.update("creates")
                    rows += await pipeline.creates(api, database, raw, requests=int(10_000 * scale))
                    status.update("the whole pipeline")
                    rows += await pipeline.whole(api, database, raw, objects=int(5_000 * scale))
                    rows += pipeline.memory(supervisor, "after load")
                    status.update("batches of growing size")
                    rows += await processing.growth(api, database)
                finally:
                    await api.close()
                    database.close()
            if large:
                status.update("mirroring 2 GiB: memory, then throughput")
                rows += await dedup.memory(stack)
                rows += await dedup.throughput(stack)
    return rows


def show(console: Console, rows: list[Row]) -> None:
    table = Table("what", "value", "unit", "beside", "ratio")
    for row in rows:
        beside = f"{row.beside} {row.baseline:,.0f}" if row.beside and row.baseline else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        table.add_row(row.name, f"{row.value:,.1f}", row.unit, beside, ratio)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests")
    parser.add_argument("--json", type=Path, default=Path("bench-results/latest.json"), help="where the JSON goes")
    parser.add_argument("--no-large", action="store_true", help="leave out the 2 GiB source")
    parser.add_argument("--broker", choices=get_args(Broker), default=LIGHT, help="what it runs on")
    options = parser.parse_args()
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    large = not options.no_large
    rows = uvloop.run(measure(console, broker=options.broker, scale=options.scale, large=large))
    show(console, rows)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"at": datetime.now(UTC).isoformat(), "broker": options.broker, "rows": [row.as_json() for row in rows]}
    options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    console.print(f"written to {options.json}")


if __name__ == "__main__":
    main()
