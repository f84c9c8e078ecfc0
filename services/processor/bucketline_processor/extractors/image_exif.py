"""EXIF data as named fields with JSON types, and its most used values at the top."""

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, SupportsFloat

from bucketline_processor.extractors.values import json_value

if TYPE_CHECKING:
    from PIL import Image

MAX_TEXT = 500
# Maker notes and embedded previews are binary, large and of no use to a reader; where in a TIFF its pixels stand says
# nothing about the picture.
_LEFT_OUT = {
    *("MakerNote", "UserComment", "PrintImageMatching", "JPEGInterchangeFormat", "ExifOffset", "GPSInfo"),
    *("StripOffsets", "StripByteCounts", "RowsPerStrip", "TileOffsets", "TileByteCounts", "TileWidth", "TileLength"),
}


def exif_fields(image: "Image.Image", *, with_location: bool) -> dict[str, object]:
    """Return ``exif`` and, where known, ``taken_at``, ``camera`` and ``location``; empty without valid EXIF data.

    ``taken_at`` is ISO 8601, with an offset if the camera stored one; ``location`` has ``latitude`` and ``longitude``
    in degrees.
    """
    from PIL import ExifTags

    try:
        exif = image.getexif()
        raw = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # damaged EXIF data must not fail the image
        return {}
    named = {ExifTags.TAGS.get(tag, f"tag_{tag}"): value for tag, value in raw.items()}
    fields: dict[str, object] = {}
    if shown := {name: shown for name, value in named.items() if (shown := _shown(name, value)) is not None}:
        fields["exif"] = shown
    if taken := _taken_at(named):
        fields["taken_at"] = taken
    if camera := " ".join(_words(named.get("Make")) + _words(named.get("Model"))):
        fields["camera"] = camera[:MAX_TEXT]
    if with_location and (location := _location(gps)):
        fields["location"] = location
    return fields


def _shown(name: str, value: object) -> object:
    if name in _LEFT_OUT:
        return None
    if isinstance(value, bytes):
        return None
    if isinstance(value, str):
        return json_value(value.strip("\0 ")[:MAX_TEXT]) or None
    if isinstance(value, tuple):
        return [_number(part) for part in value[:64]]
    return _number(value)


def _number(value: object) -> object:
    """Convert a rational of Pillow; None if its denominator is zero."""
    if isinstance(value, int):
        return json_value(value)
    try:
        return json_value(float(value)) if isinstance(value, SupportsFloat) else json_value(value)
    except (ValueError, ZeroDivisionError):
        return json_value(value)


def _words(value: object) -> list[str]:
    return str(value).strip("\0 ").split() if value else []


def _taken_at(named: Mapping[str, object]) -> str | None:
    text = str(named.get("DateTimeOriginal") or named.get("DateTime") or "").strip("\0 ")
    offset = str(named.get("OffsetTimeOriginal") or named.get("OffsetTime") or "").strip("\0 ")
    for form, written in (("%Y:%m:%d %H:%M:%S%z", text + offset), ("%Y:%m:%d %H:%M:%S", text)):
        try:
            return datetime.datetime.strptime(written, form).isoformat()
        except ValueError:
            continue
    return None


def _location(gps: Mapping[int, object]) -> dict[str, object] | None:
    latitude = _degrees(gps.get(2), str(gps.get(1, "N")), "S")
    longitude = _degrees(gps.get(4), str(gps.get(3, "E")), "W")
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return {"latitude": latitude, "longitude": longitude}


def _degrees(parts: object, side: str, negative: str) -> float | None:
    if not isinstance(parts, tuple) or len(parts) != 3:
        return None
    numbers = [_number(part) for part in parts]
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    degrees, minutes, seconds = (float(str(number)) for number in numbers)
    value = degrees + minutes / 60 + seconds / 3600
    return round(-value if side.strip("\0 ").upper() == negative else value, 7)
