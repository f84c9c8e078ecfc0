"""The local stack and the services as the environment wants them: what has an address is not started here."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from bucketline.cli.environment import MARKER
from bucketline.devstack.downloads import ProgressCallback
from bucketline.devstack.servers import S3Endpoint
from bucketline.devstack.stack import LocalStack
from bucketline.devstack.supervisor import Event
from bucketline.errors import LocalStackError
from bucketline.settings import KafkaSettings, MongoSettings, S3Settings


def local_stack(
    data_dir: Path,
    progress: ProgressCallback,
    on_event: Callable[[Event], None] | None = None,
) -> LocalStack:
    """Return a stack of the parts that no ``BUCKETLINE_*`` variable gives an address for."""
    if (folder := os.environ.get(MARKER)) is not None:
        raise LocalStackError(
            f"the environment holds the variables of the local stack in {folder} ({MARKER} is set), so its servers "
            "would be used instead of being started. Use a shell that has not read an env file."
        )
    mongo, kafka, s3 = MongoSettings(), KafkaSettings(), S3Settings()
    own_s3 = None
    if s3.endpoint_url is not None:
        secret = s3.secret_key.get_secret_value() if s3.secret_key else ""
        own_s3 = S3Endpoint(s3.endpoint_url, s3.access_key or "", secret)
    return LocalStack(
        data_dir,
        mongodb_url=mongo.url.get_secret_value() if "url" in mongo.model_fields_set else None,
        kafka_bootstrap=kafka.bootstrap_servers if "bootstrap_servers" in kafka.model_fields_set else None,
        s3=own_s3,
        bucket=s3.bucket,
        progress=progress,
        on_event=on_event,
    )


def service_environment(stack: LocalStack, key: str) -> dict[str, str]:
    """Return what the services get: the stack's addresses, and over them whatever the user set for them."""
    # Not configuration of this process: the user's variables are handed on to the services, which read them.
    given = {name: value for name, value in os.environ.items() if name.startswith("BUCKETLINE_")}
    return {**stack.environment(), **given, "BUCKETLINE_API_KEY": key}


def load_or_create_key(path: Path) -> str:
    """The admin key of a local deployment: made once, kept where only its user can read it."""
    if path.exists():
        return path.read_text().strip()
    key = f"sk_local_{secrets.token_urlsafe(24)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(key)
    return key
