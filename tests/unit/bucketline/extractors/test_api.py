from typing import Literal

import pytest

from bucketline.extractors import (
    BlobView,
    ExtractionContext,
    ExtractionError,
    ExtractorInfo,
    MemorySource,
    ObjectView,
    PermanentError,
    ResourceError,
    TransientError,
    selected_blobs,
)


def blob(kind: str, mime_type: str, content: bytes = b"abc", size: int | None = None) -> BlobView:
    size = len(content) if size is None else size
    return BlobView(f"b_{kind}", "file", kind, "f.bin", mime_type, size, None, MemorySource(content))


PDF = blob("pdf", "application/pdf")
PNG = blob("image", "image/png")
CSV = blob("excel", "Text/CSV; charset=utf-8")


@pytest.mark.parametrize(
    ("accepts", "read"),
    [
        (("pdf",), [PDF]),
        (("image/*",), [PNG]),
        (("text/csv",), [CSV]),
        (("*",), [PDF, PNG, CSV]),
        ((), []),
    ],
)
def test_accepts_covers_types_media_types_and_families(accepts: tuple[str, ...], read: list[BlobView]) -> None:
    info = ExtractorInfo(name="x", version="v1", description="", accepts=accepts)
    obj = ObjectView("o", "b", "n", blobs=(PDF, PNG, CSV))
    assert selected_blobs(info, obj, ExtractionContext()) == read


def test_mapped_inputs_choose_the_blobs() -> None:
    info = ExtractorInfo(name="x", version="v1", description="", accepts=("pdf",))
    obj = ObjectView("o", "b", "n", blobs=(PDF, PNG))

    assert selected_blobs(info, obj, ExtractionContext(inputs={"file": PNG, "more": [PDF], "none": None})) == [PNG, PDF]
    with pytest.raises(PermanentError, match="input 'file' of x must be a file"):
        selected_blobs(info, obj, ExtractionContext(inputs={"file": "some text"}))


async def test_reading_whole_is_bounded_whatever_the_size_claims() -> None:
    assert await blob("text", "text/plain", b"x" * 10).read(10) == b"x" * 10
    with pytest.raises(ResourceError, match=r"'f\.bin' has 11 bytes"):
        await blob("text", "text/plain", b"x" * 11).read(10)
    with pytest.raises(ResourceError, match="more than the 10 bytes"):
        await blob("text", "text/plain", b"x" * 11, size=1).read(10)


async def test_a_blob_in_memory_is_also_a_file_and_a_stream() -> None:
    content = bytes(range(256)) * 4096
    view = blob("text", "text/plain", content)

    assert b"".join([chunk async for chunk in view.open()]) == content
    async with view.as_file() as path:
        assert path.read_bytes() == content
    assert not path.exists()
    with pytest.raises(PermanentError):
        await view.presigned_url()


@pytest.mark.parametrize(
    ("kind", "error"),
    [("transient", TransientError), ("permanent", PermanentError), ("resource", ResourceError)],
)
def test_errors_are_made_from_their_kind(
    kind: Literal["transient", "permanent", "resource"], error: type[PermanentError | ResourceError | TransientError]
) -> None:
    made = ExtractionError.of(kind, "why")
    assert type(made) is error
    assert made.kind == kind
    assert made.message == "why"
