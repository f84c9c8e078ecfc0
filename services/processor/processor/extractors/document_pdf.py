"""PDF pages, by pypdf."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bucketline.extraction import PermanentError, ResourceError
from processor.extractors.document_pdf_repair import with_new_trailer
from processor.extractors.values import json_value

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

TAIL_BYTES = 2048
MAX_PAGE_CHARS = 1_000_000
POINTS_DIGITS = 2
BEYOND_REPAIR = "is cut off or damaged and could not be repaired"

# pypdf reports each repaired oddity of a file; a service that reads strangers' files would log little else.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def pdf_documents(path: Path, label: str, max_pages: int, empty_pages: bool) -> Iterator[dict[str, object]]:
    """The fields of one document a page.

    A file that was cut off is read as far as pypdf can repair it, and every page then says ``repaired``.
    Raises ``PermanentError`` for an encrypted file, for one that cannot be repaired, and for one with no
    page, or none that can be read; ``ResourceError`` for too many pages.
    """
    reader, whole = _opened(path, label)
    count, about = len(reader.pages), _about(reader)
    if count == 0:
        raise PermanentError(f"{label} has no pages" if whole else f"{label} {BEYOND_REPAIR}")
    if count > max_pages:
        raise ResourceError(f"{label} has {count} pages; this collection allows {max_pages}")
    common: dict[str, object] = {"format": "pdf", "page_count": count, **about}
    if not whole:
        common["repaired"] = True
    problems = []
    for number in range(count):
        fields = _page(reader, number)
        if "page_error" in fields:
            problems.append(fields["page_error"])
        if fields["has_text"] or empty_pages:
            yield {**fields, **common}
    if len(problems) == count:
        raise PermanentError(f"{label} has no page that can be read: {problems[0]}")


def _opened(path: Path, label: str) -> tuple["PdfReader", bool]:
    """A reader whose pages can be counted, and whether the file has its end."""
    whole = not _is_cut_off(path)
    try:
        return _readable(path, label), whole
    except PermanentError:
        if whole or (repaired := with_new_trailer(path)) is None:
            raise
        return _readable(repaired, label), False


def _readable(file: Path | IO[bytes], label: str) -> "PdfReader":
    from pypdf import PdfReader
    from pypdf.errors import LimitReachedError, PyPdfError

    try:
        reader = PdfReader(file, strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise PermanentError(f"{label} is encrypted: it cannot be read without its password")
        len(reader.pages)
    except LimitReachedError as error:
        raise ResourceError(f"{label} unpacks to more than is allowed") from error
    except NotImplementedError as error:
        raise PermanentError(f"{label} is encrypted in a way that is not supported") from error
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        raise PermanentError(f"{label} {BEYOND_REPAIR}") from error
    return reader


def _page(reader: "PdfReader", number: int) -> dict[str, object]:
    """One page; a damaged page is a document with ``page_error``, so that the rest of the file counts."""
    from pypdf.errors import LimitReachedError

    fields: dict[str, object] = {"text": "", "page_number": number + 1, "has_text": False, "needs_ocr": False}
    try:
        page = reader.pages[number]
        fields["page"] = _geometry(page)
        text = (page.extract_text() or "").strip()
        fields["text"] = json_value(text[:MAX_PAGE_CHARS])
        fields["has_text"] = bool(text)
        if len(text) > MAX_PAGE_CHARS:
            fields["text_truncated"] = True
        if not text:
            fields["needs_ocr"] = _shows_image(page)
    except MemoryError:
        raise
    except LimitReachedError:
        fields["page_error"] = "the page unpacks to more than is allowed"
    except Exception:  # pypdf raises almost anything on damaged content
        fields["page_error"] = "the page is damaged"
    return fields


def _geometry(page: "PageObject") -> dict[str, object]:
    return {
        "width": round(float(page.mediabox.width), POINTS_DIGITS),
        "height": round(float(page.mediabox.height), POINTS_DIGITS),
        "rotation": int(page.rotation or 0),
    }


def _shows_image(page: "PageObject") -> bool:
    """Whether the page has pictures, looked up by name: they are not decoded."""
    return len(page.images.keys()) > 0


def _about(reader: "PdfReader") -> dict[str, object]:
    """The document information; nothing where it is damaged, since the text is worth more."""
    try:
        raw = reader.metadata
        if raw is None:
            return {}
        named = {
            "title": raw.title,
            "author": raw.author,
            "subject": raw.subject,
            "creator": raw.creator,
            "producer": raw.producer,
        }
        dated = {"created_at": raw.creation_date, "modified_at": raw.modification_date}
    except Exception:  # as above: damaged metadata raises almost anything
        return {}
    found: dict[str, object] = {name: json_value(str(text)) for name, text in named.items() if text}
    found |= {name: json_value(moment) for name, moment in dated.items() if moment}
    about: dict[str, object] = {name: found.pop(name) for name in ("title", "author") if name in found}
    return {**about, "file": found} if found else about


def _is_cut_off(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        return b"%%EOF" not in file.read()
