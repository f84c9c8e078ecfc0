"""ScaledObjects: how many pods read a topic follows from how far behind they are."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.k8s.render.strimzi import group_prefix, topic_prefix
from deploy.k8s.render.text import Manifest

from bucketline.events.topics import BATCHES, MIRRORED, OBJECTS, STATUS, WORK, Topic, consumed_by
from bucketline.settings import ServiceName

# The sweepers of a service must run even while no event arrives, so none goes to zero.
MIN_REPLICAS = 1
SETTLE_SECONDS = 300


@dataclass(frozen=True)
class Scaling:
    """How a service grows.

    ``lag_a_pod`` says how many waiting records of each topic justify a pod. ``slow`` services commit so seldom
    that a partition without a commit between two looks is at work, not stuck.
    """

    service: ServiceName
    lag_a_pod: dict[str, int]
    slow: bool = False


SCALED = (
    Scaling("dedup", {OBJECTS.name: 200}),
    Scaling("batcher", {MIRRORED.name: 2000, BATCHES.name: 500, STATUS.name: 5000}),
    Scaling("processor", {WORK.name: 4}, slow=True),
)


def scaled_objects() -> Iterator[Manifest]:
    for scaling in SCALED:
        topics = consumed_by(scaling.service)
        yield {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": f"bucketline-{scaling.service}"},
            "spec": {
                "scaleTargetRef": {"name": f"bucketline-{scaling.service}", "envSourceContainerName": "bucketline"},
                "minReplicaCount": MIN_REPLICAS,
                # more pods than partitions would have nothing to read
                "maxReplicaCount": max(topic.partitions for topic in topics),
                "pollingInterval": 15,
                "cooldownPeriod": SETTLE_SECONDS,
                "fallback": {"failureThreshold": 4, "replicas": 2, "behavior": "currentReplicasIfHigher"},
                "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behaviour()}},
                "triggers": [_trigger(scaling, topic) for topic in topics],
            },
        }


def _behaviour() -> Manifest:
    """Quick up, slow down: each change makes a whole consumer group pause."""
    return {
        "scaleUp": {"stabilizationWindowSeconds": 30, "policies": [_policy("Percent", 100, 60)]},
        "scaleDown": {"stabilizationWindowSeconds": SETTLE_SECONDS, "policies": [_policy("Pods", 1, 120)]},
    }


def _policy(kind: str, value: int, seconds: int) -> Manifest:
    return {"type": kind, "value": value, "periodSeconds": seconds}


def _trigger(scaling: Scaling, topic: Topic) -> Manifest:
    return {
        "type": "kafka",
        "name": topic.name.replace(".", "-"),
        "metadata": {
            "bootstrapServersFromEnv": "BUCKETLINE_KAFKA_BOOTSTRAP",
            "consumerGroup": group_prefix() + topic.group(scaling.service),
            "topic": topic_prefix() + topic.name,
            "lagThreshold": str(scaling.lag_a_pod[topic.name]),
            "offsetResetPolicy": "earliest",
            "limitToPartitionsWithLag": "true",
            "excludePersistentLag": "false" if scaling.slow else "true",
            "scaleToZeroOnInvalidOffset": "false",
            "sasl": "scram_sha512",
            "tls": "enable",
            "version": "2.8.0",
        },
        "authenticationRef": {"name": "bucketline-kafka"},
    }
