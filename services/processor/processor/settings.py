"""Settings that only the processor has."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from bucketline.settings import Block, Count, Seconds


class ProcessorSettings(Block):
    """``units`` are worked on at once, ``objects`` of them side by side; CPU-bound extractors get ``workers``
    processes with ``worker_memory`` bytes and ``worker_seconds`` each."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_PROCESSOR_")

    units: Count = 8
    objects: Count = 64
    lease_seconds: Seconds = 30.0
    object_attempts: Count = 3
    workers: Count = 2
    worker_memory: Count = 1024 * 1024 * 1024
    worker_seconds: Seconds = 120.0
    temp_dir: Path | None = None
    documents_an_object: Count = 1_000_000
    model_endpoints: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="URL prefixes that the http extractor may call, separated by commas."
    )
    model_secret: SecretStr | None = None
