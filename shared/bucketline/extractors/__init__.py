"""The extractor interface: everything that an extractor needs.

``services/processor/README.md`` explains how to write, test and install an extractor. Importing this package is cheap.
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
