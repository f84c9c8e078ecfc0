"""A publisher that keeps what it is given."""

from collections.abc import Sequence

from bucketline.errors import NonRetryableError
from bucketline.events.cloudevents import CloudEvent
from bucketline.kafka.publisher import NotPublished


class RecordingPublisher:
    """Keeps what was published; fails ``failures`` times, and always for the ids in ``too_large``."""

    def __init__(self) -> None:
        self.published: list[CloudEvent] = []
        self.failures = 0
        self.too_large: set[str] = set()

    async def publish(self, envelopes: Sequence[CloudEvent]) -> None:
        if any(envelope.id in self.too_large for envelope in envelopes):
            raise NonRetryableError("not published: too large")
        if self.failures:
            self.failures -= 1
            raise NotPublished("not published: unavailable")
        self.published.extend(envelopes)
