"""``bucketline indexes``: makes the indexes that are missing."""

import asyncio

from rich.console import Console

from bucketline.settings import MongoSettings
from bucketline.storage.indexes import INDEXES, ensure_indexes, missing_indexes
from bucketline.storage.mongo import Database


def indexes() -> None:
    """Make the MongoDB indexes that are missing. Safe to run at any time, from several places at once.

    Example: [cyan]bucketline indexes[/]
    """
    console = Console()
    made = asyncio.run(_make())
    for collection, names in made.items():
        console.print(f"made {collection}: {', '.join(names)}")
    total = sum(map(len, INDEXES.values()))
    console.print(f"{total} indexes are there, {sum(map(len, made.values()))} of them new")


async def _make() -> dict[str, list[str]]:
    database = Database(MongoSettings())
    try:
        missing = await missing_indexes(database)
        await ensure_indexes(database)
        return missing
    finally:
        database.close()
