"""The Helm chart: with its default values it is the base, and each switch adds what the component adds."""

import tomllib
from types import ModuleType
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml
from tests.deploy.rendering import DEPLOY, ROOT, Manifest, containers, pod_template, render, with_component
from tests.deploy.test_schemas import NEWEST, is_core
from tests.requirements import lacking

CHART = DEPLOY / "helm"
SWITCHES = {"ingress": "ingress", "httpRoute": "gateway", "hpa": "hpa", "keda": "keda", "monitoring": "monitoring"}
"""The component behind each switch of the chart."""
CHECKSUM = "checksum/config"
Objects = dict[tuple[str, str], Manifest]


def helm() -> ModuleType:
    try:
        import helm_python
    except ImportError:
        lacking("helm-python-sdk has no wheel for this platform")
    return helm_python


def chart(**values: Any) -> Objects:
    """What ``helm template`` makes of the chart with these values, by kind and name."""
    with helm().Chart.load(str(CHART)) as loaded:
        files = loaded.render(values, name="bucketline", namespace="bucketline")
    documents = [document for text in files.values() for document in yaml.safe_load_all(text) if document]
    objects = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(objects) == len(documents)
    return objects


def without_checksums(objects: Objects) -> Objects:
    """A change of settings replaces the pods by this annotation; kustomize does it by the names of ConfigMaps."""
    for item in objects.values():
        if item["kind"] == "Deployment":
            annotations = item["spec"]["template"]["metadata"].pop("annotations")
            assert list(annotations) == [CHECKSUM]
    return objects


def kustomized(target: str) -> Objects:
    """The objects of kustomize without the hashes in the names of ConfigMaps."""
    text = yaml.safe_dump_all(item for item in render(target) if item["kind"] != "Namespace")
    for item in render(target):
        if item["kind"] == "ConfigMap" and "grafana_dashboard" not in item["metadata"]["labels"]:
            text = text.replace(item["metadata"]["name"], item["metadata"]["name"][:-11])
    objects = {}
    for item in yaml.safe_load_all(text):
        item["metadata"].pop("namespace", None)  # a release decides it
        if "grafana_dashboard" not in item["metadata"]["labels"]:
            objects[item["kind"], item["metadata"]["name"]] = sorted_by_name(item)
    return objects


def sorted_by_name(item: Manifest) -> Manifest:
    """The order of variables and volumes has no meaning, and the chart groups them by what they are for."""
    if (template := pod_template(item)) is not None:
        template["spec"]["volumes"].sort(key=lambda entry: str(entry["name"]))
        for container in containers(template):
            container["env"].sort(key=lambda entry: str(entry["name"]))
            container["volumeMounts"].sort(key=lambda entry: str(entry["name"]))
    return item


def rendered(**values: Any) -> Objects:
    return {key: sorted_by_name(item) for key, item in without_checksums(chart(**values)).items()}


def test_chart_with_default_values_equals_the_base() -> None:
    assert rendered() == kustomized("base")


@pytest.mark.parametrize(("value", "component"), SWITCHES.items())
def test_switch_adds_what_the_component_adds(value: str, component: str) -> None:
    assert rendered(**{value: {"enabled": True}}) == kustomized(with_component(component))


def test_chart_has_the_version_of_the_project_and_no_lint_errors() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["version"] == about["appVersion"] == project["version"]
    findings = helm().lint(str(CHART))
    assert findings["errors"] == []
    assert [message["error"] for message in findings["messages"]] == ["icon is recommended"]


def test_empty_secret_names_leave_out_credentials_and_the_private_ca() -> None:
    secrets = {"s3": "", "kafka": "", "kafkaCa": ""}
    objects = chart(secrets=secrets, config={"BUCKETLINE_KAFKA_SSL_CAFILE": None})
    assert "BUCKETLINE_KAFKA_SSL_CAFILE" not in objects["ConfigMap", "bucketline-common"]["data"]
    for item in objects.values():
        if (template := pod_template(item)) is not None:
            (container,) = containers(template)
            names = {entry["name"] for entry in container["env"]}
            assert not {name for name in names if "S3" in name or "KAFKA" in name}
            assert {volume["name"] for volume in template["spec"]["volumes"]} == {"tmp"}


def test_values_reach_the_pods() -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/bucketline"}
    objects = chart(
        image={"repository": "registry.example.com/bucketline", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
        serviceAccount={"annotations": role},
        extraEnv=[{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
        config={"BUCKETLINE_S3_BUCKET": "blobs"},
        processor={
            "replicas": 5,
            "podLabels": {"bucketline.io/internet": "true"},
            "resources": {"limits": {"cpu": "4"}},
        },
        keda={"enabled": True},
        dedup={"maxReplicas": 3},
        extraObjects=[
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}, "data": {"key": "value"}}
        ],
    )
    for item in objects.values():
        if is_core(item):
            kubernetes_validate.validate(item, NEWEST[-1], strict=True)
        if (template := pod_template(item)) is not None:
            (container,) = containers(template)
            assert container["image"] == "registry.example.com/bucketline:1.2.3"
            assert container["env"][-1]["name"] == "HTTPS_PROXY"
        if item["kind"] == "ServiceAccount":
            assert item["metadata"]["annotations"] == role
            assert item["imagePullSecrets"] == [{"name": "registry"}]
    processor = objects["Deployment", "bucketline-processor"]["spec"]
    assert "replicas" not in processor
    assert processor["template"]["metadata"]["labels"]["bucketline.io/internet"] == "true"
    assert processor["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "4", "memory": "2304Mi"}
    assert objects["ConfigMap", "bucketline-common"]["data"]["BUCKETLINE_S3_BUCKET"] == "blobs"
    assert objects["ScaledObject", "bucketline-dedup"]["spec"]["maxReplicaCount"] == 3
    assert objects["ConfigMap", "extra"]["data"] == {"key": "value"}


@pytest.mark.parametrize(
    "values", [{"config": {"BUCKETLINE_LOG_LEVEL": "DEBUG"}}, {"dedup": {"config": {"BUCKETLINE_LOG_LEVEL": "DEBUG"}}}]
)
def test_changed_settings_replace_the_pods_that_read_them(values: dict[str, Any]) -> None:
    def checksum(objects: Objects) -> str:
        annotations = objects["Deployment", "bucketline-dedup"]["spec"]["template"]["metadata"]["annotations"]
        return str(annotations[CHECKSUM])

    assert checksum(chart()) == checksum(chart(processor={"config": {"BUCKETLINE_LOG_LEVEL": "DEBUG"}}))
    assert checksum(chart()) != checksum(chart(**values))
