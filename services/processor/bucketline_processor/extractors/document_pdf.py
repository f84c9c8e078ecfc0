"""PDF pages, read by PDFium as browsers do, including damaged files and predefined CJK encodings."""

import logging
import mmap
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from bucketline.extractors import PermanentError, ResourceError
from bucketline_processor.extractors.document_pdf_annotations import attachment_names, read_annotations
from bucketline_processor.extractors.values import json_value

HEADER = b"%PDF-"
HEADER_WITHIN = 1024
"""Number of bytes in which PDFium looks for the header, like other readers."""
MAX_REPAIRED_BYTES = 256 * 1024 * 1024
MAX_PAGE_CHARS = 1_000_000
POINTS_DIGITS = 2
NESTED_FORMS = 5
ANYWHERE = 1e7
LINE_END_HYPHEN = "\x02"
BEYOND_REPAIR = "is cut off or damaged and could not be repaired"

_DATE = re.compile(r"D?:?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:(Z)|([+-])(\d\d)'?(\d\d)?)?")
_CATALOG = re.compile(rb"(\d{1,10})\s+(\d{1,5})\s+obj\s*<<(?:(?!endobj).){0,4096}?/Type\s*/Catalog\b", re.DOTALL)
_OBJECT = re.compile(rb"(\d{1,10})\s+\d{1,5}\s+obj\b")
_FORMAT_ERROR, _PASSWORD_ERROR, _SECURITY_ERROR = 3, 4, 5  # FPDF_ERR_…

logging.getLogger("pypdfium2").setLevel(logging.CRITICAL)  # it warns of XFA forms, which has_xfa reports


def pdf_documents(path: Path, label: str, max_pages: int, empty_pages: bool) -> Iterator[dict[str, object]]:
    """Yield the fields of one document per page.

    ``text`` is that of the page, then the values of its form fields and its notes. A file that was cut off is read as
    far as possible, and every page then has ``repaired``. Raises ``PermanentError`` for an encrypted file, for one that
    cannot be repaired, and for one with no page, or none that can be read; ``ResourceError`` for too many pages.
    """
    document, repaired = _opened(path, label)
    with document as pdf:
        count = len(pdf)
        if count == 0:
            raise PermanentError(f"{label} {BEYOND_REPAIR}" if repaired else f"{label} has no pages")
        if count > max_pages:
            raise ResourceError(f"{label} has {count} pages; this collection allows {max_pages}")
        common, embedded = _common(pdf, count), attachment_names(pdf)
        if embedded:
            common["attachments"] = json_value(embedded)
        if repaired:
            common["repaired"] = True
        problems = 0
        for number in range(count):
            fields = {**common, **_page(pdf, number, embedded)}
            problems += "page_error" in fields
            if fields["has_text"] or empty_pages:
                yield fields
        if problems == count:
            raise PermanentError(f"{label} has no page that can be read: its pages are missing or damaged")


def _opened(path: Path, label: str) -> tuple[Any, bool]:
    """Return the document, and whether its end was missing or had to be replaced."""
    from pypdfium2 import PdfDocument, PdfiumError

    code = _FORMAT_ERROR
    for file, repaired in _candidates(path):
        try:
            document = PdfDocument(file)
        except PdfiumError as error:
            code = error.err_code
            if code != _FORMAT_ERROR:
                break
        else:
            with suppress(PdfiumError):  # without its form, a file still has its text
                document.init_forms()
            return document, repaired
    if code == _PASSWORD_ERROR:
        raise PermanentError(f"{label} is encrypted: it cannot be read without its password")
    if code == _SECURITY_ERROR:
        raise PermanentError(f"{label} is encrypted in a way that is not supported")
    raise PermanentError(f"{label} {BEYOND_REPAIR}")


def _candidates(path: Path) -> Iterator[tuple[Path | bytes, bool]]:
    """Yield the file, then without the bytes before its header, then with a new trailer; and whether it is repaired."""
    cut_off = not _has_end(path)
    yield path, cut_off
    if path.stat().st_size <= MAX_REPAIRED_BYTES:
        content = path.read_bytes()
        content = content[max(content.find(HEADER), 0) :]
        yield content, cut_off
        if trailer := _new_trailer(content):
            yield content + trailer, True


def _common(pdf: Any, count: int) -> dict[str, object]:
    """Return the fields that all pages have."""
    import pypdfium2.raw as pdfium

    common: dict[str, object] = {"format": "pdf", "page_count": count, **_properties(pdf)}
    if pdf.get_formtype() in (pdfium.FORMTYPE_XFA_FULL, pdfium.FORMTYPE_XFA_FOREGROUND):
        common["has_xfa"] = True
    return common


