"""What the driver's wrapper promises without a server."""

import asyncio

import pytest
from pydantic import SecretStr

from bucketline.db.mongo import Database, Index
from bucketline.devstack.reservations import LOOPBACK, reserve_ports
from bucketline.errors import DependencyUnavailable
from bucketline.settings import MongoSettings


async def test_making_indexes_does_not_wait_for_a_server_that_is_away() -> None:
    """However long an index may take to be made: a service that starts says that it waits, a command that it failed."""
    lease = reserve_ports(1)
    url = SecretStr(f"mongodb://{LOOPBACK}:{lease.ports[0]}/?directConnection=true")
    database = Database(MongoSettings(url=url, timeout_seconds=0.2, server_selection_timeout_seconds=0.2))
    try:
        async with asyncio.timeout(5):
            with pytest.raises(DependencyUnavailable):
                await database.collection("objects").ensure([Index("by_name", [("name", 1)])])
    finally:
        database.close()
        lease.release()
