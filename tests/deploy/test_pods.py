"""What every pod keeps to: the restricted profile, limits, probes, time to drain, secrets by reference only."""

import base64
import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from tests.deploy.rendering import (
    OVERLAYS,
    Manifest,
    containers,
    environment,
    is_service,
    named,
    of_kind,
    pods,
    quantity,
    render,
    selects,
)

from bucketline.cli.main import ENTRIES, load_command
from bucketline.observability import health
from bucketline.server import DRAIN_SECONDS
from bucketline.settings import SERVICES, HttpSettings

EVERY_POD = [
    pytest.param(target, name, id=f"{target}:{name}") for target in ("base", *OVERLAYS) for name in pods(target)
]
SERVICE_PODS = [
    pytest.param(target, name, id=f"{target}:{name}")
    for target in ("base", *OVERLAYS)
    for name, template in pods(target).items()
    if is_service(template)
]


@pytest.mark.parametrize("target", OVERLAYS)
def test_all_four_services_are_there_and_start_as_themselves(target: str) -> None:
    deployments = {m["metadata"]["name"]: m for m in of_kind(target, "Deployment")}
    assert set(deployments) == {*(f"bucketline-{service}" for service in SERVICES), "bucketline-toolbox"}
    for service in SERVICES:
        (container,) = deployments[f"bucketline-{service}"]["spec"]["template"]["spec"]["containers"]
        assert "command" not in container  # the image's entry point is the console command
        assert container["args"] == ["serve", service]


