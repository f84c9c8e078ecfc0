from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from bucketline.extractors import (
    BlobView,
    Document,
    ExtractionContext,
    Extractor,
    ObjectView,
    OutboundPolicy,
    validate_parameters,
)


class JsonDocument(Document):
    """A document whose fields tests index as parsed JSON."""

    fields: dict[str, Any]


DocumentsOf = Callable[..., Awaitable[list[JsonDocument]]]


@pytest.fixture
def documents_of() -> DocumentsOf:
    """Run an extractor on blobs, with parameters checked as the API checks them."""

    async def run(
        extractor: Extractor,
        *blobs: BlobView,
        parameters: Mapping[str, object] | None = None,
        inputs: Mapping[str, object] | None = None,
        fields: Mapping[str, object] | None = None,
        outbound: OutboundPolicy | None = None,
    ) -> list[JsonDocument]:
        obj = ObjectView("obj_1", "bkt_1", "ns_1", "in/", fields or {}, blobs)
        context = ExtractionContext(
            validate_parameters(extractor.info, parameters or {}), inputs or {}, outbound or OutboundPolicy()
        )
        return cast("list[JsonDocument]", [document async for document in extractor.extract(obj, context)])

    return run
