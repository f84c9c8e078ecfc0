"""Settings from the environment."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from bucketline.http.ssrf import GuardPolicy
from bucketline_dedup.http_stream import FetchLimits
from bucketline_dedup.settings import DedupSettings


def test_defaults_are_those_of_guard_and_fetcher() -> None:
    assert DedupSettings().policy() == GuardPolicy()
    assert DedupSettings().limits() == FetchLimits()
    assert DedupSettings().file_roots == ()


def test_lists_are_read_from_words_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKETLINE_DEDUP_ALLOW_HOSTS", "files.corp.example, *.lan")
    monkeypatch.setenv("BUCKETLINE_DEDUP_ALLOW_NETWORKS", '["10.0.0.0/8", "fd00::/8"]')
    monkeypatch.setenv("BUCKETLINE_DEDUP_ALLOWED_PORTS", "80,443,8000-8002")
    monkeypatch.setenv("BUCKETLINE_DEDUP_FILE_ROOTS", "/srv/in")
    settings = DedupSettings()
    assert settings.policy() == GuardPolicy(
        allowed_ports=frozenset({80, 443, 8000, 8001, 8002}),
        allow_hosts=("files.corp.example", "*.lan"),
        allow_networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    )
    assert settings.file_roots == (Path("/srv/in"),)


def test_ports_star_allows_all_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKETLINE_DEDUP_ALLOWED_PORTS", "*")
    assert len(DedupSettings().allowed_ports) == 65535


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOW_NETWORKS", "10.0.0.0/99"),
        ("ALLOWED_PORTS", "0"),
        ("ALLOWED_PORTS", "http"),
        ("MAX_BYTES", "0"),
        ("EXTERNAL_BUCKETS", '[{"buckets":[]}]'),
        ("EXTERNAL_BUCKETS", '[{"buckets":["a"],"secert_key":"x"}]'),
    ],
)
def test_invalid_setting_raises_validation_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"BUCKETLINE_DEDUP_{name}", value)
    with pytest.raises(ValidationError):
        DedupSettings()


def test_secret_of_external_bucket_is_not_in_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "BUCKETLINE_DEDUP_EXTERNAL_BUCKETS", '[{"buckets":["partner-*"],"access_key":"id","secret_key":"hush"}]'
    )
    settings = DedupSettings()
    (access,) = settings.external_buckets
    assert (access.covers("partner-1"), access.covers("other")) == (True, False)
    assert access.secret_key == SecretStr("hush")
    assert "hush" not in f"{settings!r} {access!r}"
