import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.text import TextExtractor

ESSAY = "".join(
    f"Paragraph {number} begins here. It has a second sentence, with a café and naïve words! And a third one?\n\n"
    for number in range(200)
)
BULGARIAN = "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени с разум и съвест. " * 20


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
    ],
)
async def test_every_unicode_encoding_gives_the_same_chunks(documents_of: DocumentsOf, codec: str, name: str) -> None:
    documents = await documents_of(TextExtractor(), blob(ESSAY.encode(codec), "essay.txt", "text/plain"))

    assert len(documents) > 5
    for number, document in enumerate(documents):
        fields = document.fields
        assert fields["chunk_index"] == number
        assert fields["text"] == ESSAY[fields["char_start"] : fields["char_end"]]
        assert len(fields["text"]) <= 2000
        assert fields["encoding"] == name
    assert documents[0].source_blobs == ("blob_essay.txt",)


async def test_a_national_encoding_is_recognised(documents_of: DocumentsOf) -> None:
    documents = await documents_of(TextExtractor(), blob(BULGARIAN.encode("cp1251"), "a.txt", "text/plain"))

    assert documents[0].fields["text"].startswith("Всички хора се раждат свободни")


async def test_chunks_end_at_paragraphs_and_overlap_by_whole_sentences(documents_of: DocumentsOf) -> None:
    documents = await documents_of(
        TextExtractor(),
        blob(ESSAY.encode(), "essay.txt", "text/plain"),
        parameters={"chunk_size": 400, "chunk_overlap": 80},
    )

    texts = [document.fields["text"] for document in documents]
    assert all(text.endswith("third one?") for text in texts)
    first, second = documents[0].fields, documents[1].fields
    assert second["char_start"] < first["char_end"]
    assert second["text"].startswith("It has a second sentence")


async def test_a_mapped_field_is_read_instead_of_the_files(documents_of: DocumentsOf) -> None:
    documents = await documents_of(
        TextExtractor(), blob(b"not this", "a.txt", "text/plain"), inputs={"text": "A note of the object."}
    )

    assert [document.fields["text"] for document in documents] == ["A note of the object."]


async def test_binary_content_is_refused_by_name(documents_of: DocumentsOf) -> None:
    content = bytes(range(256)) * 40
    with pytest.raises(PermanentError, match=r"'a\.txt' is not a text file"):
        await documents_of(TextExtractor(), blob(content, "a.txt", "text/plain"))


async def test_an_empty_text_and_other_files_have_no_documents(documents_of: DocumentsOf) -> None:
    assert await documents_of(TextExtractor(), blob(b"", "a.txt", "text/plain")) == []
    assert await documents_of(TextExtractor(), blob(b"\x89PNG", "a.png", "image/png", "image")) == []
