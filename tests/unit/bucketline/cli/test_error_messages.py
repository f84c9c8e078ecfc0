"""Plausible mistakes in settings and arguments: one line that names the cause, no traceback, nothing secret."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pymongo.errors import OperationFailure

from bucketline.cli.client import ApiClient, ApiError
from bucketline.cli.error_messages import explain

UNREACHABLE = {
    "BUCKETLINE_MONGODB_URL": "mongodb://127.0.0.1:1/?directConnection=true",
    "BUCKETLINE_MONGODB_SERVER_SELECTION_TIMEOUT_SECONDS": "0.3",
    "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "BUCKETLINE_S3_ENDPOINT_URL": "http://127.0.0.1:1",
}
SASL = {"BUCKETLINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}
MISTAKES = [
    (["doctor"], {"BUCKETLINE_KAFKA_SECURITY_PROTOCOL": "TLS"}, "BUCKETLINE_KAFKA_SECURITY_PROTOCOL=TLS", 1),
    (["topics", "check"], SASL, "BUCKETLINE_KAFKA_SASL_USERNAME", 1),
    (["doctor"], {"BUCKETLINE_S3_ENDPOINT_URL": "localhost:8333"}, "BUCKETLINE_S3_ENDPOINT_URL=localhost:8333", 1),
    (["serve", "dedup"], {"BUCKETLINE_HTTP_PORT": "abc"}, "BUCKETLINE_HTTP_PORT=abc", 1),
    (["serve", "dedup"], {"BUCKETLINE_DEDUP_MAX_REDIRECTS": "x"}, "BUCKETLINE_DEDUP_MAX_REDIRECTS=x", 1),
    (
        ["serve", "dedup"],
        {"BUCKETLINE_DEDUP_EXTERNAL_BUCKETS": "{"},
        "BUCKETLINE_DEDUP_EXTERNAL_BUCKETS is not valid JSON",
        1,
    ),
    (
        ["topics", "check"],
        {"BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS": "kafka:abc"},
        "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS=kafka:abc",
        1,
    ),
    (["topics", "check"], {}, "Kafka did not answer", 1),
    (["indexes"], {"BUCKETLINE_MONGODB_URL": "mongodb://u:secr@et@host:1/"}, "BUCKETLINE_MONGODB_URL", 1),
    (["indexes"], {"BUCKETLINE_MONGODB_URL": "mongodb://u:s/ecret@host:1/"}, "BUCKETLINE_MONGODB_URL", 1),
    (["indexes"], {"BUCKETLINE_MONGODB_DATABASE": "a b"}, "BUCKETLINE_MONGODB_DATABASE=a b", 1),
    (["indexes"], {}, "MongoDB did not answer", 1),
    (["dlq", "replay", "bucketline.objects.v1.dedup.dlq:0:0"], {}, "did not answer", 1),
    (["upload", __file__, "--key", "k", "--url", "nonsense"], {}, "--url", 2),
    (["upload", __file__, "--key", "k", "--url", "http://127.0.0.1:1"], {}, "did not answer", 1),
    (["keys", "create", "k", "--expires", "9999999d"], {}, "after the year 9999", 2),
    (
        ["events", "replay", "--bucket", "b", "--since", "1h", "--after", "99999999999999999:o"],
        {},
        "invalid replay cursor",
        2,
    ),
]


def run_command(arguments: list[str], environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """Return the exit code and the standard error of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "bucketline.cli.main", *arguments],
        env={**os.environ, **UNREACHABLE, "COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("arguments", "environment", "expected", "code"), MISTAKES)
def test_command_with_a_mistake_prints_its_cause_in_one_line(
    arguments: list[str], environment: dict[str, str], expected: str, code: int, tmp_path: Path
) -> None:
    ended, err = run_command(arguments, environment, tmp_path)
    assert expected in err, err
    assert ended == code
    assert "Traceback" not in err
    assert "ecret" not in err
    assert "Unclosed" not in err


def test_command_with_a_missing_certificate_file_names_it(tmp_path: Path) -> None:
    environment = {"BUCKETLINE_KAFKA_SECURITY_PROTOCOL": "SSL", "BUCKETLINE_KAFKA_SSL_CAFILE": "/nowhere/ca.crt"}
    code, err = run_command(["topics", "check"], environment, tmp_path)
    assert (code, "did not answer" in err) == (1, False)
    assert "BUCKETLINE_KAFKA_SSL_CAFILE=/nowhere/ca.crt: No such file" in err


async def test_client_with_a_response_that_is_not_json_raises_api_error() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")

    app = web.Application()
    app.router.add_post("/v1/namespaces", answer)
    async with TestServer(app) as server, ApiClient(str(server.make_url("/")), "k") as client:
        with pytest.raises(ApiError, match=r"502: .* did not return JSON; is it the API"):
            await client.post("/v1/namespaces", {})


def test_explain_of_a_refusal_by_mongodb_omits_the_full_response() -> None:
    error = OperationFailure("Authentication failed., full error: {'ok': 0.0, 'code': 18}", 18)
    found = explain(error)
    assert found is not None
    assert found.message == "MongoDB refused: Authentication failed."
    assert found.advice


@pytest.mark.parametrize("error", [ValueError("ours"), BrokenPipeError(), KeyError("ours")])
def test_explain_of_a_bug_is_none(error: Exception) -> None:
    assert explain(error) is None


def test_invalid_setting_with_a_secret_does_not_show_it(tmp_path: Path) -> None:
    code, err = run_command(
        ["serve", "dedup"], {"BUCKETLINE_DEDUP_EXTERNAL_BUCKETS": '[{"secret_key": ["s3cret"]}]'}, tmp_path
    )
    assert (code, "invalid BUCKETLINE_DEDUP_EXTERNAL_BUCKETS" in err, "s3cret" in err) == (1, True, False), err


def test_doctor_with_an_invalid_url_names_the_variable_without_the_password(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bucketline.cli.main", "doctor", "--json"],
        env={**os.environ, **UNREACHABLE, "BUCKETLINE_MONGODB_URL": "mongodb://u:s/ecr@et@host:1/"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "BUCKETLINE_MONGODB_URL is invalid" in done.stdout
    assert "ecr" not in done.stdout.replace("replicaSet", "")
    assert "Traceback" not in done.stderr
