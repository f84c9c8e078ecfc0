"""Media types and file names of blobs.

Which media types a file property accepts (the contract's table for uploads), which type a media type suggests, and file
names that are safe to store, to show and to put into a header.
"""

import re
import unicodedata

MAX_FILENAME_BYTES = 255


_FAMILIES = ("text", "image", "audio", "video")
_SPREADSHEETS = frozenset(
    {
        "text/csv",
        "application/csv",
        "application/vnd.ms-excel",
        "application/vnd.ms-excel.sheet.macroenabled.12",
        "application/vnd.ms-excel.sheet.binary.macroenabled.12",
        "application/vnd.oasis.opendocument.spreadsheet",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.template",
    }
)

_DOCUMENT_BLOB_TYPES = frozenset({"video", "image", "audio", "text", "pdf"})


def media_fits(media_type: str, schema_type: str) -> bool:
    """Return whether a file property accepts ``media_type``. A GIF is an image and a video; CSV is text too."""
    essence = _essence(media_type)
    match schema_type:
        case "pdf":
            return essence == "application/pdf"
        case "excel":
            return essence in _SPREADSHEETS
        case "video" if essence == "image/gif":
            return True
    return schema_type in _FAMILIES and essence.partition("/")[0] == schema_type


def type_of_media(media_type: str) -> str | None:
    """Return the schema type for an upload that names none; None when no file type accepts the media type."""
    essence = _essence(media_type)
    if essence in _SPREADSHEETS:
        return "excel"
    if essence == "application/pdf":
        return "pdf"
    family = essence.partition("/")[0]
    return family if family in _FAMILIES else None


def _essence(media_type: str) -> str:
    """Return the media type without parameters such as the charset."""
    return media_type.partition(";")[0].strip().lower()


def document_blob_type(kind: str) -> str:
    """Return the type of a document's blob as clients know it: they have no name for spreadsheets and others."""
    return kind if kind in _DOCUMENT_BLOB_TYPES else "other"


def safe_filename(name: str | None) -> str | None:
    """Return the last part of ``name`` in a form that every file system and header accepts; None if nothing remains.

    The result has at most 255 bytes of UTF-8 and keeps the extension. It has no separators, control or direction
    characters, leading dots, or characters that Windows refuses.
    """
    if not name:
        return None
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    kept = "".join(c for c in last if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
    kept = re.sub(r'[<>:"|?*]', "_", kept).lstrip(". ").rstrip(". ")
    if not kept:
        return None
    stem, dot, extension = kept.rpartition(".")
    if not stem or len(extension.encode()) > 16:
        stem, dot, extension = kept, "", ""
    room = MAX_FILENAME_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + dot + extension
