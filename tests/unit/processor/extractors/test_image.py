import contextlib
import io
import random

import pytest
from PIL import ExifTags, Image, ImageDraw, PngImagePlugin
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob, picture, png_bomb, saved

from bucketline.extractors import BlobView, PermanentError, ResourceError
from bucketline_processor.extractors.image import ImageExtractor, difference_hash, perceptual_hash


def image_blob(content: bytes, name: str = "photo.jpg", mime_type: str = "image/jpeg") -> BlobView:
    return blob(content, name, mime_type, "image")


def photo(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Canon"
    exif[ExifTags.Base.Model] = "EOS R5"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2026:03:01 12:30:05",
        ExifTags.Base.OffsetTimeOriginal: "+02:00",
        ExifTags.Base.FNumber: 2.8,
        ExifTags.Base.MakerNote: b"\0" * 5000,
    }
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (42.0, 41.0, 51.5), 3: "E", 4: (23.0, 19.0, 20.0)}
    return saved(picture(), "JPEG", exif=exif)


async def test_photo_has_time_location_and_camera(documents_of: DocumentsOf) -> None:
    [document] = await documents_of(ImageExtractor(), image_blob(photo()))

    fields = document.fields
    assert (fields["width"], fields["height"], fields["format"]) == (640, 400, "jpeg")
    assert fields["taken_at"] == "2026-03-01T12:30:05+02:00"
    assert fields["camera"] == "Canon EOS R5"
    assert fields["location"] == {"latitude": 42.6976389, "longitude": 23.3222222}
    assert fields["exif"]["FNumber"] == 2.8
    assert "MakerNote" not in fields["exif"]


async def test_the_location_can_be_kept_out(documents_of: DocumentsOf) -> None:
    [document] = await documents_of(ImageExtractor(), image_blob(photo()), parameters={"location": False})
    assert "location" not in document.fields
    assert "GPSInfo" not in document.fields["exif"]


async def test_the_thumbnail_is_a_derived_blob_turned_upright(documents_of: DocumentsOf) -> None:
    [document] = await documents_of(
        ImageExtractor(), image_blob(photo(orientation=6)), parameters={"thumbnail_size": 100}
    )

    [thumbnail] = document.blobs
    assert thumbnail.role == "thumbnail"
    assert thumbnail.media_type == "image/jpeg"
    assert thumbnail.filename == "photo-thumbnail.jpg"
    with Image.open(io.BytesIO(thumbnail.data)) as image:
        assert max(image.size) == 100
        assert image.height > image.width


