"""The extractor interface: all that is needed to write one. Imports nothing heavy.

``services/processor/README.md`` teaches how to write, test and install an extractor.
"""

from bucketline.extraction.errors import (
    ErrorKind,
    ExtractionError,
    PermanentError,
    ResourceError,
    TransientError,
)
from bucketline.extraction.interface import (
    BlobSource,
    BlobView,
    DerivedBlob,
    Document,
    ExtractionContext,
    Extractor,
    ExtractorInfo,
    ObjectView,
    OutboundPolicy,
    selected_blobs,
)
from bucketline.extraction.registry import (
    BrokenExtractor,
    ExtractorRegistry,
    UnknownExtractor,
    validate_parameters,
)
from bucketline.extraction.sources import FileSource, MemorySource

__all__ = [
    "BlobSource",
    "BlobView",
    "BrokenExtractor",
    "DerivedBlob",
    "Document",
    "ErrorKind",
    "ExtractionContext",
    "ExtractionError",
    "Extractor",
    "ExtractorInfo",
    "ExtractorRegistry",
    "FileSource",
    "MemorySource",
    "ObjectView",
    "OutboundPolicy",
    "PermanentError",
    "ResourceError",
    "TransientError",
    "UnknownExtractor",
    "selected_blobs",
    "validate_parameters",
]
