"""compose.yaml: official servers at exact versions, everything healthy in order, the services locked down."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.rendering import DEPLOY

from bucketline.server import DRAIN_SECONDS
from bucketline.settings import SERVICES, HttpSettings, KafkaSettings, MongoSettings, S3Settings

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVERS = {"kafka": "apache/kafka", "mongodb": "mongo", "s3": "chrislusf/seaweedfs"}


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = COMPOSE["services"][name]
    return found


def test_file_passes_the_compose_specification() -> None:
    tool = Path(sys.executable).parent / "check-jsonschema"
    command: list[str | Path] = [tool, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_everything_is_there_and_nothing_else() -> None:
    assert set(COMPOSE["services"]) == {*SERVERS, "setup", *SERVICES}


@pytest.mark.parametrize(("name", "image"), SERVERS.items())
def test_servers_are_official_images_at_an_exact_version(name: str, image: str) -> None:
    assert re.fullmatch(re.escape(image) + r":\d+\.\d+(\.\d+)?(@sha256:[0-9a-f]{64})?", service(name)["image"])


def test_everything_becomes_healthy_in_order() -> None:
    assert service("setup")["depends_on"] == {name: {"condition": "service_healthy"} for name in SERVERS}
    for ours in SERVICES:
        assert service(ours)["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}
    for name in (*SERVERS, *SERVICES):
        check = service(name)["healthcheck"]
        assert check["test"][0] == "CMD"
        assert check["retries"] >= 3
    assert service("setup")["healthcheck"] == {"disable": True}


@pytest.mark.parametrize("name", SERVICES)
def test_services_run_as_themselves_with_nothing_to_write_to_but_tmp(name: str) -> None:
    found = service(name)
    assert found["command"] == ["serve", name]
    assert found["read_only"] is True
    assert found["user"] == "10001:10001"
    assert found["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in found["security_opt"]
    assert [mount.partition(":")[0] for mount in found["tmpfs"]] == ["/tmp"]
    assert int(found["stop_grace_period"].removesuffix("s")) >= DRAIN_SECONDS + 10
    assert "http://127.0.0.1:8080/ready" in found["healthcheck"]["test"][-1]
    assert "privileged" not in found


def test_only_loopback_is_published() -> None:
    published = [port for found in COMPOSE["services"].values() for port in found.get("ports", [])]
    assert sorted(published) == ["127.0.0.1:8080:8080", "127.0.0.1:8333:8333"]


def test_the_key_is_asked_for_and_not_written_down() -> None:
    with_key = {name for name in SERVICES if "BUCKETLINE_API_KEY" in service(name)["environment"]}
    assert with_key == {"ingest-api"}
    assert service("ingest-api")["environment"]["BUCKETLINE_API_KEY"].startswith("${BUCKETLINE_API_KEY:?")


def test_the_services_look_for_the_servers_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service("dedup")["environment"].items():
        monkeypatch.setenv(name, value)

    replica_set = service("mongodb")["command"][service("mongodb")["command"].index("--replSet") + 1]
    assert MongoSettings().url.get_secret_value() == f"mongodb://mongodb:27017/?replicaSet={replica_set}"
    advertised = service("kafka")["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert advertised == f"PLAINTEXT://{KafkaSettings().bootstrap_servers}"
    assert KafkaSettings().enable_idempotence is True
    s3 = S3Settings()
    assert s3.endpoint_url == "http://s3:8333"
    assert s3.secret_key is not None
    identity = COMPOSE["configs"]["s3-identities"]["content"]
    assert f'"accessKey": "{s3.access_key}"' in identity
    assert f'"secretKey": "{s3.secret_key.get_secret_value()}"' in identity
    assert HttpSettings().port == 8080


def test_only_the_setup_creates_topics() -> None:
    assert "bucketline topics create" in service("setup")["command"][0]
    assert "bucketline indexes" in service("setup")["command"][0]
    assert service("kafka")["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
