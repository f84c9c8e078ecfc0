"""A new trailer for PDFs whose end is missing, as interrupted uploads leave them.

PDFium looks for the objects of a damaged file itself, but finds no catalog without a trailer.
"""

import re

_CATALOG = re.compile(rb"(\d{1,10})\s+(\d{1,5})\s+obj\s*<<(?:(?!endobj).){0,4096}?/Type\s*/Catalog\b", re.DOTALL)
_OBJECT = re.compile(rb"(\d{1,10})\s+\d{1,5}\s+obj\b")


def new_trailer(content: bytes) -> bytes | None:
    """Return a trailer that names the catalog; PDFium then finds the objects by looking for them.

    ``None`` when the catalog is missing or compressed.
    """
    catalogs = list(_CATALOG.finditer(content))
    if not catalogs:
        return None
    number, generation = catalogs[-1].group(1), catalogs[-1].group(2)
    size = 1 + max(int(found.group(1)) for found in _OBJECT.finditer(content))
    trailer = b"\ntrailer\n<< /Size %d /Root %d %d R >>\nstartxref\n0\n%%%%EOF\n"
    return trailer % (size, int(number), int(generation))
