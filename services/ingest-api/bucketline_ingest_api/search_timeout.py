"""How long a search may take: what no index narrows down reads a whole bucket, and nobody waits for that for ever."""

from collections.abc import Iterator
from contextlib import contextmanager

from bucketline.db.mongo import QueryTimeout, query_timeout
from bucketline.errors import SearchTooSlow

SECONDS = 10.0


@contextmanager
def search_timeout() -> Iterator[None]:
    """Around the queries of one search; :class:`SearchTooSlow` when they take longer than :data:`SECONDS` together."""
    try:
        with query_timeout(SECONDS):
            yield
    except QueryTimeout as error:
        raise SearchTooSlow(SECONDS) from error
