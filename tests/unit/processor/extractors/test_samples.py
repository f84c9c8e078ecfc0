"""The files that the demo uploads: small, and each of use to its extractor."""

from importlib.resources import as_file, files

import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import file_blob

from bucketline.extractors import ExtractorRegistry


@pytest.mark.parametrize(
    ("name", "mime_type", "kind", "extractor", "documents", "says"),
    [
        ("invoice.pdf", "application/pdf", "pdf", "document_extractor_v1", 3, "Total in EUR 3,109.68"),
        ("sales.png", "image/png", "image", "image_extractor_v1", 1, "'width': 960"),
        ("orders.csv", "text/csv", "excel", "table_extractor_v1", 240, "'total': 49.2"),
        ("tasting-notes.txt", "text/plain", "text", "text_extractor_v1", 1, "Ethiopia Guji"),
    ],
)
async def test_each_sample_gives_its_documents(
    documents_of: DocumentsOf, name: str, mime_type: str, kind: str, extractor: str, documents: int, says: str
) -> None:
    with as_file(files("bucketline.cli") / "samples" / name) as path:
        assert path.stat().st_size < 60_000
        found = await documents_of(ExtractorRegistry().get(extractor), file_blob(path, mime_type, kind))

    assert len(found) == documents
    assert says in str(found[0].fields)
