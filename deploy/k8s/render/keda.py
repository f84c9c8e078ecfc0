"""Renders ScaledObjects, which scale a service by its consumer lag and its backlog in MongoDB.

Dedup and the processor acknowledge a record as soon as its work is stored in MongoDB, so consumer lag does not include
that work. A gauge counts it, and KEDA reads the gauge from Prometheus.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.k8s.render.dashboards import name_of
from deploy.k8s.render.strimzi import group_prefix, topic_prefix
from deploy.k8s.render.text import Manifest
from prometheus_client import Gauge

from bucketline.events.topics import BATCHES, MIRRORED, OBJECTS, STATUS, WORK, Topic, consumed_by
from bucketline.observability.metrics import OBJECTS_DUE, UNITS_OPEN
from bucketline.settings import ServiceName

# Reconcilers must run even while no event arrives, so no service scales to zero.
MIN_REPLICAS = 1
SETTLE_SECONDS = 300
# The Service that the Prometheus operator creates, in the namespace that may scrape.
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
NAMESPACE = "bucketline"


@dataclass(frozen=True)
class Scaling:
    """Scaling of a service by consumer lag.

    ``lag_per_pod`` is the number of waiting records of each topic that justifies one pod. A ``slow`` service commits so
    rarely that a partition without a commit between two polls is busy, not stuck.
    """

    service: ServiceName
    lag_per_pod: dict[str, int]
    slow: bool = False


SCALED = (
    Scaling("dedup", {OBJECTS.name: 200}),
    Scaling("batcher", {MIRRORED.name: 2000, BATCHES.name: 500, STATUS.name: 5000}),
    Scaling("processor", {WORK.name: 4}, slow=True),
)


@dataclass(frozen=True)
class Backlog:
    """Work of ``service`` in MongoDB, counted by ``gauge`` of ``exported_by``; ``per_pod`` items justify one pod."""

    service: ServiceName
    name: str
    gauge: Gauge
    exported_by: ServiceName
    per_pod: int
    size_class: str = ""


BACKLOGS = (
    Backlog("dedup", "due-small", OBJECTS_DUE, "dedup", 200, size_class="small"),
    # a pod mirrors two at a time, and each may take minutes
    Backlog("dedup", "due-large", OBJECTS_DUE, "dedup", 8, size_class="large"),
    # a pod works on four units at a time, and a batch has at most 16 open units: four pods share it
    Backlog("processor", "units-open", UNITS_OPEN, "batcher", 4),
)


def scaled_objects() -> Iterator[Manifest]:
    """Return the ScaledObject of each service that scales by consumer lag."""
    for scaling in SCALED:
        topics = consumed_by(scaling.service)
        yield {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": f"bucketline-{scaling.service}"},
            "spec": {
                "scaleTargetRef": {"name": f"bucketline-{scaling.service}", "envSourceContainerName": "bucketline"},
                "minReplicaCount": MIN_REPLICAS,
                # additional pods beyond the number of partitions would have nothing to read
                "maxReplicaCount": max(topic.partitions for topic in topics),
                "pollingInterval": 15,
                "cooldownPeriod": SETTLE_SECONDS,
                "fallback": {"failureThreshold": 4, "replicas": 2, "behavior": "currentReplicasIfHigher"},
                "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
                "triggers": [_trigger(scaling, topic) for topic in topics],
            },
        }


def backlog_patches() -> Iterator[tuple[ServiceName, Sequence[Manifest]]]:
    """Return, per service with a backlog in MongoDB, the JSON patch that adds it to the service's ScaledObject."""
    for service in dict.fromkeys(backlog.service for backlog in BACKLOGS):
        yield (
            service,
            [
                {"op": "add", "path": "/spec/triggers/-", "value": _backlog_trigger(backlog)}
                for backlog in BACKLOGS
                if backlog.service == service
            ],
        )


def _backlog_trigger(backlog: Backlog) -> Manifest:
    matchers = {"namespace": NAMESPACE, "job": f"bucketline-{backlog.exported_by}"}
    if backlog.size_class:
        matchers["size_class"] = backlog.size_class
    selector = ",".join(f'{label}="{value}"' for label, value in matchers.items())
    return {
        "type": "prometheus",
        "name": backlog.name,
        "metadata": {
            "serverAddress": PROMETHEUS,
            # each pod counts the whole backlog, so the values are not added up
            "query": f"max({name_of(backlog.gauge)}{{{selector}}})",
            "threshold": str(backlog.per_pod),
            # a missing value is an error, which keeps the number of pods; it must not scale the service in
            "ignoreNullValues": "false",
        },
    }


def _behavior() -> Manifest:
    """Scale out fast and in slowly: each change makes the whole consumer group rebalance."""
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
            "bootstrapServersFromEnv": "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS",
            "consumerGroup": group_prefix() + topic.group(scaling.service),
            "topic": topic_prefix() + topic.name,
            "lagThreshold": str(scaling.lag_per_pod[topic.name]),
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