def drawing(seed: int) -> Image.Image:
    """Return a reproducible drawing of twelve ellipses."""
    number = random.Random(seed)  # noqa: S311 - reproducible
    image = Image.new("RGB", (200, 150), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = number.randrange(180), number.randrange(130)
        box = (x, y, x + number.randrange(5, 60), y + number.randrange(5, 60))
        draw.ellipse(box, fill=(number.randrange(256), number.randrange(256), number.randrange(256)))
    return image


@pytest.mark.parametrize(
    ("image", "perceptual", "difference"),
    [
        (drawing(1), "b4c11b5ce60fdea0", "6010148726347666"),
        (drawing(2), "f285acd976388d46", "08c0c90c4c31292f"),
        (drawing(3), "d9f48fc5352930aa", "00149c9404822b3b"),
        (Image.linear_gradient("L"), "8000800080008000", "0000000000000000"),
        (Image.new("RGB", (50, 50), "red"), "8000000000000000", "0000000000000000"),
    ],
    ids=["first", "second", "third", "gradient", "plain"],
)
def test_hashes_are_those_of_imagehash(image: Image.Image, perceptual: str, difference: str) -> None:
    """The expected hashes were computed with imagehash 4.3."""
    assert perceptual_hash(image) == perceptual
    assert difference_hash(image) == difference


def distance(left: str, right: str) -> int:
    """Return the Hamming distance of two hashes."""
    return (int(left, 16) ^ int(right, 16)).bit_count()


async def test_near_images_have_near_hashes(documents_of: DocumentsOf) -> None:
    async def hash_of(image: Image.Image) -> str:
        [document] = await documents_of(ImageExtractor(), image_blob(saved(image, "PNG"), "a.png", "image/png"))
        return str(document.fields["phash"])

    original = await hash_of(picture())
    assert distance(original, await hash_of(picture().resize((320, 200)))) <= 4
    assert distance(original, await hash_of(picture().rotate(90))) > 12


@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
async def test_transparency_survives_in_every_thumbnail_format(documents_of: DocumentsOf, form: str) -> None:
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    [document] = await documents_of(
        ImageExtractor(), image_blob(saved(image, "PNG"), "a.png", "image/png"), parameters={"thumbnail_format": form}
    )

    assert document.fields["has_alpha"] is True
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        pixel = thumbnail.convert("RGBA").getpixel((5, 5))
    assert isinstance(pixel, tuple)
    assert pixel[3] == 0 if form != "jpeg" else min(pixel) > 250


async def test_no_thumbnail_when_none_is_wanted(documents_of: DocumentsOf) -> None:
    [document] = await documents_of(ImageExtractor(), image_blob(photo()), parameters={"thumbnail_size": 0})
    assert document.blobs == ()


@pytest.mark.parametrize("side", [12_000, 30_000])
async def test_a_decompression_bomb_is_refused_unopened(documents_of: DocumentsOf, side: int) -> None:
    content = png_bomb(side)
    assert len(content) < 200_000
    with pytest.raises(ResourceError, match="pixels"):
        await documents_of(ImageExtractor(), image_blob(content, "bomb.png", "image/png"))


async def test_damage_is_a_clear_error(documents_of: DocumentsOf) -> None:
    content = photo()
    with pytest.raises(PermanentError, match=r"'photo\.jpg' is cut off or damaged"):
        await documents_of(ImageExtractor(), image_blob(content[: len(content) // 2]))
    with pytest.raises(PermanentError, match=r"not an image in a format that is read here \(JPEG, "):
        await documents_of(ImageExtractor(), image_blob(b"no image at all"))


async def shades(documents_of: DocumentsOf, image: Image.Image, form: str) -> tuple[float, float]:
    """Darkest and lightest shade of the thumbnail."""
    [document] = await documents_of(ImageExtractor(), image_blob(saved(image, form), f"deep.{form.lower()}", "image/x"))
    assert document.fields["phash"] not in ("0" * 16, "8" + "0" * 15)
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        darkest, lightest = thumbnail.convert("L").getextrema()
    assert isinstance(darkest, int | float)
    assert isinstance(lightest, int | float)
    return darkest, lightest


async def test_deep_images_keep_their_shades(documents_of: DocumentsOf) -> None:
    grey = picture().convert("L")
    sixteen = Image.new("I;16", grey.size)
    sixteen.putdata([shade * 16 for shade in grey.tobytes()])  # twelve of sixteen bits, as cameras and scanners write
    exact = grey.convert("F").point(lambda shade: shade / 255 + 0)
    for image, form in ((sixteen, "PNG"), (exact, "TIFF")):
        darkest, lightest = await shades(documents_of, image, form)
        assert darkest < 20
        assert lightest > 235


async def test_lab_colours_are_seen_as_they_are(documents_of: DocumentsOf) -> None:
    image = picture(200, 200).convert("LAB")
    [document] = await documents_of(ImageExtractor(), image_blob(saved(image, "TIFF"), "lab.tiff", "image/tiff"))
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        pixel = thumbnail.resize((200, 200)).getpixel((180, 195))
    assert isinstance(pixel, tuple)
    red, _, blue = pixel
    assert red > 180 > 100 > blue


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
async def test_a_tiff_that_lies_on_its_side_is_stored_as_it_is_and_shown_upright(
    documents_of: DocumentsOf, mode: str, compression: str | None
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = picture(300, 200)
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    content = saved(image, "TIFF", exif=exif, compression=compression)
    [document] = await documents_of(ImageExtractor(), image_blob(content, "scan.tif", "image/tiff"))
    assert (document.fields["width"], document.fields["height"]) == (300, 200)
    [plain] = await documents_of(ImageExtractor(), image_blob(saved(image.rotate(270, expand=True), "TIFF"), "a.tif"))
    assert (plain.fields["width"], plain.fields["height"]) == (200, 300)
    assert distance(document.fields["phash"], plain.fields["phash"]) <= 4
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        assert thumbnail.size == (171, 256)


async def test_an_avif_is_read_whatever_its_first_brand(documents_of: DocumentsOf) -> None:
    content = saved(picture(200, 100), "AVIF")
    assert b"avif" in content[16:40]
    [document] = await documents_of(
        ImageExtractor(), image_blob(content[:8] + b"mif1" + content[12:], "a.avif", "image/avif")
    )
    assert (document.fields["format"], document.fields["width"]) == ("avif", 200)
    with pytest.raises(PermanentError, match=r"'a\.avif' is cut off or damaged"):
        await documents_of(ImageExtractor(), image_blob(content[: len(content) * 2 // 3], "a.avif", "image/avif"))
    other = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(PermanentError, match="is a HEIC image"):
        await documents_of(ImageExtractor(), image_blob(other, "b.heic", "image/heic"))


@pytest.mark.parametrize("form", ["TIFF", "AVIF", "PNG", "GIF", "WEBP", "BMP", "JPEG2000", "ICO", "TGA", "PPM"])
async def test_whatever_a_damaged_image_raises_is_called_damage(documents_of: DocumentsOf, form: str) -> None:
    content = saved(picture(100, 60), form)
    chance = random.Random(form)  # noqa: S311  the same damage each time
    for _ in range(40):
        damaged = bytearray(content[: chance.randint(20, len(content))])
        for _ in range(4):
            damaged[chance.randrange(min(len(damaged), 200))] = chance.randrange(256)
        with contextlib.suppress(PermanentError, ResourceError):
            await documents_of(ImageExtractor(), image_blob(bytes(damaged), "a.img", "image/x"))


def iso_media(*brands: bytes) -> bytes:
    names = brands[0] + bytes(4) + b"".join(brands[1:])
    return (8 + len(names)).to_bytes(4, "big") + b"ftyp" + names + bytes(100)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (iso_media(b"heic", b"mif1", b"heic"), "HEIC"),
        (iso_media(b"mif1", b"heix", b"miaf"), "HEIC"),
        (iso_media(b"mif1", b"miaf"), "HEIF"),
        (iso_media(b"crx ", b"isom"), "Canon CR3 raw"),
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"AT&TFORM" + bytes(100), "DjVu"),
        (b"\xd7\xcd\xc6\x9a" + bytes(100), "WMF"),
    ],
)
async def test_unsupported_image_is_named_and_not_called_damaged(
    documents_of: DocumentsOf, content: bytes, kind: str
) -> None:
    message = rf"'IMG_1\.img' is a {kind} image, which is not supported; save it as JPEG or PNG$"
    with pytest.raises(PermanentError, match=message):
        await documents_of(ImageExtractor(), image_blob(content, "IMG_1.img", "image/x"))


async def test_empty_image_is_called_empty(documents_of: DocumentsOf) -> None:
    with pytest.raises(PermanentError, match=r"'photo\.jpg' is empty"):
        await documents_of(ImageExtractor(), image_blob(b""))


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
@pytest.mark.parametrize("mebibytes", [1.5, 3, 20])
async def test_png_with_a_large_text_is_read(documents_of: DocumentsOf, kind: str, mebibytes: float | int) -> None:
    info = PngImagePlugin.PngInfo()
    text = "<x:xmpmeta/>" + " " * int(mebibytes * 1024 * 1024)
    if kind == "iTXt":
        info.add_itxt("XML:com.adobe.xmp", text, zip=True)
    else:
        info.add_text("Comment", text, zip=True)
    content = saved(picture(64, 32), "PNG", pnginfo=info)
    [document] = await documents_of(ImageExtractor(), image_blob(content, "p.png", "image/png"))
    assert (document.fields["width"], document.fields["height"]) == (64, 32)


async def test_png_with_large_compressed_text_is_read(documents_of: DocumentsOf) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", " " * (65 * 1024 * 1024), zip=True)
    with pytest.raises(ResourceError, match=r"'p\.png' has texts of more than 67108864 bytes"):
        await documents_of(
            ImageExtractor(), image_blob(saved(picture(64, 32), "PNG", pnginfo=info), "p.png", "image/png")
        )


@pytest.mark.parametrize(
    ("form", "options", "named"),
    [("TIFF", {"big_tiff": True}, "tiff"), ("JPEG2000", {}, "jpeg2000"), ("JPEG2000", {"no_jp2": True}, "jpeg2000")],
)
async def test_image_in_a_rarer_format_is_read(
    documents_of: DocumentsOf, form: str, options: dict[str, object], named: str
) -> None:
    content = saved(picture(64, 32), form, **options)
    [document] = await documents_of(ImageExtractor(), image_blob(content, "a.img", "image/x"))
    assert (document.fields["format"], document.fields["width"]) == (named, 64)


async def test_no_program_is_started_for_a_strangers_file(
    documents_of: DocumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would hand PostScript to Ghostscript."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(PermanentError, match="is a PostScript image, which is not supported"):
        await documents_of(ImageExtractor(), image_blob(postscript, "a.eps", "image/x-eps"))
