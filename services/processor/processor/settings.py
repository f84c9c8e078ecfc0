"""Settings that only the processor has."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from bucketline.extraction import OutboundPolicy
from bucketline.outbound.settings import Words
from bucketline.settings import Block, Count, Seconds

MIB = 1024 * 1024


class ProcessorSettings(Block):
    """What is worked on at once, and what one object may use.

    ``units`` are worked on side by side and ``ahead`` more stand in line; ``objects`` extractions run in the event
    loop at once, and the objects that are being worked on take ``objects_bytes`` of the database's bytes at most. Of
    each, a batch uses no more than it leaves free: alone about half.
    CPU-bound extractors get ``workers`` processes with ``worker_memory`` bytes and ``worker_seconds`` each. An object
    gets ``object_attempts`` when an error is transient, ``object_seconds`` in each collection (without the time in
    which it waits for its turn), and room for ``documents_an_object`` documents of ``object_bytes``.

    A model server of a collection gets ``model_timeout`` seconds for an attempt, or less if its collection says so, and
    its answer may have ``model_answer_bytes``, which are held in memory; ``object_seconds`` are for all attempts.

    A processor with nothing to do takes up what nobody has had for ``idle_after`` seconds. One that is told to stop
    gives what is being extracted ``drain_seconds``, and the rest back. A unit with which ``careful_after`` processors
    died is worked on one object at a time; less than the batcher's ``unit_attempts``, or it never is.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_PROCESSOR_")

    units: Count = 8
    ahead: Count = 8
    objects: Count = 64
    objects_bytes: Count = 64 * MIB
    lease_seconds: Seconds = 30.0
    idle_after: Seconds = 3.0
    careful_after: Count = 2
    drain_seconds: Seconds = 5.0
    object_attempts: Count = 3
    object_seconds: Seconds = 900.0
    object_bytes: Count = 4096 * MIB
    documents_an_object: Count = 1_000_000
    workers: Count = 2
    worker_memory: Count = 1024 * MIB
    worker_seconds: Seconds = 120.0
    temp_dir: Path | None = None
    model_endpoints: Words = Field(
        default=(), description="URL prefixes that the http extractor may call, separated by commas."
    )
    model_secret: SecretStr | None = None
    model_timeout: Seconds = 60.0
    model_answer_bytes: Count = 16 * MIB

    def outbound(self) -> OutboundPolicy:
        """What extractors may call, and how."""
        return OutboundPolicy(
            allowed_endpoints=self.model_endpoints,
            signing_secret=self.model_secret.get_secret_value() if self.model_secret else None,
            max_response_bytes=self.model_answer_bytes,
            timeout=self.model_timeout,
        )
