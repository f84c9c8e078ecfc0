"""Kafka: brokers answer, topics are as the table says, groups may be joined, and there are enough copies.

The broker's clock is not checked: nothing of ours compares it with another.
"""

from collections.abc import AsyncIterator, Sequence

from bucketline.admin.diagnostics.result import CheckResult
from bucketline.events.topics import TOPICS
from bucketline.kafka.admin import TopicState, check_topics, cluster, denied_groups
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.settings import KafkaSettings

PART = "Kafka"
UNREACHABLE = (
    "Is BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS right, and are SECURITY_PROTOCOL and SASL_*? "
    "Brokers must be reachable under the names that they advertise."
)


async def kafka(settings: KafkaSettings) -> AsyncIterator[CheckResult]:
    brokers = await cluster(settings)
    few = brokers < 3
    advice = "Three brokers survive the loss of one; events that are lost cost time, not objects." if few else ""
    yield CheckResult(PART, "brokers", "warning" if few else "ok", f"{brokers} answer", advice)
    states = await check_topics(settings, retention=True)
    yield _there(states)
    yield _retention(states)
    names = [settings.group_prefix + topic.group(service) for topic in TOPICS for service in topic.consumers]
    yield group_permissions(names, await denied_groups(settings, names))
    yield _copies(states, brokers)
    yield await _producer(settings)


def group_permissions(names: Sequence[str], denied: Sequence[str]) -> CheckResult:
    """Without Describe, which Read implies, a consumer can neither join its group nor commit."""
    if denied:
        advice = "Give this user Read on these groups, or on their prefix (BUCKETLINE_KAFKA_GROUP_PREFIX)."
        return CheckResult(PART, "consumer groups", "bad", f"not to be joined: {', '.join(denied)}"[:300], advice)
    return CheckResult(PART, "consumer groups", "ok", f"{len(names)} may be joined")


def _there(states: list[TopicState]) -> CheckResult:
    missing = [state.name for state in states if state.partitions is None]
    small = [state.name for state in states if "partitions" in state.faults]
    if missing:
        advice = "Run: bucketline topics create. Or this user may not describe them: see the ACLs in deploy/k8s."
        return CheckResult(PART, "topics", "bad", f"missing: {', '.join(missing)}"[:300], advice)
    if small:
        advice = "Add partitions while nothing is in flight: more partitions change which one a key goes to."
        return CheckResult(PART, "topics", "warning", f"too few partitions: {', '.join(small)}"[:300], advice)
    return CheckResult(PART, "topics", "ok", f"all {len(states)} are there")


def _retention(states: list[TopicState]) -> CheckResult:
    short = [state.name for state in states if "retention" in state.faults]
    if short:
        advice = "Raise retention.ms with kafka-configs.sh: what expires unread is only found again by the sweepers."
        return CheckResult(PART, "retention", "warning", f"shorter than it should be: {', '.join(short)}"[:300], advice)
    told = sum(state.kept_ms is not None for state in states)
    return CheckResult(PART, "retention", "ok", f"{told} topics keep records for long enough" if told else "not told")


def _copies(states: list[TopicState], brokers: int) -> CheckResult:
    copies = min((state.copies for state in states if state.copies is not None), default=0)
    if copies == 0:
        return CheckResult(PART, "copies", "ok", "nothing to look at yet")
    if copies < 2:
        advice = "BUCKETLINE_KAFKA_REPLICATION_FACTOR=3 before the topics are made; later kafka-reassign-partitions."
        return CheckResult(
            PART, "copies", "warning", "1 of each record", advice if brokers > 1 else "Add brokers first."
        )
    return CheckResult(PART, "copies", "ok", f"{copies} of each record")


async def _producer(settings: KafkaSettings) -> CheckResult:
    """Connects as the services do. Nothing is published: our topics are no place for test records."""
    async with KafkaPublisher(settings) as publisher:
        await publisher.ping()
    kind = "idempotent" if settings.enable_idempotence else "not idempotent"
    advice = (
        ""
        if settings.enable_idempotence
        else "Set BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE=true unless the broker cannot do it."
    )
    return CheckResult(
        PART, "producer", "ok" if settings.enable_idempotence else "warning", f"connects, {kind}", advice
    )
