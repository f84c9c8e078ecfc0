"""A time limit around calls to MongoDB: for what may read a lot, and is not worth more than some seconds."""

from collections.abc import Iterator
from contextlib import contextmanager

import pymongo
from pymongo.errors import ExecutionTimeout, NetworkTimeout

from bucketline.errors import StoreUnavailable


class TimeIsUp(StoreUnavailable):
    """The calls within :func:`within` took longer than they were given. The server has given them up as well."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """All calls inside have so many seconds together; :class:`TimeIsUp` when those are over.

    A server that hangs looks the same. One that cannot be reached is ``StoreUnavailable``, as everywhere.
    """
    try:
        with pymongo.timeout(seconds):
            yield
    except StoreUnavailable as error:
        if isinstance(error.__cause__, ExecutionTimeout | NetworkTimeout):
            raise TimeIsUp(f"MongoDB did not finish within {seconds:g} seconds") from error
        raise
