"""Every manifest is what its kind allows: core kinds by Kubernetes' own schemas, custom resources by their CRDs."""

import re
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml
from kubernetes_validate.utils import all_versions, major_minor  # type: ignore[import-untyped]  # as above
from tests.deploy.rendering import DEPLOY, K8S, ROOT, TARGETS, Manifest, named, render
from tests.requirements import lacking

CRDS = ROOT.parent / "shared" / "schemas" / "crds"
NEWEST = sorted({major_minor(version) for version in all_versions()}, key=lambda v: tuple(map(int, v.split("."))))[-3:]

OLDEST = re.findall(r"Kubernetes (\d+\.\d+) or newer", (K8S / "README.md").read_text(encoding="utf-8"))[0]
"""The oldest version that the README promises."""


def is_core(manifest: Manifest) -> bool:
    """Return whether Kubernetes itself defines the kind. The Gateway API has a group of Kubernetes and is a CRD."""
    group = manifest["apiVersion"].partition("/")[0] if "/" in manifest["apiVersion"] else ""
    return "." not in group or (group.endswith(".k8s.io") and not group.startswith("gateway."))


@pytest.mark.parametrize("version", [OLDEST, *NEWEST])
@pytest.mark.parametrize("target", TARGETS)
def test_core_kinds_pass_the_schemas_of_kubernetes(target: str, version: str) -> None:
    core = [manifest for manifest in render(target) if is_core(manifest)]
    assert core
    for manifest in core:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_oldest_version_is_the_first_that_knows_the_sleep_action() -> None:
    """1.29 has it in its schema, but only behind a feature gate."""
    api = named("base", "Deployment", "bucketline-ingest-api")
    major, minor = map(int, OLDEST.split("."))
    kubernetes_validate.validate(api, f"{major}.{minor - 1}", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="sleep"):
        kubernetes_validate.validate(api, f"{major}.{minor - 2}", strict=True)
    chart = yaml.safe_load((DEPLOY / "helm" / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


def test_a_misspelt_field_does_not_pass() -> None:
    manifest = {**next(m for m in render("base") if m["kind"] == "Deployment"), "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, NEWEST[-1], strict=True)


@cache
def crd_schemas() -> dict[tuple[str, str], Manifest]:
    """The schema of each custom kind by (apiVersion, kind), refusing fields that a cluster would drop silently."""
    if not CRDS.is_dir():
        lacking(f"the schemas of custom resources are not part of this repository ({CRDS} is absent)")
    schemas = {}
    for file in sorted(CRDS.glob("*.yaml")):
        for crd in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            spec = crd["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                schemas[key] = _closed(version["schema"]["openAPIV3Schema"])
    return schemas


def _closed(schema: Any, *, root: bool = True) -> Any:
    """The same schema, in which an object with named properties takes no others."""
    if isinstance(schema, list):
        return [_closed(item, root=False) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: {name: _closed(part, root=False) for name, part in value.items()}
        if key == "properties"
        else _closed(value, root=False)
        for key, value in schema.items()
    }
    if root:
        closed["properties"]["metadata"] = {"type": "object"}
    keeps = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not keeps and schema.get("type") == "object":
        closed["additionalProperties"] = False
    return closed


@pytest.mark.parametrize("target", TARGETS)
def test_custom_resources_pass_the_schemas_of_their_projects(target: str) -> None:
    schemas = crd_schemas()
    for manifest in render(target):
        if not is_core(manifest):
            jsonschema.Draft202012Validator(schemas[manifest["apiVersion"], manifest["kind"]]).validate(manifest)


def test_production_uses_each_custom_kind_that_we_have_a_schema_for() -> None:
    used = {(m["apiVersion"], m["kind"]) for target in TARGETS for m in render(target) if not is_core(m)}
    assert used == set(crd_schemas())


def test_a_misspelt_field_of_a_custom_resource_does_not_pass() -> None:
    topic = next(m for m in render("overlays/production") if m["kind"] == "KafkaTopic")
    wrong = {**topic, "spec": {**topic["spec"], "partition": 1}}
    with pytest.raises(jsonschema.ValidationError, match="partition"):
        jsonschema.Draft202012Validator(crd_schemas()[topic["apiVersion"], "KafkaTopic"]).validate(wrong)
