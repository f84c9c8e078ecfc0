"""``image_extractor``: what an image is, when and where it was taken, and a thumbnail."""

import io
import math
import statistics
import warnings
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bucketline.extractors import (
    BlobView,
    DerivedBlob,
    Document,
    ExtractionContext,
    ExtractionError,
    ExtractorInfo,
    ObjectView,
    PermanentError,
    ResourceError,
    selected_blobs,
)
from bucketline_processor.extractors.image_exif import exif_fields

if TYPE_CHECKING:
    from PIL import Image

READ = "JPEG, PNG, WebP, GIF, TIFF, AVIF, BMP, JPEG 2000, ICO, TGA, PPM, PSD"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "BMP", "DIB", "JPEG2000", "ICO", "TGA", "PPM", "PSD")
"""Formats of Pillow that are read: no rare decoders, and none that starts another program."""

BRANDS = {
    "HEIC": frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")),
    "AVIF": frozenset((b"avif", b"avis")),
    "HEIF": frozenset((b"mif1", b"msf1")),
    "Canon CR3 raw": frozenset((b"crx ",)),
}
"""Kinds of ISO media files by their brands. HEIF may hold any codec, so it counts only without another brand."""

UNSUPPORTED = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"%PDF-": "PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"AT&TFORM": "DjVu",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"gimp xcf": "GIMP",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"DDS ": "DDS",
    b"qoif": "QOI",
}
"""Signatures of image formats that are known but not read here."""

BRANDS_BYTES = 1024
MAX_TEXT_BYTES = 64 * 1024 * 1024
"""Maximum size of one uncompressed text in a PNG; the XMP data of Photoshop often takes megabytes."""

MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
THUMBNAIL_QUALITY = 80


