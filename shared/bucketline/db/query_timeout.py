"""A time limit around calls to MongoDB: for what may read a lot, and is not worth more than some seconds."""

from collections.abc import Iterator
from contextlib import contextmanager

import pymongo
from pymongo.errors import ExecutionTimeout, NetworkTimeout

from bucketline.errors import DependencyUnavailable


class QueryTimeout(DependencyUnavailable):
    """The calls within :func:`query_timeout` took longer than they were given. The server has given them up as well."""


@contextmanager
def query_timeout(seconds: float) -> Iterator[None]:
    """All calls inside have so many seconds together; :class:`QueryTimeout` when those are over.

    A server that hangs looks the same. One that cannot be reached is ``DependencyUnavailable``, as everywhere.
    """
    try:
        with pymongo.timeout(seconds):
            yield
    except DependencyUnavailable as error:
        if isinstance(error.__cause__, ExecutionTimeout | NetworkTimeout):
            raise QueryTimeout(f"MongoDB did not finish within {seconds:g} seconds") from error
        raise
