"""Calling a handler: how often, for how long, and which of its errors counts."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.observability.messaging_spans import processing
from bucketline.observability.metrics import RETRIES

MAX_POLL = 300.0
"""Seconds that a micro-batch may take. A consumer that asks for no record for longer is put out of its group."""

Handler = Callable[[Sequence[ReceivedEvent]], Awaitable[None]]
"""Handles records in their order; all or nothing is not required, idempotence is. Events of no use are ignored."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a failing micro-batch is tried: at most ``attempts`` times and ``budget`` seconds.

    ``one_by_one``: seconds after which no further record of it is begun. ``pause``: seconds until what could not be
    dealt with is read again.
    """

    attempts: int = 5
    budget: float = 20.0
    first_wait: float = 0.1
    longest_wait: float = 5.0
    one_by_one: float = MAX_POLL / 3
    pause: float = 1.0


@dataclass
class Attempts:
    """A handler's tries with some records; ``made`` counts them."""

    handler: Handler
    topic: str
    group: str
    policy: RetryPolicy
    made: int = 0

    async def run(self, received: Sequence[ReceivedEvent]) -> None:
        """Returns once the handler did; raises its last error when the policy allows no further try."""
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_again),
                stop=stop_after_attempt(self.policy.attempts) | stop_after_delay(self.policy.budget),
                wait=wait_random_exponential(multiplier=self.policy.first_wait, max=self.policy.longest_wait),
                reraise=True,
            ):
                with attempt, processing(self.topic, self.group, received) as traced:
                    self.made += 1
                    try:
                        await self.handler(traced)
                    except ExceptionGroup as group:
                        raise _decisive(group) from group
        finally:
            RETRIES.labels(self.topic).inc(max(0, self.made - 1))


def _decisive(group: ExceptionGroup[Exception]) -> Exception:
    """The error that decides when a handler's tasks failed side by side: a store that is away before all others."""
    away = group.subgroup(DependencyUnavailable)
    found: Exception = away or group
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found


def _again(error: BaseException) -> bool:
    if isinstance(error, BucketlineError):
        return error.retry_class == "retry"
    return isinstance(error, Exception)
