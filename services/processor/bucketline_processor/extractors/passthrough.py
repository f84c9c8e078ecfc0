"""``passthrough_extractor``: one document per object, without reading any file."""

from collections.abc import AsyncIterator

from bucketline.extractors import Document, ExtractionContext, ExtractorInfo, ObjectView


class PassthroughExtractor:
    """Yields an empty document, which ``field_passthrough`` of the collection fills."""

    info = ExtractorInfo(
        name="passthrough_extractor",
        version="v1",
        description="One document for each object, with the fields that the collection passes through.",
        accepts=("*",),
        cpu_bound=False,
    )

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:  # noqa: ARG002
        """Yield one empty document."""
        yield Document({})
