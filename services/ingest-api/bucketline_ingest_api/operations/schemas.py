"""Request and response bodies of the operations routes."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from bucketline.kafka.dead_letters import DeadLetter
from bucketline_ingest_api.schemas import RequestBody, ResponseBody, Timestamp, example

MAX_ADDRESSES = 50

Address = Annotated[str, Field(max_length=400, pattern=r"^[\w.-]+:\d{1,9}:\d{1,18}$", examples=["objects.v1.dlq:0:12"])]

_ADDRESS = "bucketline.objects.v1.dedup.dlq:0:12"
_DEAD_LETTER = {
    "address": _ADDRESS,
    "topic": "bucketline.objects.v1",
    "event_type": "bucketline.object.created.v1",
    "key": "obj_06h2k4v9c3f8m1q7r5tx",
    "state": "to replay",
    "failed_at": "2026-03-01T09:00:00.000Z",
    "error": "ValueError: not JSON",
    "attempts": "1",
    "group": "bucketline.dedup.objects",
    "headers": {"ce_type": "bucketline.object.created.v1"},
    "value": "not json",
}
_MINUTE = {
    "at": "2026-03-01T09:00:00.000Z",
    "created": 120,
    "finished": 118,
    "failed": 1,
    "p50_seconds": 0.2,
    "p95_seconds": 0.9,
}
_CONTENT = {"objects": 1200, "blobs": 1400, "total_bytes": 9000000, "unique_bytes": 7000000, "complete": True}


class Minute(ResponseBody):
    """Counts of one minute. The latency runs from the create request to the final status, to within ten percent."""

    at: Timestamp
    created: int = 0
    finished: int = Field(default=0, description="Objects that reached a final status, failed ones included.")
    failed: int = 0
    p50_seconds: float | None = None
    p95_seconds: float | None = None


class Content(ResponseBody):
    """Bytes that objects refer to, and bytes of distinct content. `complete` is false if not all were counted."""

    objects: int
    blobs: int
    total_bytes: int
    unique_bytes: int
    complete: bool


class Overview(ResponseBody):
    """The objects of a namespace: counts by status (each up to 100,000), the last hour, and the stored content."""

    model_config = example(
        {
            "objects_by_status": {"COMPLETED": 1200},
            "last_hour": [_MINUTE],
            "content": _CONTENT,
            "counted_at": _MINUTE["at"],
        }
    )

    objects_by_status: dict[str, int]
    last_hour: list[Minute] | None = Field(description="Null if counting took too long.")
    content: Content | None = Field(description="Null if counting took too long.")
    counted_at: Timestamp


class Lag(ResponseBody):
    """Records of a topic that a service has not processed yet."""

    service: str
    topic: str
    records: int


class Backlog(ResponseBody):
    """Work of the whole deployment that is waiting. Numbers other than the lag are counted up to 100,000."""

    model_config = example(
        {
            "unpublished_events": 0,
            "mirroring": 12,
            "mirroring_large": 1,
            "work_units": 3,
            "webhook_deliveries": 0,
            "dead_letters": 0,
            "consumer_lag": [],
        }
    )

    unpublished_events: int = Field(description="Objects and batches whose events are not published yet.")
    mirroring: int = Field(description="Objects whose blobs are due to be mirrored.")
    mirroring_large: int = Field(description="Objects with large blobs that are due to be mirrored.")
    work_units: int = Field(description="Units of batches that run or wait for a processor.")
    webhook_deliveries: int = Field(description="Deliveries that are due.")
    dead_letters: int | None = Field(default=None, description="Null while Kafka does not answer.")
    consumer_lag: list[Lag] | None = Field(default=None, description="Null while Kafka does not answer.")


class TimelineStep(ResponseBody):
    """A step. `at` is null while it is going on, and times of a run that is older than 30 days are left out."""

    name: Literal["accepted", "mirroring", "mirrored", "submitted", "batched", "processing", "finished"]
    at: Timestamp | None = None
    status: str | None = Field(default=None, description="The final status, or `FAILED` if mirroring was given up.")
    attempts: int | None = None
    error: str | None = None
    next_attempt_at: Timestamp | None = None
    documents: int | None = None


class ObjectTimeline(ResponseBody):
    """The steps of an object's latest run, in the order of their times."""

    model_config = example(
        {
            "object_id": "obj_06h2k4v9c3f8m1q7r5tx",
            "status": "COMPLETED",
            "batch_id": "btch_06h2k4v9c3f8m1q7r5ts",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "steps": [{"name": "accepted", "at": "2026-03-01T09:00:00.000Z"}],
        }
    )

    object_id: str
    status: str
    batch_id: str | None = None
    trace_id: str | None = Field(default=None, description="The trace of the request that created the object.")
    steps: list[TimelineStep]


class DeadLetterRow(ResponseBody):
    """A record that a service could not process. Text that is not UTF-8 is escaped; long values are cut."""

    model_config = example(_DEAD_LETTER)

    address: str
    topic: str = Field(description="The topic that the record came from and is replayed to.")
    event_type: str
    key: str
    state: str = Field(description="`to replay`, `replayed`, `discarded` or `incomplete`.")
    failed_at: str | None = None
    error: str
    attempts: str | None = None
    group: str | None = None
    headers: dict[str, str | None]
    value: JsonValue = None

    @classmethod
    def of(cls, row: DeadLetter) -> "DeadLetterRow":
        """Return the response for a dead letter."""
        error = f"{row.context.get('exception-class', '?')}: {row.context.get('exception-message', '')}"
        return cls(
            address=row.address,
            topic=row.topic,
            event_type=row.type,
            key=_decode(row.key) or "",
            state=row.state,
            failed_at=row.context.get("failed-at"),
            error=error,
            attempts=row.context.get("attempts"),
            group=row.context.get("consumer-group"),
            headers={name: _decode(value) for name, value in row.headers},
            value=_decode(row.value),
        )


class DeadLetterList(ResponseBody):
    """Dead letters in the order of their partitions. `has_more`: there are more than `limit`."""

    model_config = example({"results": [_DEAD_LETTER], "has_more": False})

    results: list[DeadLetterRow]
    has_more: bool


class DeadLetterAddresses(RequestBody):
    """The dead letters to handle."""

    model_config = example({"addresses": [_ADDRESS]})

    addresses: list[Address] = Field(min_length=1, max_length=MAX_ADDRESSES)


class DeadLettersHandled(ResponseBody):
    """The number of dead letters that were handled. `missing` have expired; `incomplete` cannot be replayed."""

    model_config = example({"handled": 1, "missing": [], "incomplete": []})

    handled: int
    missing: list[str]
    incomplete: list[str] = Field(default_factory=list)


MAX_VALUE_CHARACTERS = 20_000


def _decode(value: bytes | None) -> str | None:
    return None if value is None else value[:MAX_VALUE_CHARACTERS].decode(errors="backslashreplace")
