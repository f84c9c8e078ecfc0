"""Files as objects: what type of blob a file is, and the request that carries it inline."""

import base64
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bucketline.cli.client import Json

SAMPLES = Path(__file__).parent / "samples"
MAX_INLINE = 10 * 1024 * 1024

SCHEMA: "Json" = {
    "properties": {
        "pdf": {"type": "pdf"},
        "image": {"type": "image"},
        "table": {"type": "excel"},
        "text": {"type": "text"},
        "audio": {"type": "audio"},
        "video": {"type": "video"},
        "name": {"type": "string", "required": True},
    }
}
"""A bucket schema with a property for every kind of file."""


def property_of(path: Path) -> tuple[str, str]:
    """The property and the blob type for a file, by its media type."""
    kind = mimetypes.guess_type(path.name)[0] or "text/plain"
    if kind == "application/pdf":
        return "pdf", "pdf"
    if kind == "text/csv" or "spreadsheet" in kind or "excel" in kind:
        return "table", "excel"
    family = kind.partition("/")[0]
    return (family, family) if family in ("image", "audio", "video") else ("text", "text")


def object_of(path: Path) -> "Json":
    """The body that creates an object from a file."""
    name, kind = property_of(path)
    content = path.read_bytes()
    data = {
        "base64": base64.b64encode(content).decode(),
        "mime_type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        "filename": path.name,
    }
    return {"key_prefix": f"/{path.name}", "blobs": [{"property": name, "type": kind, "data": data}], "name": path.name}
