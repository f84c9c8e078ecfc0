"""A second chance for PDFs whose end is missing, as uploads that broke off leave them."""

import io
import re
from pathlib import Path

MAX_BYTES = 256 * 1024 * 1024

_CATALOG = re.compile(rb"(\d{1,10})\s+(\d{1,5})\s+obj\s*<<(?:(?!endobj).){0,4096}?/Type\s*/Catalog\b", re.DOTALL)
_OBJECT = re.compile(rb"(\d{1,10})\s+\d{1,5}\s+obj\b")


def with_new_trailer(path: Path) -> io.BytesIO | None:
    """The file with a trailer that names its catalog, from which pypdf finds the objects by looking for them.

    ``None`` when the catalog itself is missing or compressed, or the file has more than 256 MiB.
    """
    if path.stat().st_size > MAX_BYTES:
        return None
    content = path.read_bytes()
    catalogs = list(_CATALOG.finditer(content))
    if not catalogs:
        return None
    number, generation = catalogs[-1].group(1), catalogs[-1].group(2)
    size = 1 + max(int(found.group(1)) for found in _OBJECT.finditer(content))
    trailer = b"\ntrailer\n<< /Size %d /Root %d %d R >>\nstartxref\n0\n%%%%EOF\n"
    return io.BytesIO(content + trailer % (size, int(number), int(generation)))
