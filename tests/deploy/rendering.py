"""The manifests as a cluster would get them: rendered once a run, and taken apart for the tests."""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
K8S = DEPLOY / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"

OVERLAYS = ("overlays/dev", "overlays/production")
TARGETS = ("base", *OVERLAYS, "kafka", "backing")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")

Manifest = dict[str, Any]


@cache
def render(target: str) -> tuple[Manifest, ...]:
    """What ``kubectl kustomize`` makes of a folder of deploy/k8s, or of one named by its whole path."""
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(K8S / target)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


COMPONENTS = tuple(sorted(path.name for path in (K8S / "components").iterdir()))
NEEDS = {"keda-backlog": ("keda",)}
"""Components that go with others."""


@cache
def with_component(*names: str) -> str:
    """The base with these components and no others but those that they need, as a target to render."""
    folder = Path(tempfile.mkdtemp(prefix="bucketline-kustomize-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copy(K8S / "overlays" / "production" / "namespace.yaml", folder)
    kustomization = {
        "namespace": "bucketline",
        "resources": [_from(folder, "base"), "namespace.yaml"],
        "components": [_from(folder, f"components/{part}") for name in names for part in (*NEEDS.get(name, ()), name)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return str(folder)


def _from(folder: Path, part: str) -> str:
    """Kustomize takes relative paths only."""
    return os.path.relpath(K8S / part, folder.resolve())


def of_kind(target: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in render(target) if manifest["kind"] in kinds]


def named(target: str, kind: str, name: str) -> Manifest:
    (found,) = [manifest for manifest in of_kind(target, kind) if manifest["metadata"]["name"] == name]
    return found


def pod_template(manifest: Manifest) -> Manifest | None:
    """The pod template of a workload; ``None`` for other kinds."""
    if manifest["kind"] not in WORKLOADS:
        return None
    spec = manifest["spec"]
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: Manifest = spec["template"]
    return template


def pods(target: str) -> dict[str, Manifest]:
    """The pod template of every workload, by "Kind/name"."""
    templates = {f"{item['kind']}/{item['metadata']['name']}": pod_template(item) for item in render(target)}
    return {name: template for name, template in templates.items() if template is not None}


def containers(template: Manifest) -> list[Manifest]:
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def is_service(template: Manifest) -> bool:
    """One of the four services, as opposed to what is run by hand or once."""
    return bool(template["metadata"]["labels"]["app.kubernetes.io/component"] != "operations")


def variables(target: str) -> Iterator[str]:
    """Every environment variable that a rendered manifest sets, by ConfigMap or directly."""
    for manifest in of_kind(target, "ConfigMap"):
        if "grafana_dashboard" not in manifest["metadata"].get("labels", {}):
            yield from manifest["data"]
    for template in pods(target).values():
        for container in containers(template):
            yield from (variable["name"] for variable in container.get("env", []))


def environment(target: str, workload: str) -> dict[str, str]:
    """What a container finds in its environment, secrets apart."""
    (container,) = containers(pods(target)[workload])
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= named(target, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {v["name"]: v["value"] for v in container.get("env", []) if "value" in v}


def quantity(text: str) -> float:
    """CPU in cores, memory in bytes."""
    units = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|[KMG]i|)", text)
    assert found, text
    return float(found[1]) * units[found[2]]


def selects(selector: Manifest | None, labels: dict[str, str]) -> bool:
    """Whether a Kubernetes label selector takes these labels. No selector takes nothing, an empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", "the tests know only In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True
