"""Renders KafkaTopics, KafkaUsers with their rights, and credential patches for the pods from the topic table."""

from collections.abc import Iterator

from deploy.k8s.render.text import Manifest

from bucketline.events.topics import DEAD_LETTER_PARTITIONS, DEAD_LETTER_RETENTION_MS, TOPICS, Topic, dead_letter_topics
from bucketline.settings import SERVICES, KafkaSettings, ServiceName

API_VERSION = "kafka.strimzi.io/v1"
CLUSTER = "bucketline"
REPLICAS = 3
IN_SYNC = 2
OPERATIONS = "bucketline-operations"
SUBSCRIBER = "bucketline-subscriber"
SUBSCRIBER_GROUPS = "subscriber-"
DEAD_LETTER_API: ServiceName = "ingest-api"
"""The service whose routes show the lag of all consumers, list dead letters, and replay them to their topics."""
# A dead letter is larger than its original record: it has the failure context in additional headers.
DEAD_LETTER_MAX_BYTES = 2 * 1024 * 1024


def topic_prefix() -> str:
    """Return the default prefix of topic names."""
    return str(KafkaSettings.model_fields["topic_prefix"].default)


def group_prefix() -> str:
    """Return the default prefix of consumer groups."""
    return str(KafkaSettings.model_fields["group_prefix"].default)


def topics() -> Iterator[Manifest]:
    """Return every topic in the table and the dead-letter topic of each of its consumers."""
    for topic in TOPICS:
        yield _topic(topic.name, topic.partitions, {"retention.ms": topic.retention_ms})
    for _, _, name in dead_letter_topics():
        yield _topic(
            name,
            DEAD_LETTER_PARTITIONS,
            {"retention.ms": DEAD_LETTER_RETENTION_MS, "max.message.bytes": DEAD_LETTER_MAX_BYTES},
        )


def users() -> Iterator[Manifest]:
    """Return one user per service with the rights in the topic table, one for operators and one for subscribers."""
    for service in SERVICES:
        acls = [acl for topic in TOPICS for acl in _rights(topic, service)]
        yield _user(f"bucketline-{service}", acls)
    yield _user(
        OPERATIONS,
        [
            _acl("topic", topic_prefix(), ["Read", "Write", "Describe", "DescribeConfigs"], pattern="prefix"),
            _acl("group", group_prefix(), ["Read", "Describe"], pattern="prefix"),
        ],
    )
    public = [_acl("topic", topic_prefix() + topic.name, ["Read", "Describe"]) for topic in TOPICS if topic.public]
    yield _user(SUBSCRIBER, [*public, _acl("group", SUBSCRIBER_GROUPS, ["Read", "Describe"], pattern="prefix")])


def credentials() -> Iterator[Manifest]:
    """Return the patches that give each workload the name and password of its own user."""
    for service in SERVICES:
        yield _credentials(f"bucketline-{service}", f"bucketline-{service}")
    yield _credentials("bucketline-toolbox", OPERATIONS)


def _rights(topic: Topic, service: ServiceName) -> Iterator[Manifest]:
    if service in topic.consumers:
        yield _acl("topic", topic_prefix() + topic.name, ["Read", "Describe"])
        yield _acl("group", group_prefix() + topic.group(service), ["Read", "Describe"])
        yield _acl("topic", topic_prefix() + topic.dead_letter_topic(service), ["Write", "Describe"])
    if service in topic.producers or service == DEAD_LETTER_API:
        yield _acl("topic", topic_prefix() + topic.name, ["Write", "Describe"])
    if service == DEAD_LETTER_API:
        for consumer in topic.consumers:
            yield _acl("topic", topic_prefix() + topic.dead_letter_topic(consumer), ["Read", "Describe"])
            if consumer != service:
                yield _acl("group", group_prefix() + topic.group(consumer), ["Describe"])


def _acl(kind: str, name: str, operations: list[str], pattern: str = "literal") -> Manifest:
    return {"resource": {"type": kind, "name": name, "patternType": pattern}, "operations": operations}


def _topic(name: str, partitions: int, config: dict[str, int]) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "KafkaTopic",
        "metadata": {"name": topic_prefix() + name, "labels": {"strimzi.io/cluster": CLUSTER}},
        "spec": {
            "partitions": partitions,
            "replicas": REPLICAS,
            "config": {"cleanup.policy": "delete", "min.insync.replicas": IN_SYNC, **config},
        },
    }


def _user(name: str, acls: list[Manifest]) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "KafkaUser",
        "metadata": {"name": name, "labels": {"strimzi.io/cluster": CLUSTER}},
        "spec": {
            "authentication": {"type": "scram-sha-512"},
            "authorization": {"type": "simple", "acls": acls},
        },
    }


def _credentials(name: str, user: str) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "bucketline",
                            "env": [
                                {"name": "BUCKETLINE_KAFKA_SASL_USERNAME", "value": user, "valueFrom": None},
                                {
                                    "name": "BUCKETLINE_KAFKA_SASL_PASSWORD",
                                    "valueFrom": {"secretKeyRef": {"name": user, "key": "password"}},
                                },
                            ],
                        }
                    ]
                }
            }
        },
    }
