"""Settings that only the processor has."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from bucketline.extractors import OutboundPolicy
from bucketline.http.settings import StringList
from bucketline.settings import Count, Seconds, SettingsBase

MIB = 1024 * 1024


class ProcessorSettings(SettingsBase):
    """Concurrency of the processor and limits for one object.

    Of units, objects and bytes in flight, one batch uses no more than it leaves free: alone, about half.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_PROCESSOR_")

    max_concurrent_units: Count = 8
    """Units that are processed concurrently."""
    prefetch_units: Count = 8
    """Units that are queued behind them."""
    max_concurrent_objects: Count = 64
    """Extractions that run in the event loop concurrently."""
    max_inflight_bytes: Count = 64 * MIB
    """Bytes of the objects in progress, as they are stored in MongoDB."""
    lease_seconds: Seconds = 30.0
    """Time after which other processors take the units of a processor that died."""
    orphan_claim_delay_seconds: Seconds = 3.0
    """Time for which a unit must have had no holder before a processor with free slots claims it."""
    isolate_after_crashes: Count = 2
    """Crashes after which a unit is processed one object at a time; must be less than the batcher's
    ``unit_max_crashes`` to take effect."""
    shutdown_grace_seconds: Seconds = 5.0
    """Time that running objects have to complete when the service stops; other units are released."""
    object_max_attempts: Count = 3
    """Attempts for an object whose error is transient."""
    object_timeout_seconds: Seconds = 900.0
    """Time limit for an object in each collection, for all attempts together, without waiting for a slot."""
    max_document_bytes_per_object: Count = 4096 * MIB
    """Bytes of the documents that a collection makes of an object."""
    max_documents_per_object: Count = 1_000_000
    """Documents that a collection makes of an object."""
    worker_processes: Count = 2
    """Processes for CPU-bound extractors."""
    worker_memory_bytes: Count = 1024 * MIB
    """Memory of such a process, libraries included."""
    worker_timeout_seconds: Seconds = 120.0
    """Time limit for an object in such a process, without the time that its blobs take to arrive."""
    temp_dir: Path | None = None
    """Folder for blobs and documents in progress; unset, the system's temporary folder."""
    http_extractor_allowed_urls: StringList = ()
    """URL prefixes that the http extractor may call, separated by commas."""
    http_extractor_signing_secret: SecretStr | None = None
    """Secret that signs requests to model servers; unset, they are not signed."""
    http_extractor_timeout_seconds: Seconds = 60.0
    """Time limit for a request to a model server; a collection may set a shorter one."""
    http_extractor_max_response_bytes: Count = 16 * MIB
    """Bytes of a model server's response, which is held in memory."""

    def outbound(self) -> OutboundPolicy:
        """Return what extractors may call, and how."""
        secret = self.http_extractor_signing_secret
        return OutboundPolicy(
            allowed_endpoints=self.http_extractor_allowed_urls,
            signing_secret=secret.get_secret_value() if secret else None,
            max_response_bytes=self.http_extractor_max_response_bytes,
            timeout=self.http_extractor_timeout_seconds,
        )
