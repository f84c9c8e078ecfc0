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

    units: Count = 8
    """Units that are worked on side by side."""
    ahead: Count = 8
    """Units that stand in line behind them."""
    objects: Count = 64
    """Extractions that run in the event loop at once."""
    objects_bytes: Count = 64 * MIB
    """What the objects that are being worked on take at most of the database's bytes."""
    lease_seconds: Seconds = 30.0
    """After so long a dead processor's units are taken over."""
    idle_after: Seconds = 3.0
    """A processor with nothing to do takes up what nobody has had for so long."""
    careful_after: Count = 2
    """A unit with which so many processors died is worked on one object at a time; less than the batcher's
    ``unit_attempts``, or it never is."""
    drain_seconds: Seconds = 5.0
    """For what is being extracted when the service stops; the rest is given back."""
    object_attempts: Count = 3
    """Attempts for an object whose error is transient."""
    object_seconds: Seconds = 900.0
    """For an object in each collection, all attempts together, without the time in which it waits for its turn."""
    object_bytes: Count = 4096 * MIB
    """Most bytes of the documents that a collection makes of an object."""
    documents_an_object: Count = 1_000_000
    """Most documents that a collection makes of an object."""
    workers: Count = 2
    """Processes for CPU-bound extractors."""
    worker_memory: Count = 1024 * MIB
    """Most bytes of such a process, libraries included."""
    worker_seconds: Seconds = 120.0
    """For an object in such a process, without the time that its blobs take to arrive."""
    temp_dir: Path | None = None
    """Where blobs and documents are kept while they are worked on; unset, where the system keeps such files."""
    model_endpoints: StringList = ()
    """URL prefixes that the http extractor may call, separated by commas."""
    model_secret: SecretStr | None = None
    """Signs what is sent to model servers; unset, nothing is signed."""
    model_timeout: Seconds = 60.0
    """For an attempt of a model server; a collection may ask for less."""
    model_answer_bytes: Count = 16 * MIB
    """Most bytes of a model server's answer, which are held in memory."""

    def outbound(self) -> OutboundPolicy:
        """What extractors may call, and how."""
        return OutboundPolicy(
            allowed_endpoints=self.model_endpoints,
            signing_secret=self.model_secret.get_secret_value() if self.model_secret else None,
            max_response_bytes=self.model_answer_bytes,
            timeout=self.model_timeout,
        )
