"""ScaledObjects: how many pods a service has follows from how far behind it is.

Lag says so for what waits on the bus. Dedup and the processor acknowledge a record when its work is remembered in
MongoDB, so that the bus goes on; what waits there is told by a gauge, which KEDA reads from Prometheus.
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

# The sweepers of a service must run even while no event arrives, so none goes to zero.
MIN_REPLICAS = 1
SETTLE_SECONDS = 300
# The name that the Prometheus operator gives to whatever Prometheus it runs, in the namespace that may scrape.
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
NAMESPACE = "bucketline"


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


@dataclass(frozen=True)
class Backlog:
    """Work of ``service`` off the bus: ``gauge``, told by each pod of ``told_by``; ``a_pod`` of it justify one more."""

    service: ServiceName
    name: str
    gauge: Gauge
    told_by: ServiceName
    a_pod: int
    lane: str = ""


BACKLOGS = (
    Backlog("dedup", "due-small", OBJECTS_DUE, "dedup", 200, lane="small"),
    # two at a time in a pod, and each may take minutes
    Backlog("dedup", "due-large", OBJECTS_DUE, "dedup", 8, lane="large"),
    # what a pod works on at the same time for one batch, which has at most 16 units open: four pods share it
    Backlog("processor", "units-open", UNITS_OPEN, "batcher", 4),
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


def backlog_patches() -> Iterator[tuple[ServiceName, Sequence[Manifest]]]:
    """For each service with a backlog in MongoDB, the JSON patch that makes its ScaledObject follow that, too."""
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
    matchers = {"namespace": NAMESPACE, "job": f"bucketline-{backlog.told_by}"}
    if backlog.lane:
        matchers["lane"] = backlog.lane
    selector = ",".join(f'{label}="{value}"' for label, value in matchers.items())
    return {
        "type": "prometheus",
        "name": backlog.name,
        "metadata": {
            "serverAddress": PROMETHEUS,
            # each pod counts all of it, so they are not added up
            "query": f"max({name_of(backlog.gauge)}{{{selector}}})",
            "threshold": str(backlog.a_pod),
            # nobody counts: that is no reason to shrink, so it is an error, and the pods stay as many as they are
            "ignoreNullValues": "false",
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
            "bootstrapServersFromEnv": "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS",
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
