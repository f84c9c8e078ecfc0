"""``image_extractor``: what an image is, when and where it was taken, and a thumbnail."""

import io
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from bucketline.extraction import (
    BlobView,
    DerivedBlob,
    Document,
    ExtractionContext,
    ExtractorInfo,
    ObjectView,
    PermanentError,
    ResourceError,
    selected_blobs,
)
from processor.extractors.image_exif import exif_fields

if TYPE_CHECKING:
    from PIL import Image

MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
THUMBNAIL_QUALITY = 80


class ImageExtractor:
    """One document an image.

    The header is read first: an image with more than ``max_pixels`` is refused before a pixel is decoded.
    ``phash`` and ``dhash`` are 64 bits in hex; equal or near images have a small Hamming distance.
    """

    info = ExtractorInfo(
        name="image_extractor",
        version="v1",
        description="Dimensions, EXIF, perceptual hashes and a thumbnail of an image.",
        accepts=("image", "image/*"),
        parameters_schema={
            "type": "object",
            "properties": {
                "thumbnail_size": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 2048,
                    "default": 256,
                    "description": "Longest side of the thumbnail in pixels; 0 for none.",
                },
                "thumbnail_format": {"type": "string", "enum": list(MEDIA_TYPES), "default": "jpeg"},
                "max_pixels": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 1_000_000_000,
                    "default": 100_000_000,
                    "description": "An image with more pixels is refused.",
                },
                "location": {
                    "type": "boolean",
                    "default": True,
                    "description": "Whether GPS coordinates may get into the document.",
                },
            },
            "additionalProperties": False,
        },
        output_schema={
            "properties": {
                "width": {"type": "integer"},
                "height": {"type": "integer"},
                "format": {"type": "string"},
                "mode": {"type": "string"},
                "has_alpha": {"type": "boolean"},
                "frames": {"type": "integer"},
                "phash": {"type": "string"},
                "dhash": {"type": "string"},
                "taken_at": {"type": "string"},
                "camera": {"type": "string"},
                "location": {"type": "object"},
                "exif": {"type": "object"},
            }
        },
    )

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        for blob in selected_blobs(self.info, obj, context):
            async with blob.as_file() as path:
                yield _document(path, blob, context)


def _document(path: Path, blob: BlobView, context: ExtractionContext) -> Document:
    from PIL import Image, UnidentifiedImageError

    label = blob.describe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(path) as image:
                _refuse_large(image, context.parameter("max_pixels", int), label)
                return _describe(image, blob, context)
    except Image.DecompressionBombError as error:
        raise ResourceError(f"{label} has more pixels than any image that is read here") from error
    except UnidentifiedImageError as error:
        raise PermanentError(f"{label} is not an image in a known format") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # what Pillow's decoders raise for broken data; PNG chunks raise SyntaxError
        raise PermanentError(f"{label} is cut off or damaged") from error


def _refuse_large(image: "Image.Image", max_pixels: int, label: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ResourceError(f"{label} has {width} x {height} pixels; this collection allows {max_pixels} in all")


def _describe(image: "Image.Image", blob: BlobView, context: ExtractionContext) -> Document:
    import imagehash
    from PIL import ImageOps

    width, height = image.size
    fields: dict[str, object] = {
        "width": width,
        "height": height,
        "format": (image.format or "").lower(),
        "mode": image.mode,
        "has_alpha": image.has_transparency_data,
        "frames": int(getattr(image, "n_frames", 1)),
        **exif_fields(image, with_location=context.parameter("location", bool)),
    }
    size = context.parameter("thumbnail_size", int)
    side = max(size, 256)
    image.draft("RGB", (side, side))  # lets the JPEG decoder scale while decoding
    small = _resizable(image)
    small.thumbnail((side, side))
    small = ImageOps.exif_transpose(small)
    fields["phash"] = str(imagehash.phash(small))
    fields["dhash"] = str(imagehash.dhash(small))
    thumbnails: tuple[DerivedBlob, ...] = ()
    if size > 0:
        small.thumbnail((size, size))
        thumbnails = (_thumbnail(small, blob, context.parameter("thumbnail_format", str)),)
    return Document(fields, blobs=thumbnails, source_blobs=(blob.blob_id,))


def _resizable(image: "Image.Image") -> "Image.Image":
    """Palette and black-and-white images with shades between their colours; the others as they are, uncopied."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _thumbnail(small: "Image.Image", blob: BlobView, kind: str) -> DerivedBlob:
    opaque = kind == "jpeg"
    if opaque and small.has_transparency_data:
        layer = small.convert("RGBA")
        canvas = layer.copy()
        canvas.paste((255, 255, 255, 255), (0, 0, *layer.size))
        canvas.alpha_composite(layer)
        small = canvas
    content = io.BytesIO()
    small.convert("RGB" if opaque or not small.has_transparency_data else "RGBA").save(
        content, format=kind.upper(), quality=THUMBNAIL_QUALITY
    )
    stem = Path(blob.filename or blob.property).stem
    return DerivedBlob(
        field="thumbnail",
        filename=f"{stem}-thumbnail.{'jpg' if opaque else kind}",
        media_type=MEDIA_TYPES[kind],
        data=content.getvalue(),
        role="thumbnail",
    )
