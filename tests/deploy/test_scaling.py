"""What waits in MongoDB, and no longer on the bus, makes pods too."""

import re
from math import ceil

import pytest
import yaml
from tests.deploy.rendering import K8S, Manifest, named, of_kind, with_component
from tests.deploy.test_monitoring import alerts, names_in

from bucketline.settings import ServiceName
from bucketline_batcher.settings import BatcherSettings
from bucketline_dedup.scheduler import MAX_COUNTED, QUEUES
from bucketline_processor.settings import ProcessorSettings

PRODUCTION = "overlays/production"
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


def spec(service: ServiceName) -> Manifest:
    found: Manifest = named(PRODUCTION, "ScaledObject", f"bucketline-{service}")["spec"]
    return found


def backlogs(service: ServiceName) -> dict[str, float]:
    """Threshold by query of what KEDA asks Prometheus for this service."""
    return {
        trigger["metadata"]["query"]: float(trigger["metadata"]["threshold"])
        for trigger in spec(service)["triggers"]
        if trigger["type"] == "prometheus"
    }


def test_dedup_backlog_query_covers_each_size_class() -> None:
    asked = backlogs("dedup")
    assert {name for query in asked for name in names_in(query)} == {"bucketline_mirror_queue_depth"}
    assert {name for query in asked for name in re.findall(r'size_class="(\w+)"', query)} == set(QUEUES)
    for threshold in asked.values():
        assert ceil(MAX_COUNTED / threshold) >= spec("dedup")["maxReplicaCount"], "counting ends too early"


def test_one_large_batch_gets_as_many_processors_as_its_open_units_keep_busy() -> None:
    ((query, threshold),) = backlogs("processor").items()
    assert names_in(query) == {"bucketline_work_units_pending"}
    own, planned = ProcessorSettings(), BatcherSettings()
    at_once = own.max_concurrent_units // 2  # of a batch that is alone
    pods = ceil(planned.max_active_units / threshold)
    absorbed = ceil(planned.max_active_units / (at_once + own.prefetch_units))
    assert pods > absorbed, "pods that took all its records off the bus need help"
    assert pods <= planned.max_active_units / at_once, "more would find nothing to do"


@pytest.mark.parametrize("service", ["dedup", "processor"])
def test_backlog_query_selects_this_deployment_and_fails_without_a_value(service: ServiceName) -> None:
    (namespace,) = of_kind(PRODUCTION, "Namespace")
    down = next(alert["expr"] for alert in alerts() if alert["alert"] == "BucketlineServiceDown")
    for trigger in [trigger for trigger in spec(service)["triggers"] if trigger["type"] == "prometheus"]:
        query = trigger["metadata"]["query"]
        # each replica counts the same work: what they say is not added up
        assert re.fullmatch(r"max\(\w+\{[^}]+\}\)", query)
        assert f'namespace="{namespace["metadata"]["name"]}"' in query
        (job,) = re.findall(r'job="([^"]+)"', query)
        assert f'job="{job}"' in down
        assert trigger["metadata"]["ignoreNullValues"] == "false"
    names = [trigger["name"] for trigger in spec(service)["triggers"]]
    assert len(names) == len(set(names))
    assert spec(service)["fallback"]["behavior"] == "currentReplicasIfHigher"


@pytest.mark.parametrize("component", ["hpa", "keda"])
def test_a_workload_with_an_autoscaler_has_no_fixed_number_of_pods(component: str) -> None:
    """Whoever applies a number owns it, and each apply would restore it."""
    target = with_component(component)
    scaled = {item["spec"]["scaleTargetRef"]["name"] for item in of_kind(target, *SCALERS)}
    assert scaled
    for deployment in of_kind(target, "Deployment"):
        assert ("replicas" in deployment["spec"]) == (deployment["metadata"]["name"] not in scaled)


def test_without_prometheus_the_bus_alone_is_asked() -> None:
    """A trigger that always fails would never let a pod go, so this is a component of its own."""
    keda = (K8S / "components" / "keda" / "scaledobjects.yaml").read_text(encoding="utf-8")
    kinds = {trigger["type"] for scaled in yaml.safe_load_all(keda) for trigger in scaled["spec"]["triggers"]}
    assert kinds == {"kafka"}
