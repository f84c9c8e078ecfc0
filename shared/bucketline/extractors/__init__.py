"""The extractor interface: all that is needed to write one. Imports nothing heavy.

``services/processor/README.md`` teaches how to write, test and install an extractor.
"""

from bucketline.extractors.api import (
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
from bucketline.extractors.errors import ErrorKind, ExtractionError, PermanentError, ResourceError, TransientError
from bucketline.extractors.local_files import FileSource, MemorySource
from bucketline.extractors.registry import BrokenExtractor, ExtractorRegistry, UnknownExtractor, validate_parameters

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