def _page(pdf: Any, number: int, embedded: list[str]) -> dict[str, object]:
    """Read one page; a damaged page is a document with ``page_error``, so that the rest of the file counts."""
    from pypdfium2 import PdfiumError

    fields: dict[str, object] = {"text": "", "page_number": number + 1, "has_text": False, "needs_ocr": False}
    try:
        with closing(pdf[number]) as page:
            fields["page"] = _geometry(page)
            raw = page.get_textpage().get_text_bounded(-ANYWHERE, -ANYWHERE, ANYWHERE, ANYWHERE)
            on_top = read_annotations(pdf, page)
            if not raw.strip():
                fields["needs_ocr"] = _shows_anything(page, blank=bool(raw))
    except PdfiumError:
        fields["page_error"] = "the page is missing or damaged"
        return fields
    parts = (raw.replace("\r\n", "\n").replace(LINE_END_HYPHEN, "-\n").strip(), on_top.text())
    text = "\n\n".join(part for part in parts if part)
    fields["text"] = json_value(text[:MAX_PAGE_CHARS])
    fields["has_text"] = bool(text)
    if len(text) > MAX_PAGE_CHARS:
        fields["text_truncated"] = True
    if on_top.form_fields:
        fields["form_fields"] = json_value(list(on_top.form_fields.values()))
    if on_top.attachments:
        fields["attachments"] = json_value([*embedded, *on_top.attachments])
    return fields


def _geometry(page: Any) -> dict[str, object]:
    """Return the size as shown before it is rotated: the crop box, or US letter where a file has no usable box."""
    rotation = page.get_rotation()
    width, height = page.get_size() if rotation % 180 == 0 else reversed(page.get_size())
    return {"width": round(width, POINTS_DIGITS), "height": round(height, POINTS_DIGITS), "rotation": rotation}


def _shows_anything(page: Any, blank: bool) -> bool:
    """Return whether a page without text has pictures, or text in a font without a mapping to characters."""
    import pypdfium2.raw as pdfium

    kinds = [pdfium.FPDF_PAGEOBJ_IMAGE] if blank else [pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_TEXT]
    for shown in page.get_objects(filter=kinds, max_depth=NESTED_FORMS):
        left, bottom, right, top = shown.get_bounds()
        if right > left or top > bottom:  # a space alone has no size
            return True
    return False


def _properties(pdf: Any) -> dict[str, object]:
    raw = pdf.get_metadata_dict(skip_empty=True)
    found: dict[str, object] = {
        name.lower(): json_value(raw[name])
        for name in ("Title", "Author", "Subject", "Creator", "Producer")
        if name in raw
    }
    for name, key in (("created_at", "CreationDate"), ("modified_at", "ModDate")):
        if moment := _moment(raw.get(key, "")):
            found[name] = json_value(moment)
    about: dict[str, object] = {name: found.pop(name) for name in ("title", "author") if name in found}
    return {**about, "file": found} if found else about


def _moment(text: str) -> datetime | None:
    """Return the time that a PDF date (``D:20260301120000+01'00'``) means; None when it is not one."""
    if not (match := _DATE.match(text.strip())):
        return None
    year, *rest, utc, sign, hours, minutes = match.groups()
    month, day, *clock = rest
    with suppress(ValueError):
        zone: timezone | None = UTC if utc else None
        if sign:
            offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
            zone = timezone(offset if sign == "+" else -offset)
        hour, minute, second = (int(part or 0) for part in clock)
        return datetime(int(year), int(month or 1), int(day or 1), hour, minute, second, tzinfo=zone)
    return None


def _has_end(path: Path) -> bool:
    """Return whether the end marker follows the last object; any bytes may follow it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.rfind(b"%%EOF") > content.rfind(b" obj")


def _new_trailer(content: bytes) -> bytes | None:
    """Return a new trailer for a PDF whose end is missing, as interrupted uploads leave it.

    PDFium finds the objects of a damaged file by searching, but needs a trailer to find the catalog. Return ``None``
    when the catalog is missing or compressed.
    """
    catalogs = list(_CATALOG.finditer(content))
    if not catalogs:
        return None
    number, generation = catalogs[-1].group(1), catalogs[-1].group(2)
    size = 1 + max(int(found.group(1)) for found in _OBJECT.finditer(content))
    trailer = b"\ntrailer\n<< /Size %d /Root %d %d R >>\nstartxref\n0\n%%%%EOF\n"
    return trailer % (size, int(number), int(generation))
