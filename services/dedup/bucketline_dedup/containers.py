"""Which format uses a container: office formats are ZIP or OLE on the outside, and many media are boxes."""

import struct

from bucketline_dedup.media_type_tables import BRANDS

_OOXML = "application/vnd.openxmlformats-officedocument."
_ZIP_PARTS = (
    (b"word/", _OOXML + "wordprocessingml.document"),
    (b"xl/", _OOXML + "spreadsheetml.sheet"),
    (b"ppt/", _OOXML + "presentationml.presentation"),
    (b"META-INF/MANIFEST.MF", "application/java-archive"),
)
_OLE_STREAMS = (
    ("WordDocument", "application/msword"),
    ("Workbook", "application/vnd.ms-excel"),
    ("Book", "application/vnd.ms-excel"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ("__substg1.0", "application/vnd.ms-outlook"),
)
_OLE_TYPES = frozenset(kind for _, kind in _OLE_STREAMS)
_MAX_ENTRIES = 256


def zip_type(head: bytes, hints: list[str]) -> str:
    """The type of a ZIP file from the names at its beginning."""
    office = False
    position = 0
    for _ in range(_MAX_ENTRIES):
        position = head.find(b"PK\x03\x04", position)
        if position < 0 or position + 30 > len(head):
            break
        method, size, name_length, extra_length = struct.unpack_from("<8xH8xI4xHH", head, position)
        name = head[position + 30 : position + 30 + name_length]
        data = position + 30 + name_length + extra_length
        if name == b"mimetype" and method == 0 and size < 128:
            # EPUB and OpenDocument: the first entry is the type itself, stored
            declared = head[data : data + size].decode("ascii", errors="replace").strip().lower()
            if declared.startswith(("application/epub+zip", "application/vnd.oasis.opendocument.")):
                return declared
        for prefix, kind in _ZIP_PARTS:
            if name.startswith(prefix):
                return kind
        office = office or name == b"[Content_Types].xml"
        # past the entry when its size is known, else on to the next signature
        position = data + size if size else data
    if office:
        # an office file whose first part lies beyond the head: here the hint can only choose which
        return next((h for h in hints if h.startswith(_OOXML)), "application/zip")
    return "application/zip"


def ole_type(head: bytes, hints: list[str]) -> str:
    """The type of an OLE2 file. Its directory may lie anywhere, so a hint chooses when it is not in the head."""
    for name, kind in _OLE_STREAMS:
        if name.encode("utf-16-le") in head:
            return kind
    return next((h for h in hints if h in _OLE_TYPES), "application/x-ole-storage")


def boxes_type(head: bytes) -> str | None:
    """Return the type of an ISO base media file (MP4, HEIF, AVIF) or a JPEG 2000 file by its brands; None for others.

    A major brand that only tells the structure of an image file leaves the coding to the compatible brands: AVIF is
    named by them, all else under ``mif1`` is ``image/heif``.
    """
    start = 12 if head.startswith(b"\0\0\0\x0cjP  \r\n\x87\n") else 0
    if not head.startswith((b"\0\0", b"\0\1"), start) or not head.startswith(b"ftyp", start + 4):
        return "image/jp2" if start else None
    size = int.from_bytes(head[start : start + 4], "big")
    brands = [head[place : place + 4] for place in range(start + 16, min(start + size, len(head)) - 3, 4)]
    kind = BRANDS.get(head[start + 8 : start + 12], "video/mp4")
    if kind == "image/heif" and any(BRANDS.get(brand) == "image/avif" for brand in brands):
        return "image/avif"
    return kind
