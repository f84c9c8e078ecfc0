"""Checks of a ZIP-based file before a library unpacks it."""

import zipfile
from pathlib import Path

from bucketline.extractors import PermanentError, ResourceError

MAX_UNPACKED_BYTES = 1024**3
MAX_RATIO = 200
SMALL_BYTES = 16 * 1024 * 1024


_KINDS = {
    "word/": "a Word file",
    "xl/": "an Excel file",
    "ppt/": "a PowerPoint file",
    "Index/": "an Apple iWork file (Numbers, Pages or Keynote)",
    "Index.zip": "an Apple iWork file (Numbers, Pages or Keynote)",
    "content.xml": "an OpenDocument file",
    "META-INF/container.xml": "an EPUB book",
}


def check_archive(path: Path, label: str, must_contain: str | tuple[str, ...], kind: str) -> None:
    """Refuse a file that is not a ``kind`` (``PermanentError``) or unpacks to too much (``ResourceError``).

    The sizes are those of the archive's directory, which may be wrong; then the worker's memory limit applies.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise PermanentError(f"{label} is damaged: it is not a complete {kind} file") from error
    if not any(entry.filename.startswith(must_contain) for entry in entries):
        found = (name for start, name in _KINDS.items() if any(entry.filename.startswith(start) for entry in entries))
        raise PermanentError(f"{label} is no {kind} file; it is {next(found, 'another ZIP archive')}")
    unpacked = sum(entry.file_size for entry in entries)
    packed = max(1, sum(entry.compress_size for entry in entries))
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > SMALL_BYTES and unpacked / packed > MAX_RATIO):
        raise ResourceError(f"{label} unpacks to {unpacked} bytes, which is more than is allowed")
