"""``bucketline indexes``: makes the indexes that are missing."""

from rich.console import Console

from bucketline.cli.output import progress_reporter, running


def indexes() -> None:
    """Make the MongoDB indexes that are missing. Safe to run at any time, from several places at once.

    Example: [cyan]bucketline indexes[/]
    """
    from bucketline.db.indexes import INDEXES

    console = Console()
    with progress_reporter("making what is missing; on a large collection an index takes minutes"):
        made = running(_make())
    for collection, names in made.items():
        console.print(f"made {collection}: {', '.join(names)}")
    total = sum(map(len, INDEXES.values()))
    console.print(f"{total} indexes are there, {sum(map(len, made.values()))} of them new")


async def _make() -> dict[str, list[str]]:
    from bucketline.db.indexes import ensure_indexes, missing_indexes
    from bucketline.db.mongo import Database
    from bucketline.settings import MongoSettings

    database = Database(MongoSettings())
    try:
        missing = await missing_indexes(database)
        await ensure_indexes(database)
        return missing
    finally:
        database.close()
