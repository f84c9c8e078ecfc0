import contextlib
import io
import random

import imagehash
import pytest
from PIL import ExifTags, Image
from tests.unit.processor.extractors.files import blob, picture, png_bomb, saved

from bucketline.extraction import PermanentError, ResourceError
from processor.extractors.image import ImageExtractor


def image_blob(content, name="photo.jpg", mime_type="image/jpeg"):
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


async def test_a_photo_tells_when_where_and_with_what_it_was_taken(documents_of):
    [document] = await documents_of(ImageExtractor(), image_blob(photo()))

    fields = document.fields
    assert (fields["width"], fields["height"], fields["format"]) == (640, 400, "jpeg")
    assert fields["taken_at"] == "2026-03-01T12:30:05+02:00"
    assert fields["camera"] == "Canon EOS R5"
    assert fields["location"] == {"latitude": 42.6976389, "longitude": 23.3222222}
    assert fields["exif"]["FNumber"] == 2.8
    assert "MakerNote" not in fields["exif"]


async def test_the_location_can_be_kept_out(documents_of):
    [document] = await documents_of(ImageExtractor(), image_blob(photo()), parameters={"location": False})
    assert "location" not in document.fields
    assert "GPSInfo" not in document.fields["exif"]


async def test_the_thumbnail_is_a_derived_blob_turned_upright(documents_of):
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


async def test_near_images_have_near_hashes(documents_of):
    async def hash_of(image):
        [document] = await documents_of(ImageExtractor(), image_blob(saved(image, "PNG"), "a.png", "image/png"))
        return imagehash.hex_to_hash(document.fields["phash"])

    original = await hash_of(picture())
    assert original - await hash_of(picture().resize((320, 200))) <= 4
    assert original - await hash_of(picture().rotate(90)) > 12


@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
async def test_transparency_survives_in_every_thumbnail_format(documents_of, form):
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    [document] = await documents_of(
        ImageExtractor(), image_blob(saved(image, "PNG"), "a.png", "image/png"), parameters={"thumbnail_format": form}
    )

    assert document.fields["has_alpha"] is True
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        pixel = thumbnail.convert("RGBA").getpixel((5, 5))
    assert pixel[3] == 0 if form != "jpeg" else min(pixel) > 250


async def test_no_thumbnail_when_none_is_wanted(documents_of):
    [document] = await documents_of(ImageExtractor(), image_blob(photo()), parameters={"thumbnail_size": 0})
    assert document.blobs == ()


@pytest.mark.parametrize("side", [12_000, 30_000])
async def test_a_decompression_bomb_is_refused_unopened(documents_of, side):
    content = png_bomb(side)
    assert len(content) < 200_000
    with pytest.raises(ResourceError, match="pixels"):
        await documents_of(ImageExtractor(), image_blob(content, "bomb.png", "image/png"))


async def test_damage_is_a_clear_error(documents_of):
    content = photo()
    with pytest.raises(PermanentError, match=r"'photo\.jpg' is cut off or damaged"):
        await documents_of(ImageExtractor(), image_blob(content[: len(content) // 2]))
    with pytest.raises(PermanentError, match=r"not an image in a format that is read here \(JPEG, "):
        await documents_of(ImageExtractor(), image_blob(b"no image at all"))


async def shades(documents_of, image, form):
    """Darkest and lightest shade of the thumbnail."""
    [document] = await documents_of(ImageExtractor(), image_blob(saved(image, form), f"deep.{form.lower()}", "image/x"))
    assert document.fields["phash"] not in ("0" * 16, "8" + "0" * 15)
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        return thumbnail.convert("L").getextrema()


async def test_deep_images_keep_their_shades(documents_of):
    grey = picture().convert("L")
    sixteen = Image.new("I;16", grey.size)
    sixteen.putdata([shade * 16 for shade in grey.tobytes()])  # twelve of sixteen bits, as cameras and scanners write
    exact = grey.convert("F").point(lambda shade: shade / 255 + 0)
    for image, form in ((sixteen, "PNG"), (exact, "TIFF")):
        darkest, lightest = await shades(documents_of, image, form)
        assert darkest < 20
        assert lightest > 235


async def test_lab_colours_are_seen_as_they_are(documents_of):
    image = picture(200, 200).convert("LAB")
    [document] = await documents_of(ImageExtractor(), image_blob(saved(image, "TIFF"), "lab.tiff", "image/tiff"))
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        red, _, blue = thumbnail.resize((200, 200)).getpixel((180, 195))
    assert red > 180 > 100 > blue


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
async def test_a_tiff_that_lies_on_its_side_is_stored_as_it_is_and_shown_upright(documents_of, mode, compression):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = picture(300, 200)
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    content = saved(image, "TIFF", exif=exif, compression=compression)
    [document] = await documents_of(ImageExtractor(), image_blob(content, "scan.tif", "image/tiff"))
    assert (document.fields["width"], document.fields["height"]) == (300, 200)
    [plain] = await documents_of(ImageExtractor(), image_blob(saved(image.rotate(270, expand=True), "TIFF"), "a.tif"))
    assert (plain.fields["width"], plain.fields["height"]) == (200, 300)
    near = imagehash.hex_to_hash(document.fields["phash"]) - imagehash.hex_to_hash(plain.fields["phash"])
    assert near <= 4
    with Image.open(io.BytesIO(document.blobs[0].data)) as thumbnail:
        assert thumbnail.size == (171, 256)


async def test_an_avif_is_read_whatever_its_first_brand(documents_of):
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
async def test_whatever_a_damaged_image_raises_is_called_damage(documents_of, form):
    content = saved(picture(100, 60), form)
    chance = random.Random(form)  # noqa: S311  the same damage each time
    for _ in range(40):
        damaged = bytearray(content[: chance.randint(20, len(content))])
        for _ in range(4):
            damaged[chance.randrange(min(len(damaged), 200))] = chance.randrange(256)
        with contextlib.suppress(PermanentError, ResourceError):
            await documents_of(ImageExtractor(), image_blob(bytes(damaged), "a.img", "image/x"))


async def test_what_is_not_read_is_named(documents_of):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(PermanentError, match=r"'IMG_1\.HEIC' is a HEIC image, which is not read here; save it as JPEG"):
        await documents_of(ImageExtractor(), image_blob(heic, "IMG_1.HEIC", "image/heic"))
    with pytest.raises(PermanentError, match=r"'photo\.jpg' is empty"):
        await documents_of(ImageExtractor(), image_blob(b""))


async def test_no_program_is_started_for_a_strangers_file(documents_of, monkeypatch):
    """Pillow would hand PostScript to Ghostscript."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(PermanentError, match="not an image in a format"):
        await documents_of(ImageExtractor(), image_blob(postscript, "a.eps", "image/x-eps"))
