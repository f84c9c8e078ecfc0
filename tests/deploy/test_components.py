"""Every component goes with the base alone: what an overlay leaves out is not missed by the others."""

import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
from tests.deploy.rendering import COMPONENTS, containers, environment, named, of_kind, pods, render, with_component
from tests.deploy.test_network import INSIDE, INTERNET, labels_of, may_leave_to
from tests.deploy.test_schemas import NEWEST, is_core

from bucketline.settings import KafkaSettings


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_renders_with_the_base_alone(name: str) -> None:
    target = with_component(name)
    for manifest in render(target):
        if is_core(manifest):
            assert kubernetes_validate.validate(manifest, NEWEST[-1], strict=True) == NEWEST[-1]
    assert set(pods(target)) == set(pods("base")) | ({"Deployment/bucketline-console"} if name == "console" else set())


@pytest.mark.parametrize(("component", "service"), [("batch-webhooks", "batcher"), ("webhooks", "ingest-api")])
def test_webhook_component_lets_one_service_reach_public_addresses_only(component: str, service: str) -> None:
    target = with_component(component)

    def reach(address: str) -> set[str]:
        return {name for name, labels in labels_of(target).items() if may_leave_to(target, labels, address, 443)}

    assert all(reach(address) == {"dedup", service} for address in INTERNET)
    assert not any(reach(address) for address in INSIDE)


def test_console_reaches_the_api_with_no_secret_and_nothing_else_changes() -> None:
    target = with_component("console")
    (container,) = containers(pods(target)["Deployment/bucketline-console"])
    assert container["args"] == ["serve", "console"]
    assert [variable["name"] for variable in container["env"]] == ["BUCKETLINE_CONSOLE_API_URL"]
    service = named(target, "Service", "bucketline-ingest-api")
    assert container["env"][0]["value"] == f"http://{service['metadata']['name']}"
    own = pods(target)["Deployment/bucketline-console"]["metadata"]["labels"]
    (egress, _) = named(target, "NetworkPolicy", "bucketline-console")["spec"]["egress"]
    (ingress,) = named(target, "NetworkPolicy", "bucketline-console-to-api")["spec"]["ingress"]
    assert egress["to"][0]["podSelector"]["matchLabels"].items() <= service["spec"]["selector"].items()
    assert ingress["from"][0]["podSelector"]["matchLabels"].items() <= own.items()
    assert {name: template for name, template in pods(target).items() if "console" not in name} == pods("base")


def secrets_of(target: str) -> dict[str, set[str]]:
    """The Secrets that each workload reads, from variables and volumes."""
    return {
        workload: {
            *(
                variable["valueFrom"]["secretKeyRef"]["name"]
                for container in containers(template)
                for variable in container["env"]
                if "secretKeyRef" in variable.get("valueFrom", {})
            ),
            *(volume["secret"]["secretName"] for volume in template["spec"]["volumes"] if "secret" in volume),
        }
        for workload, template in pods(target).items()
    }


def mounts_of(target: str, workload: str) -> dict[str, str]:
    """The path of each volume in a container."""
    (container,) = containers(pods(target)[workload])
    volumes = {volume["name"] for volume in pods(target)[workload]["spec"]["volumes"]}
    mounts = {mount["name"]: str(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert set(mounts) == volumes
    return mounts


def kafka_settings(target: str, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    for name, value in environment(target, "Deployment/bucketline-dedup").items():
        monkeypatch.setenv(name, value)
    return KafkaSettings(_env_file=None)


def test_workload_identity_uses_no_keys_of_s3() -> None:
    before, after = secrets_of("base"), secrets_of(with_component("workload-identity"))
    assert "bucketline-s3" in before["CronJob/bucketline-gc"]
    assert after == {workload: secrets - {"bucketline-s3"} for workload, secrets in before.items()}


def test_private_ca_is_mounted_where_the_settings_look_for_it() -> None:
    target = with_component("private-ca")
    for workload in pods(target):
        path = environment(target, workload)["BUCKETLINE_S3_SSL_CAFILE"]
        assert path == f"{mounts_of(target, workload)['ca']}/ca.crt"


def test_public_ca_of_kafka_needs_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    target = with_component("keda", "kafka-public-ca")
    for workload in pods(target):
        assert set(mounts_of(target, workload)) == {"tmp"}
    assert not kafka_settings(target, monkeypatch).ssl_cafile
    assert named(target, "TriggerAuthentication", "bucketline-kafka")["spec"]["secretTargetRef"] == []


@pytest.mark.parametrize("components", [("keda", "kafka-mtls"), ("keda", "kafka-public-ca", "kafka-mtls")])
def test_mutual_tls_replaces_the_password_of_kafka(components: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    target = with_component(*components)
    settings = kafka_settings(target, monkeypatch)
    mounts = mounts_of(target, "Deployment/bucketline-dedup")
    assert settings.security_protocol == "SSL"
    assert settings.ssl_certfile == f"{mounts['kafka-client']}/tls.crt"
    assert settings.ssl_keyfile == f"{mounts['kafka-client']}/tls.key"
    authentication = named(target, "TriggerAuthentication", "bucketline-kafka")["spec"]
    assert "env" not in authentication
    assert {entry["parameter"] for entry in authentication["secretTargetRef"]} - {"ca"} == {"cert", "key"}
    for scaled in of_kind(target, "ScaledObject"):
        assert {trigger["metadata"]["sasl"] for trigger in scaled["spec"]["triggers"]} == {"none"}
    names = {variable["name"] for pod in pods(target).values() for c in containers(pod) for variable in c["env"]}
    assert not {name for name in names if "SASL" in name}


def test_oauth_token_of_the_service_account_is_where_the_settings_look_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = with_component("kafka-oauth")
    settings = kafka_settings(target, monkeypatch)
    assert settings.sasl_mechanism == "OAUTHBEARER"
    assert settings.sasl_token_file == f"{mounts_of(target, 'Deployment/bucketline-dedup')['kafka-token']}/token"
    for workload, secrets in secrets_of(target).items():
        (container,) = containers(pods(target)[workload])
        assert not {variable["name"] for variable in container["env"] if "SASL" in variable["name"]}
        assert "bucketline-mongodb" in secrets
