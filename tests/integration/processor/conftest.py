from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from bucketline.local.stack import LocalStack
from bucketline.settings import MongoSettings
from bucketline.storage.indexes import ensure_indexes
from bucketline.storage.mongo import Database


@pytest.fixture
async def database(stack: LocalStack) -> AsyncIterator[Database]:
    """A database of this test's own, with its indexes."""
    made = Database(MongoSettings(url=SecretStr(stack.mongodb_url), database="processor_tests"))
    await ensure_indexes(made)
    yield made
    await made.drop()
    made.close()
