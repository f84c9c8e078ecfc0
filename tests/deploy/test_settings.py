"""Every BUCKETLINE_* variable that deploy/ sets is one that a settings class reads, with a value that it takes."""

import importlib
import pkgutil
import re

import pytest
from tests.deploy.rendering import DEPLOY, OVERLAYS, containers, environment, pods, quantity, variables

from bucketline.settings import HttpSettings, SettingsBase
from bucketline_dedup.settings import DedupSettings
from bucketline_processor.settings import ProcessorSettings

MEBIBYTE = 1024 * 1024
IN_USE = {
    "ingest-api": 165 * MEBIBYTE,
    "dedup": 165 * MEBIBYTE,
    "batcher": 125 * MEBIBYTE,
    "processor": 130 * MEBIBYTE,
}
"""Resident memory of each service after a load of small objects, as `make bench` measured it."""
LARGE_SOURCE = 70 * MEBIBYTE
"""What dedup takes above idle while it mirrors a source of 2 GiB, also from there. Its README and the root's say so."""
BODY_COSTS = 5
"""Bytes of memory that each byte of a large request takes until it is answered: 45 MiB of base64 took 290."""

PACKAGES = ("bucketline", "bucketline_ingest_api", "bucketline_dedup", "bucketline_batcher", "bucketline_processor")


def blocks() -> set[type[SettingsBase]]:
    """Every settings class of every package."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.iter_modules(found.__path__, f"{package}."):
            if module.name.endswith(".settings"):
                importlib.import_module(module.name)
    known: set[type[SettingsBase]] = set()
    waiting: list[type[SettingsBase]] = [SettingsBase]
    while waiting:
        for block in waiting.pop().__subclasses__():
            if block.__module__.partition(".")[0] in PACKAGES:
                known.add(block)
                waiting.append(block)
    return known


def readable() -> dict[str, tuple[type[SettingsBase], str]]:
    return {
        str(info.validation_alias or f"{block.model_config.get('env_prefix', '')}{field}").upper(): (block, field)
        for block in blocks()
        for field, info in block.model_fields.items()
    }


def test_the_settings_of_all_packages_are_found() -> None:
    assert {"BUCKETLINE_MONGODB_URL", "BUCKETLINE_API_KEY", "BUCKETLINE_HTTP_PORT"} <= set(readable())


def test_every_setting_is_described_where_it_is_declared() -> None:
    bare = [
        f"{block.__name__}.{name}" for block, name in readable().values() if not block.model_fields[name].description
    ]
    assert bare == []


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_variables_of_the_manifests_are_known(target: str) -> None:
    names = {name for name in variables(target) if name.startswith("BUCKETLINE_")}
    assert len(names) > 10
    assert names <= set(readable()), sorted(names - set(readable()))


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_nothing_is_set_that_no_settings_class_would_read(target: str) -> None:
    """``OTEL_RESOURCE_ATTRIBUTES`` contains ``POD_NAME``."""
    assert {name for name in variables(target) if not name.startswith(("BUCKETLINE_", "OTEL_"))} == {"POD_NAME"}


@pytest.mark.parametrize("file", ["Dockerfile", "compose.yaml", "k8s/README.md", "k8s/runbooks.md"])
def test_variables_elsewhere_are_known(file: str) -> None:
    text = (DEPLOY / file).read_text(encoding="utf-8")
    names = set(re.findall(r"BUCKETLINE_[A-Z0-9]+(?:_[A-Z0-9]+)*", text))
    assert names <= set(readable()), sorted(names - set(readable()))


@pytest.mark.parametrize("target", OVERLAYS)
def test_values_are_ones_that_the_settings_take(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for workload in pods(target):
        values = environment(target, workload)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        for block in {readable()[name][0] for name in values if name != "OTEL_RESOURCE_ATTRIBUTES"}:
            block(_env_file=None)
        for name in values:
            monkeypatch.delenv(name)


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_a_service_listens_where_its_probes_ask(target: str) -> None:
    for workload, template in pods(target).items():
        (container,) = containers(template)
        for port in container.get("ports", []):
            settings = environment(target, workload)
            assert settings["BUCKETLINE_HTTP_HOST"] == "0.0.0.0"  # noqa: S104 - a pod is reached from outside of it
            assert int(settings["BUCKETLINE_HTTP_PORT"]) == port["containerPort"]
    assert HttpSettings.model_fields["port"].default == 8080


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_memory_limits_fit_the_settings(target: str) -> None:
    """What the settings bound, as large as they let it be, beside what the service itself was measured to take."""

    def spare(service: str) -> float:
        (container,) = containers(pods(target)[f"Deployment/bucketline-{service}"])
        return quantity(container["resources"]["limits"]["memory"]) - IN_USE[service]

    def allowed(block: type[SettingsBase], service: str, *fields: str) -> list[int]:
        values = environment(target, f"Deployment/bucketline-{service}")
        prefix = block.model_config.get("env_prefix", "")
        return [int(values.get(f"{prefix}{field}".upper(), block.model_fields[field].default)) for field in fields]

    (bodies,) = allowed(HttpSettings, "ingest-api", "max_inflight_body_bytes")
    assert spare("ingest-api") >= BODY_COSTS * bodies
    workers, each = allowed(ProcessorSettings, "processor", "worker_processes", "worker_memory_bytes")
    assert spare("processor") >= workers * each
    small, streams = allowed(DedupSettings, "dedup", "memory_bytes", "max_large_transfers")
    assert spare("dedup") >= small + streams * LARGE_SOURCE
    assert spare("batcher") >= 64 * MEBIBYTE


def test_production_settings_are_durable_and_create_nothing() -> None:
    settings = environment("overlays/production", "Deployment/bucketline-ingest-api")
    assert settings["BUCKETLINE_KAFKA_CREATE_TOPICS"] == "false"
    assert settings["BUCKETLINE_S3_CREATE_BUCKET"] == "false"
    assert settings["BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE"] == "true"
    assert settings["BUCKETLINE_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    assert settings["BUCKETLINE_LOG_FORMAT"] == "json"
