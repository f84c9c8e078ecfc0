"""What only tests do to a database: read query plans, and delete everything."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from bucketline.db.mongo import Collection, Database


async def explain(
    collection: Collection[Any], where: Mapping[str, object], *, sort: Sequence[tuple[str, int]] | None = None
) -> Mapping[str, Any]:
    """Return the winning plan of a query."""
    plan = await collection._raw.find(where, sort=sort).explain()
    return cast("Mapping[str, Any]", plan["queryPlanner"]["winningPlan"])


async def delete_documents(database: Database) -> None:
    """Delete every document and keep the indexes."""
    for name in await database._database.list_collection_names():
        await database._database[name].delete_many({})


async def drop_database(database: Database) -> None:
    """Delete the database."""
    await database._client.drop_database(database._database.name)
