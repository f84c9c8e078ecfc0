from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob

from bucketline_processor.extractors.passthrough import PassthroughExtractor


async def test_one_document_an_object_whatever_it_holds(documents_of: DocumentsOf) -> None:
    photo = blob(b"x", "a.png", "image/png", "image")
    for blobs in ((), (photo,), (photo, photo)):
        [document] = await documents_of(PassthroughExtractor(), *blobs, fields={"sku": "A-17"})
        assert document.fields == {}
        assert document.blobs == ()
