"""What ``bucketline up`` prints of where things are, and what it refuses before it starts anything."""

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bucketline.cli.environment import MARKER
from bucketline.cli.main import app
from bucketline.cli.up import describe_addresses
from bucketline.devstack.reservations import LOOPBACK, reserve_ports
from bucketline.devstack.servers import S3Endpoint
from bucketline.devstack.stack import LocalStack


@pytest.mark.parametrize("password", ["s3cret", "s3/cr@et", "s3?cret"])
def test_describe_addresses_does_not_show_secrets_of_the_user(password: str, tmp_path: Path) -> None:
    stack = LocalStack(
        tmp_path,
        mongodb_url=f"mongodb://me:{password}@db:27017/?authMechanismProperties=AWS_SESSION_TOKEN:t0ken",
        kafka_bootstrap="kafka:9092",
        s3=S3Endpoint("https://s3.example.com", "AKIA1", "the-secret"),
    )
    assert dict(describe_addresses(stack)) == {
        "MongoDB": "mongodb://<as given>@db:27017/",
        "Kafka": "kafka:9092",
        "S3": "https://s3.example.com (key and secret <as given>)",
    }


@pytest.mark.parametrize("host", [LOOPBACK, "0.0.0.0"])  # noqa: S104 - such a server takes the port as well
def test_up_on_a_used_port_fails_with_the_process_and_starts_nothing(host: str, tmp_path: Path) -> None:
    with socket.create_server((host, 0)) as listening:
        port = listening.getsockname()[1]
        result = CliRunner().invoke(app, ["up", "--port", str(port), "--data", str(tmp_path / "data")])
    assert result.exit_code == 1
    error = result.stderr.replace("\n", "")
    assert f"port {port} of {LOOPBACK} is in use by process {os.getpid()} (" in error
    assert "--port or BUCKETLINE_PORT" in error
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["up", "demo"])
def test_up_with_the_variables_of_another_stack_fails(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would make it use that stack's servers, which may be gone."""
    monkeypatch.setenv(MARKER, ".bucketline/8080")
    lease = reserve_ports(1)
    (port,) = lease.ports
    lease.release()
    options = ["--port", str(port), "--data", str(tmp_path)] if command == "up" else []
    result = CliRunner().invoke(app, [command, *options])
    assert result.exit_code == 1
    assert ".bucketline/8080" in result.stderr
    assert MARKER in result.stderr.replace("\n", "")
