"""Reading settings from keyword arguments, the environment and a .env file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from bucketline.settings import KafkaSettings, MongoSettings, ObservabilitySettings, read_settings


def test_settings_with_unknown_keyword_argument_raise() -> None:
    misspelt = {"databse": "x"}
    with pytest.raises(TypeError, match="MongoSettings has no settings named databse"):
        MongoSettings(**misspelt)  # type: ignore[arg-type]  # what the test is about


def test_settings_accept_the_name_and_the_alias_of_a_field() -> None:
    aliased = {"OTEL_TRACES_SAMPLER_ARG": 0.5}
    settings = ObservabilitySettings(otlp_endpoint="http://collector", **aliased)  # type: ignore[arg-type]
    assert (settings.otlp_endpoint, settings.sample_ratio) == ("http://collector", 0.5)


def test_settings_ignore_variables_of_other_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("BUCKETLINE_MONGODB_DATABASE=file\nBUCKETLINE_S3_REGION=eu\nBUCKETLINE_X=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUCKETLINE_MONGODB_UNKNOWN", "1")
    monkeypatch.setenv("BUCKETLINE_KAFKA_TOPIC_PREFIX", "environment.")
    settings = read_settings("dedup")
    assert (settings.mongo.database, settings.s3.region) == ("file", "eu")
    assert settings.kafka.topic_prefix == "environment."
    assert MongoSettings(database="argument").database == "argument"


@pytest.mark.parametrize("servers", ["", "kafka:0", "kafka:65536", "kafka:x", "a:1,", "http://kafka:9092"])
def test_kafka_settings_with_invalid_bootstrap_servers_raise(servers: str) -> None:
    with pytest.raises(ValidationError, match="not of the form host:port"):
        KafkaSettings(bootstrap_servers=servers)
