"""A publisher that keeps what it is given."""

from collections.abc import Sequence

from bucketline.errors import Poison
from bucketline.events.envelope import Envelope
from bucketline.messaging.publisher import NotPublished


class RecordingPublisher:
    """Keeps what was published; fails ``failures`` times, and always for the ids in ``too_large``."""

    def __init__(self) -> None:
        self.published: list[Envelope] = []
        self.failures = 0
        self.too_large: set[str] = set()

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        if any(envelope.id in self.too_large for envelope in envelopes):
            raise Poison("not published: too large")
        if self.failures:
            self.failures -= 1
            raise NotPublished("not published: unavailable")
        self.published.extend(envelopes)
