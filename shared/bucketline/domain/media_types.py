"""Which media types a schema type takes (the contract's table for uploads), and the type that a media type suggests."""

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


def media_fits(media_type: str, schema_type: str) -> bool:
    """Whether bytes of ``media_type`` may fill a file property. A GIF is an image and a video; CSV is text too."""
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
    """The schema type of an upload that names none; None when no file type takes these bytes."""
    essence = _essence(media_type)
    if essence in _SPREADSHEETS:
        return "excel"
    if essence == "application/pdf":
        return "pdf"
    family = essence.partition("/")[0]
    return family if family in _FAMILIES else None


def _essence(media_type: str) -> str:
    """Without parameters such as the charset."""
    return media_type.partition(";")[0].strip().lower()


_DOCUMENT_BLOB_TYPES = frozenset({"video", "image", "audio", "text", "pdf"})


def document_blob_type(kind: str) -> str:
    """The type of a document's blob as clients know it: they have no word for spreadsheets and the like."""
    return kind if kind in _DOCUMENT_BLOB_TYPES else "other"
