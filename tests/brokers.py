"""The brokers that tests run on: the light one of the local stack, and Apache Kafka, which production has."""

import shutil

import pytest
from tests.requirements import EVERYTHING

from bucketline.devstack.stack import Broker, LocalStack
from bucketline.settings import KafkaSettings

needs_java = pytest.mark.skipif(
    not EVERYTHING and not (shutil.which("java") and shutil.which("mvn")),
    reason="Apache Kafka itself needs java and mvn",
)
"""Where everything has to be there, a missing one is an error and not a skipped test."""

LIGHT: Broker = "tansu"
EACH_BROKER = ["tansu", pytest.param("kafka", marks=needs_java)]
"""For ``pytest.mark.parametrize("broker", EACH_BROKER)``."""


def kafka_settings(stack: LocalStack, **own: object) -> KafkaSettings:
    """Settings for the broker of ``stack`` as its services have them, with ``own`` on top."""
    environment = stack.environment()
    idempotent = environment["BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE"] == "true"
    return KafkaSettings.model_validate(
        {"bootstrap_servers": stack.kafka_bootstrap, "enable_idempotence": idempotent, **own}
    )
