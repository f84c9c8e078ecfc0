"""Settings that only the processor has."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from bucketline.extractors import OutboundPolicy
from bucketline.http.settings import StringList
from bucketline.settings import Count, Seconds, SettingsBase

MIB = 1024 * 1024


class ProcessorSettings(SettingsBase):
    """What is worked on at once, and what one object may use.

    Of ``units``, ``objects`` and ``objects_bytes`` a batch uses no more than it leaves free: alone about half.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_PROCESSOR_")

    max_concurrent_units: Count = 8
    """Units that are worked on side by side."""
    prefetch_units: Count = 8
    """Units that stand in line behind them."""
    max_concurrent_objects: Count = 64
    """Extractions that run in the event loop at once."""
    max_inflight_bytes: Count = 64 * MIB
    """What the objects that are being worked on take at most of the database's bytes."""
    lease_seconds: Seconds = 30.0
    """After so long a dead processor's units are taken over."""
    orphan_claim_delay_seconds: Seconds = 3.0
    """A processor with nothing to do takes up what nobody has had for so long."""
    isolate_after_crashes: Count = 2
    """A unit with which so many processors died is worked on one object at a time; less than the batcher's
    ``unit_attempts``, or it never is."""
    shutdown_grace_seconds: Seconds = 5.0
    """For what is being extracted when the service stops; the rest is given back."""
    object_max_attempts: Count = 3
    """Attempts for an object whose error is transient."""
    object_timeout_seconds: Seconds = 900.0
    """For an object in each collection, all attempts together, without the time in which it waits for its turn."""
    max_document_bytes_per_object: Count = 4096 * MIB
    """Most bytes of the documents that a collection makes of an object."""
    max_documents_per_object: Count = 1_000_000
    """Most documents that a collection makes of an object."""
    worker_processes: Count = 2
    """Processes for CPU-bound extractors."""
    worker_memory_bytes: Count = 1024 * MIB
    """Most bytes of such a process, libraries included."""
    worker_timeout_seconds: Seconds = 120.0
    """For an object in such a process, without the time that its blobs take to arrive."""
    temp_dir: Path | None = None
    """Where blobs and documents are kept while they are worked on; unset, where the system keeps such files."""
    http_extractor_allowed_urls: StringList = ()
    """URL prefixes that the http extractor may call, separated by commas."""
    http_extractor_signing_secret: SecretStr | None = None
    """Signs what is sent to model servers; unset, nothing is signed."""
    http_extractor_timeout_seconds: Seconds = 60.0
    """For an attempt of a model server; a collection may ask for less."""
    http_extractor_max_response_bytes: Count = 16 * MIB
    """Most bytes of a model server's answer, which are held in memory."""

    def outbound(self) -> OutboundPolicy:
        """What extractors may call, and how."""
        return OutboundPolicy(
            allowed_endpoints=self.http_extractor_allowed_urls,
            signing_secret=self.http_extractor_signing_secret.get_secret_value()
            if self.http_extractor_signing_secret
            else None,
            max_response_bytes=self.http_extractor_max_response_bytes,
            timeout=self.http_extractor_timeout_seconds,
        )