@pytest.mark.parametrize(("target", "name"), EVERY_POD)
def test_pod_is_restricted(target: str, name: str) -> None:
    template = pods(target)[name]
    spec = template["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec)
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    for container in containers(template):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not security.get("privileged")
        assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize(("target", "name"), EVERY_POD)
def test_pod_has_limits_and_a_bounded_place_to_write(target: str, name: str) -> None:
    template = pods(target)[name]
    for container in containers(template):
        resources = container["resources"]
        for what in ("cpu", "memory"):
            assert 0 < quantity(resources["requests"][what]) <= quantity(resources["limits"][what])
        writable = {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"tmp"}
    scratch = [volume for volume in template["spec"]["volumes"] if "emptyDir" in volume]
    assert [volume["name"] for volume in scratch] == ["tmp"]
    assert scratch[0]["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize(("target", "name"), EVERY_POD)
def test_image_is_a_named_version(target: str, name: str) -> None:
    for container in containers(pods(target)[name]):
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        assert tag
        assert tag != "latest"


@pytest.mark.parametrize(("target", "name"), EVERY_POD)
def test_secrets_come_by_reference_only(target: str, name: str) -> None:
    for container in containers(pods(target)[name]):
        for variable in container.get("env", []):
            if re.search(r"PASSWORD|SECRET|_KEY|PEPPER|MONGODB_URL", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]
    assert bool(of_kind(target, "Secret")) == (target == "overlays/dev")


def test_only_the_named_secrets_are_asked_for() -> None:
    wanted: dict[str, set[str]] = {"base": set(), "overlays/production": set()}
    for target, names in wanted.items():
        for template in pods(target).values():
            names |= {
                variable["valueFrom"]["secretKeyRef"]["name"]
                for container in containers(template)
                for variable in container.get("env", [])
                if "secretKeyRef" in variable.get("valueFrom", {})
            }
            names |= {v["secret"]["secretName"] for v in template["spec"]["volumes"] if "secret" in v}
    ours = {"bucketline-mongodb", "bucketline-s3", "bucketline-kafka", "bucketline-api-key"}
    assert wanted["base"] == ours
    users = {m["metadata"]["name"] for m in of_kind("overlays/production", "KafkaUser")}
    assert wanted["overlays/production"] == ours | users - {"bucketline-subscriber"}


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_each_pod_gets_only_the_secrets_that_it_needs(target: str) -> None:
    def secrets(workload: str) -> set[str]:
        return {
            variable["name"]
            for container in containers(pods(target)[workload])
            for variable in container.get("env", [])
            if "secretKeyRef" in variable.get("valueFrom", {})
        }

    with_key = {name for name in pods(target) if "BUCKETLINE_API_KEY" in secrets(name)}
    assert with_key == {"Deployment/bucketline-ingest-api"}
    assert "BUCKETLINE_S3_SECRET_KEY" not in secrets("Deployment/bucketline-batcher")


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_a_key_made_in_the_toolbox_is_good_at_the_api(target: str) -> None:
    """What a key's hash is made of, whose key it is, and what URLs are signed for."""
    api, toolbox = "Deployment/bucketline-ingest-api", "Deployment/bucketline-toolbox"

    def pepper(workload: str) -> Any:
        (container,) = containers(pods(target)[workload])
        return [variable for variable in container["env"] if variable["name"] == "BUCKETLINE_API_KEY_PEPPER"]

    assert pepper(toolbox) == pepper(api) != []
    assert pepper(api)[0]["valueFrom"]["secretKeyRef"]["optional"] is True
    own = {"BUCKETLINE_KAFKA_SASL_USERNAME"}
    there, here = ({n: v for n, v in environment(target, w).items() if n not in own} for w in (api, toolbox))
    assert here == there


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_toolbox_ends_on_sigterm(target: str) -> None:
    """As process 1 it is not ended by a signal that it leaves to the default."""
    (container,) = containers(pods(target)["Deployment/bucketline-toolbox"])
    *shell, script = container["command"]
    assert shell == ["/bin/sh", "-c"]
    ready = [*shell, script.replace("sleep", "echo ready; sleep", 1)]
    with subprocess.Popen(ready, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.terminate()
            assert process.wait(timeout=10) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("target", "name"), SERVICE_PODS)
def test_probes_use_the_endpoints_of_the_service(target: str, name: str) -> None:
    (container,) = containers(pods(target)[name])
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", HttpSettings.model_fields["port"].default)
    answered = {route.path for route in health.Health().routes()}
    paths = {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in answered
        assert container[probe]["timeoutSeconds"] > health.CHECK_TIMEOUT_SECONDS
    # a start may take a while (groups join, indexes are made); a service that hangs is found within a minute
    startup, live = container["startupProbe"], container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert live["periodSeconds"] * live["failureThreshold"] <= 60


@pytest.mark.parametrize(("target", "name"), SERVICE_PODS)
def test_grace_period_is_longer_than_the_drain(target: str, name: str) -> None:
    template = pods(target)[name]
    (container,) = containers(template)
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert template["spec"]["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + pause + 10
    settings = environment(target, name)
    assert float(settings["BUCKETLINE_HTTP_SHUTDOWN_TIMEOUT_SECONDS"]) <= DRAIN_SECONDS - 10, (
        "the bus needs time after it"
    )
    assert (pause > 0) == (name == "Deployment/bucketline-ingest-api")


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_unused_content_is_collected_every_night_by_runs_that_end(target: str) -> None:
    spec = named(target, "CronJob", "bucketline-gc")["spec"]
    minute, hour, *days = spec["schedule"].split()
    assert 0 <= int(minute) < 60
    assert 0 <= int(hour) < 24
    assert days == ["*", "*", "*"]
    assert spec["timeZone"] == "Etc/UTC"
    assert spec["concurrencyPolicy"] == "Forbid"
    # a late start is still over before the next one is due, and below 100 seconds the controller might miss it
    assert 100 <= spec["startingDeadlineSeconds"] <= 12 * 3600
    assert spec["successfulJobsHistoryLimit"] >= 1
    assert spec["failedJobsHistoryLimit"] >= 1
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] <= 3
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    (container,) = containers(job["template"])
    assert "command" not in container
    options = parsed("gc", container["args"])
    # the run stops by itself, keeps its place, and is ended from outside only if it hangs
    assert options["max_minutes"] * 60 + 5 * 60 <= job["activeDeadlineSeconds"]
    assert options["grace_hours"] >= 24
    assert options["scan_bucket"] is True
    assert options["dry_run"] is False
    assert {v["name"] for v in container["env"] if "S3" in v["name"]} == {
        "BUCKETLINE_S3_ACCESS_KEY",
        "BUCKETLINE_S3_SECRET_KEY",
    }


def parsed(command: str, arguments: list[str]) -> dict[str, Any]:
    """What the command would be called with; an option that it does not know is an error."""
    assert arguments[0] == command
    (entry,) = [entry for entry in ENTRIES if entry.name == command]
    found: dict[str, Any] = load_command(entry).make_context(command, arguments[1:]).params
    return found


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_services_are_spread_and_protected_from_disruption(target: str) -> None:
    budgets = {m["metadata"]["name"]: m["spec"] for m in of_kind(target, "PodDisruptionBudget")}
    for manifest in of_kind(target, "Deployment"):
        name, template = manifest["metadata"]["name"], manifest["spec"]["template"]
        if not is_service(template):
            continue
        own = manifest["spec"]["selector"]
        assert budgets.pop(name) == {
            "maxUnavailable": 1,
            "selector": own,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }
        spread = template["spec"]["topologySpreadConstraints"]
        assert {c["topologyKey"] for c in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert all(constraint["labelSelector"] == own for constraint in spread)
    assert budgets == {}


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_selectors_find_exactly_their_own_pods(target: str) -> None:
    def owners(selector: dict[str, str]) -> set[str]:
        return {
            name
            for name, template in pods(target).items()
            if selector.items() <= template["metadata"]["labels"].items()
        }

    for manifest in of_kind(target, "Deployment"):
        name = manifest["metadata"]["name"]
        assert owners(manifest["spec"]["selector"]["matchLabels"]) == {f"Deployment/{name}"}
    (service,) = of_kind(target, "Service")
    assert owners(service["spec"]["selector"]) == {"Deployment/bucketline-ingest-api"}
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


@pytest.mark.parametrize("target", OVERLAYS)
def test_everything_is_in_a_namespace_that_enforces_the_restricted_profile(target: str) -> None:
    (namespace,) = of_kind(target, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others: list[Manifest] = [manifest for manifest in render(target) if manifest is not namespace]
    assert {manifest["metadata"]["namespace"] for manifest in others} == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_no_workload_shares_a_service_account_with_another_service(target: str) -> None:
    accounts = {name: template["spec"]["serviceAccountName"] for name, template in pods(target).items()}
    declared = {m["metadata"]["name"]: m for m in of_kind(target, "ServiceAccount")}
    assert set(accounts.values()) == set(declared)
    for service in SERVICES:
        assert accounts[f"Deployment/bucketline-{service}"] == f"bucketline-{service}"
    assert all(account["automountServiceAccountToken"] is False for account in declared.values())


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_upgrade_changes_no_immutable_field(target: str) -> None:
    """The template of a Job cannot be changed, so no workload may be a plain Job."""
    assert not of_kind(target, "Job")


def test_dev_overlay_uses_the_servers_and_credentials_of_backing() -> None:
    services = {m["metadata"]["name"]: m for m in of_kind("backing", "Service")}
    settings = environment("overlays/dev", "Deployment/bucketline-ingest-api")
    secrets = {m["metadata"]["name"].rsplit("-", 1)[0]: m["data"] for m in of_kind("overlays/dev", "Secret")}
    (database,) = (base64.b64decode(value).decode() for value in secrets["bucketline-mongodb"].values())
    addresses = {
        "kafka": settings["BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS"],
        "s3": settings["BUCKETLINE_S3_ENDPOINT_URL"].removeprefix("http://"),
        "mongodb": database.removeprefix("mongodb://").partition("/")[0],
    }
    for name, address in addresses.items():
        (port,) = services[name]["spec"]["ports"]
        assert address == f"{name}.{services[name]['metadata']['namespace']}.svc:{port['port']}"
    (identities,) = of_kind("backing", "ConfigMap")
    (identity,) = json.loads(identities["data"]["s3.json"])["identities"]
    pair = {key: base64.b64decode(value).decode() for key, value in secrets["bucketline-s3"].items()}
    assert identity["credentials"] == [{"accessKey": pair["access_key"], "secretKey": pair["secret_key"]}]
    labels = named("backing", "Namespace", "bucketline-backing")["metadata"]["labels"]
    assert {label for label in labels if "provides" in label} == {f"bucketline.io/provides-{n}" for n in addresses}


@pytest.mark.parametrize("name", ["mongodb", "kafka", "s3"])
def test_backing_pod_meets_the_restricted_profile(name: str) -> None:
    template = pods("backing")[f"StatefulSet/{name}"]
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = containers(template)
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["readinessProbe"]
    selector = {"matchLabels": named("backing", "Service", name)["spec"]["selector"]}
    assert selects(selector, template["metadata"]["labels"])


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_pod_name_is_defined_before_the_variable_that_contains_it(target: str) -> None:
    """Kubernetes replaces ``$(NAME)`` only by variables that stand before it."""
    for workload, template in pods(target).items():
        if workload.startswith("Deployment/"):
            (container,) = containers(template)
            names = [variable["name"] for variable in container["env"]]
            assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
