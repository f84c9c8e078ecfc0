"""What ``bucketline up`` prints of where things are."""

from pathlib import Path

import pytest

from bucketline.cli.up import addresses
from bucketline.local.stack import LocalStack, S3Address


@pytest.mark.parametrize("password", ["s3cret", "s3/cr@et", "s3?cret"])
def test_secrets_that_were_given_are_not_printed(password: str, tmp_path: Path) -> None:
    stack = LocalStack(
        tmp_path,
        mongodb_url=f"mongodb://me:{password}@db:27017/?authMechanismProperties=AWS_SESSION_TOKEN:t0ken",
        kafka_bootstrap="kafka:9092",
        s3=S3Address("https://s3.example.com", "AKIA1", "the-secret"),
    )
    told = dict(addresses(stack))
    assert told == {
        "MongoDB": "mongodb://<as given>@db:27017/",
        "Kafka": "kafka:9092",
        "S3": "https://s3.example.com (key and secret <as given>)",
    }
