"""Which format uses a container: the office formats are all ZIP or OLE on the outside."""

import struct

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
