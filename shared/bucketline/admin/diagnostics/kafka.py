"""Kafka: brokers answer, every topic is there as the table says, may be used, and has enough copies.

Its clock is not looked at: the protocol does not tell it, and nothing of ours compares it with another.
"""

from collections.abc import AsyncIterator, Mapping

from bucketline.admin.diagnostics.result import CheckResult
from bucketline.events.topics import TOPICS
from bucketline.kafka.cluster_info import READ, WRITE, ask, ask_of_groups
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.kafka.topic_admin import TopicState, check_topics, cluster
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
    there = [state.name for state in states if state.partitions is not None]
    broker = await ask(settings, there)
    yield _version(broker.release)
    yield _there(states)
    yield _retention(states)
    yield permissions(broker.allowed)
    names = [settings.group_prefix + topic.group(service) for topic in TOPICS for service in topic.consumers]
    yield group_permissions(await ask_of_groups(settings, names))
    yield _copies(states, brokers)
    yield await _producer(settings)


def _version(release: str | None) -> CheckResult:
    if release is None:
        return CheckResult(PART, "version", "bad", "older than 2.8", "Upgrade to a release that is maintained.")
    return CheckResult(PART, "version", "ok", f"speaks as {release} or newer does")


def permissions(allowed: Mapping[str, frozenset[int] | None]) -> CheckResult:
    """``allowed`` as :class:`Broker` has it. Asked for what all services together need: that is whom we act for."""
    told = {topic: operations for topic, operations in allowed.items() if operations is not None}
    if not told:
        return CheckResult(
            PART, "permissions", "ok", "nothing to look at yet" if not allowed else "this broker tells none"
        )
    lacking = [topic for topic, operations in sorted(told.items()) if not {READ, WRITE} <= operations]
    if lacking:
        advice = "Give this user Read and Write on them. A service's own user needs what deploy/k8s says, and no more."
        return CheckResult(PART, "permissions", "bad", f"not to be read or written: {', '.join(lacking)}"[:300], advice)
    return CheckResult(PART, "permissions", "ok", f"{len(told)} topics may be read and written")


def group_permissions(allowed: Mapping[str, frozenset[int] | None]) -> CheckResult:
    """The same for consumer groups: without Read nobody joins one or keeps its place."""
    told = {group: operations for group, operations in allowed.items() if operations is not None}
    if not told:
        return CheckResult(PART, "consumer groups", "ok", "this broker tells nothing of them")
    lacking = [group for group, operations in sorted(told.items()) if READ not in operations]
    if lacking:
        advice = "Give this user Read on these groups, or on their prefix (BUCKETLINE_KAFKA_GROUP_PREFIX)."
        return CheckResult(PART, "consumer groups", "bad", f"not to be joined: {', '.join(lacking)}"[:300], advice)
    return CheckResult(PART, "consumer groups", "ok", f"{len(told)} may be joined")


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