class ImageExtractor:
    """One document an image.

    The header is read first: an image with more than ``max_pixels`` is refused before a pixel is decoded.
    ``width`` and ``height`` are those of the stored pixels; thumbnail and hashes are of the image turned upright as
    its EXIF says. ``phash`` and ``dhash`` are 64 bits in hex; equal or near images have a small Hamming distance.
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
        """Yield one document per selected image."""
        for blob in selected_blobs(self.info, obj, context):
            async with blob.as_file() as path:
                yield _document(path, blob, context)


def _document(path: Path, blob: BlobView, context: ExtractionContext) -> Document:
    from PIL import Image, PngImagePlugin, UnidentifiedImageError

    label, max_pixels = blob.describe(), context.parameter("max_pixels", int)
    _refuse_unreadable(path, label)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT_BYTES
    Image.MAX_IMAGE_PIXELS = max_pixels  # for what is inside of other images, too; twice as many are an error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, which are refused here, and of damage that Pillow can do with
            # given a path, Pillow maps the pixels of a TIFF that lies on its side as if it stood
            with path.open("rb") as file, Image.open(file, formats=formats) as image:
                _refuse_large(image, max_pixels, label)
                return _describe(image, blob, context)
    except Image.DecompressionBombError as error:
        raise ResourceError(f"{label} has more than the {max_pixels} pixels that this collection allows") from error
    except UnidentifiedImageError as error:
        raise PermanentError(f"{label} is not an image in a format that is read here ({READ})") from error
    except (ExtractionError, MemoryError):
        raise  # the latter says nothing about the file
    except Exception as error:  # each of Pillow's decoders has its own for damaged content
        if "MAX_TEXT_" in str(error):
            raise ResourceError(f"{label} has texts of more than {MAX_TEXT_BYTES} bytes beside its pixels") from error
        raise PermanentError(f"{label} is cut off or damaged") from error


def _refuse_unreadable(path: Path, label: str) -> None:
    """Refuse an empty file, and one in a known format that is not read here, by the name of the format."""
    with path.open("rb") as file:
        head = file.read(BRANDS_BYTES)
    if not head:
        raise PermanentError(f"{label} is empty")
    kind = next((kind for signature, kind in UNSUPPORTED.items() if head.startswith(signature)), None)
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in range(8, min(len(head), int.from_bytes(head[:4], "big")), 4)}
        kinds = [kind for kind, known in BRANDS.items() if brands & known]
        kind = kinds[0] if kinds and "AVIF" not in kinds else None
    elif head.lstrip()[:1] == b"<" and b"<svg" in head.lower():
        kind = "SVG"
    if kind is not None:
        raise PermanentError(f"{label} is a {kind} image, which is not supported; save it as JPEG or PNG")


def _refuse_large(image: "Image.Image", max_pixels: int, label: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ResourceError(f"{label} has {width} x {height} pixels; this collection allows {max_pixels} in all")


def _describe(image: "Image.Image", blob: BlobView, context: ExtractionContext) -> Document:
    from PIL import ImageOps

    width, height = _stored_size(image)
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
    image.load()  # turns a TIFF upright: until then it has another size than it says
    small = _resizable(image)
    small.thumbnail((side, side))
    small = ImageOps.exif_transpose(_eight_bits(small))
    fields["phash"] = perceptual_hash(small)
    fields["dhash"] = difference_hash(small)
    thumbnails: tuple[DerivedBlob, ...] = ()
    if size > 0:
        small.thumbnail((size, size))
        thumbnails = (_thumbnail(small, blob, context.parameter("thumbnail_format", str)),)
    return Document(fields, blobs=thumbnails, source_blobs=(blob.blob_id,))


def perceptual_hash(image: "Image.Image") -> str:
    """Return the pHash: which of the 64 lowest frequencies of the grey image are above their median.

    Equal to ``imagehash.phash``. That package needs SciPy, which is larger than all other dependencies together.
    """
    pixels = _grey_pixels(image, 32, 32)
    cosines = [[math.cos(math.pi * (2 * n + 1) * k / 64) for n in range(32)] for k in range(8)]
    rows = [[_dot(pixels[32 * y : 32 * y + 32], cosine) for cosine in cosines] for y in range(32)]
    columns = list(zip(*rows, strict=True))
    # Rounded, because what is zero in theory, in a plain image, is noise in practice.
    frequencies = [round(_dot(column, cosine), 3) for cosine in cosines for column in columns]
    median = statistics.median(frequencies)
    return _to_hex(frequency > median for frequency in frequencies)


def difference_hash(image: "Image.Image") -> str:
    """Return the dHash: which pixels of the grey image are brighter than their left neighbour.

    Equal to ``imagehash.dhash``.
    """
    pixels = _grey_pixels(image, 9, 8)
    return _to_hex(pixels[9 * y + x + 1] > pixels[9 * y + x] for y in range(8) for x in range(8))


def _grey_pixels(image: "Image.Image", width: int, height: int) -> bytes:
    from PIL.Image import Resampling

    return image.convert("L").resize((width, height), Resampling.LANCZOS).tobytes()


def _dot(left: Iterable[float], right: Iterable[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _to_hex(bits: Iterable[bool]) -> str:
    return f"{int(''.join('01'[bit] for bit in bits), 2):016x}"


def _stored_size(image: "Image.Image") -> tuple[int, int]:
    """Return width and height as stored; for TIFF, Pillow returns those of the upright image."""
    from PIL.ExifTags import Base
    from PIL.TiffImagePlugin import TiffImageFile

    width, height = image.size
    lies = isinstance(image, TiffImageFile) and image.tag_v2.get(Base.Orientation) in (5, 6, 7, 8)
    return (height, width) if lies else (width, height)


def _resizable(image: "Image.Image") -> "Image.Image":
    """Return a copy with intermediate shades for palette and black-and-white images; others unchanged."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """Return an image with eight bits per channel.

    Deep and scientific images are scaled from their own darkest and lightest shade, because truncation would make them
    uniform. Lab colors become RGB.
    """
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        return image if converted is None else converted
    if not image.mode.startswith(("I", "F")):
        return image
    exact = image.convert("I").convert("F") if image.mode.startswith("I") else image
    darkest, lightest = exact.getextrema()
    if not (isinstance(darkest, float) and isinstance(lightest, float) and math.isfinite(lightest - darkest)):
        raise ValueError("shades without end")
    scale = 255 / (lightest - darkest) if lightest > darkest else 0.0
    offset = -darkest * scale
    return exact.point(lambda shade: shade * scale + offset).convert("L")


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
