"""Posts due deliveries, at least once: a failed attempt is repeated with backoff for 24 hours.

Receivers that do not respond must not delay others. Each host has few concurrent calls, and only one until a call to it
has succeeded. A call that takes long no longer counts against the calls that may be started. When an attempt fails, all
due deliveries to its host wait until it is attempted again.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from cachetools import TTLCache

from bucketline.backoff import backoff_seconds
from bucketline.clock import wire_time
from bucketline.db.webhooks import DeliveryHealth, WebhookChannel, WebhookDeliveryDocument, WebhookDocument
from bucketline.errors import DependencyUnavailable
from bucketline.http.client import PostFailed, WebhookClient
from bucketline.http.ssrf import GuardPolicy
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.webhooks.schemas import MAX_TIMEOUT_SECONDS

log = get_logger(__name__)

MAX_CALLS = 1500
MAX_YOUNG_CALLS = 500
YOUNG_SECONDS = 2.0
"""Limits on all calls, and on those that were started less than ``YOUNG_SECONDS`` ago."""
MAX_CALLS_PER_HOST = 10
CONNECT_SECONDS = 3.0
POLL_SECONDS = 0.5

LEASE = timedelta(seconds=2 * MAX_TIMEOUT_SECONDS)
MAX_BACKOFF_SECONDS = 3600.0
JITTER = 0.2

MAX_FAILURES = 10
MAX_FAILING_TIME = timedelta(hours=24)
"""A webhook is deactivated after so many failed attempts in a row over at least this time."""


def open_client(policy: GuardPolicy) -> WebhookClient:
    """Return the client for the deliveries, to be entered."""
    return WebhookClient(policy, seconds=MAX_TIMEOUT_SECONDS, connections=MAX_CALLS, connect_seconds=CONNECT_SECONDS)


@dataclass(frozen=True)
class Call:
    """A call in progress: its host, and when it was started on the clock of the event loop."""

    host: str
    started: float


class WebhookSender:
    """Claims due deliveries and posts them. One per process."""

    def __init__(self, container: Container, client: WebhookClient) -> None:
        self._container = container
        self._client = client
        self._calls: dict[asyncio.Task[None], Call] = {}
        self._responsive: TTLCache[str, bool] = TTLCache(10_000, 600)
        self._stopping = False

    def stop(self) -> None:
        """Start no further calls."""
        self._stopping = True

    async def deliver_due(self) -> int:
        """Make calls until none is due and return how many were made. Do not run it concurrently.

        Calls that are cut off stay leased and are repeated later.
        """
        made = 0
        try:
            while True:
                started = await self._start_calls()
                made += started
                if not started and not self._calls:
                    return made
                if not started:
                    await asyncio.wait(self._calls, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for call in self._calls:
                call.cancel()

    async def _start_calls(self) -> int:
        """Start calls up to the limits; return how many."""
        now = asyncio.get_running_loop().time()
        slow = [call.host for call in self._calls.values() if now - call.started >= YOUNG_SECONDS]
        for host in slow:
            self._responsive.pop(host, None)
        room = min(MAX_CALLS - len(self._calls), MAX_YOUNG_CALLS - (len(self._calls) - len(slow)))
        if self._stopping or room <= 0:
            return 0
        active = Counter(call.host for call in self._calls.values())
        full = [host for host, calls in active.items() if calls >= self._limit(host)]
        clock, deliveries = self._container.clock, self._container.webhook_deliveries
        chosen: list[WebhookDeliveryDocument] = []
        for delivery in await deliveries.find_due(clock.now(), limit=room, without_hosts=full):
            active[delivery["host"]] += 1
            if active[delivery["host"]] <= self._limit(delivery["host"]):
                chosen.append(delivery)
        owner = self._container.ids.new("req")
        claimed = await deliveries.claim(chosen, owner, until=clock.now() + LEASE) if chosen else set()
        for delivery in chosen:
            if delivery["_id"] in claimed:
                task = asyncio.create_task(self._deliver(delivery, owner), name=f"webhook {delivery['_id']}")
                self._calls[task] = Call(delivery["host"], now)
                task.add_done_callback(self._calls.pop)
        return len(claimed)

    def _limit(self, host: str) -> int:
        return MAX_CALLS_PER_HOST if host in self._responsive else 1

    async def _deliver(self, delivery: WebhookDeliveryDocument, owner: str) -> None:
        try:
            await self._attempt(delivery, owner)
        except DependencyUnavailable as error:
            # The lease ends by itself, and the delivery is repeated.
            log.warning("webhook delivery not recorded", delivery_id=delivery["_id"], error=error.message)

    async def _attempt(self, delivery: WebhookDeliveryDocument, owner: str) -> None:
        """Post the delivery once and record the result."""
        container, deliveries = self._container, self._container.webhook_deliveries
        webhook = await container.webhooks.get_by_id(delivery["webhook_id"])
        if webhook is None or not webhook["is_active"] or delivery["channel"] >= len(webhook["channels"]):
            reason = "the webhook is not active" if webhook else "the webhook was deleted"
            changes: dict[str, object] = {"status": "canceled", "error": reason}
            await deliveries.finish(delivery["_id"], owner, changes, attempts=0)
            return
        status_code, error = await self._post(webhook["channels"][delivery["channel"]], delivery)
        now = container.clock.now()
        changes = {"status_code": status_code, "error": error, "last_attempt_at": now}
        log.info("webhook called", delivery_id=delivery["_id"], status_code=status_code, error=error)
        if error is None:
            self._responsive[delivery["host"]] = True
            await deliveries.finish(delivery["_id"], owner, {**changes, "status": "delivered"}, attempts=1)
            if webhook.get("delivery_health"):
                await container.webhooks.record_success(webhook["_id"])
            return
        self._responsive.pop(delivery["host"], None)
        next_attempt = now + retry_pause(delivery["attempts"] + 1, container.settings.webhook_retry_seconds)
        if next_attempt >= delivery["expires_at"]:
            await deliveries.finish(delivery["_id"], owner, {**changes, "status": "failed"}, attempts=1)
        else:
            await deliveries.retry_later(delivery["_id"], owner, changes, due_at=next_attempt)
        await deliveries.postpone(delivery["host"], now=now, until=next_attempt)
        await self._record_failure(webhook, error, now)

    async def _post(self, channel: WebhookChannel, delivery: WebhookDeliveryDocument) -> tuple[int | None, str | None]:
        """Return the status code of the response, if there was one, and what failed, if anything did."""
        body = delivery["body"].encode()
        headers = {
            **channel["headers"],
            **signature_headers(channel, delivery["event_id"], body, self._container.clock.now()),
        }
        try:
            status_code = await self._client.post(channel["url"], body, headers=headers, seconds=channel["timeout"])
        except PostFailed as failure:
            return None, failure.message
        return status_code, None if 200 <= status_code < 300 else f"the receiver answered {status_code}"

    async def _record_failure(self, webhook: WebhookDocument, cause: str, now: datetime) -> None:
        """Count the failure, and deactivate the webhook after too many."""
        updated = await self._container.webhooks.record_failure(webhook["_id"], cause, now)
        if updated is None or not is_failing(updated.get("delivery_health", {}), now):
            return
        since = wire_time(updated["delivery_health"]["first_failure_at"])
        reason = f"every delivery since {since} has failed"
        if await self._container.webhooks.deactivate(webhook["_id"], reason, failures=MAX_FAILURES, now=now):
            log.warning("webhook deactivated", webhook_id=webhook["_id"], cause=cause)


def retry_pause(failures: int, initial: float) -> timedelta:
    """Return the pause after so many failed attempts of a delivery."""
    return timedelta(seconds=backoff_seconds(failures, initial=initial, maximum=MAX_BACKOFF_SECONDS, jitter=JITTER))


def is_failing(health: DeliveryHealth, now: datetime) -> bool:
    """Return whether a webhook with this health is to be deactivated."""
    first = health.get("first_failure_at")
    return first is not None and health["consecutive_failures"] >= MAX_FAILURES and now - first >= MAX_FAILING_TIME


def signature_headers(channel: WebhookChannel, event_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """Return the headers of Standard Webhooks, and the signature of the contract, for one attempt.

    Without a secret only the id and the time are sent. After a rotation ``webhook-signature`` has two signatures.
    """
    timestamp = str(int(now.timestamp()))
    headers = {"webhook-id": event_id, "webhook-timestamp": timestamp}
    secret = channel["secret"]
    if secret is None:
        return headers
    keys = [secret]
    previous, until = channel.get("previous_secret"), channel.get("previous_until")
    if previous is not None and until is not None and until > now:
        keys.append(previous)
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [
        f"v1,{base64.b64encode(hmac.digest(_standard_key(key), signed, hashlib.sha256)).decode()}" for key in keys
    ]
    digest = hmac.digest(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return {
        **headers,
        "webhook-signature": " ".join(signatures),
        "X-Mixpeek-Signature": f"t={timestamp},v1={digest.hex()}",
    }


def _standard_key(secret: str) -> bytes:
    """Return the key of a secret: Standard Webhooks encodes it in base 64; any other text is the key itself."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
