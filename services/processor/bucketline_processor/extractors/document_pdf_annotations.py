"""Annotations of PDF pages: form fields with their values, notes and attached files."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

MAX_ANNOTATIONS = 10_000
MAX_VALUE_CHARS = 100_000
MAX_ATTACHMENTS = 1000

_FIELD_TYPES = {2: "checkbox", 3: "radio", 4: "combobox", 5: "listbox", 6: "text"}  # FPDF_FORMFIELD_…
_BUTTONS = frozenset(("checkbox", "radio"))
UNCHECKED = "Off"
PASSWORD_FLAG = 1 << 13
"""The value of a password field is never shown, and so not read."""


@dataclass(slots=True)
class PageAnnotations:
    """``form_fields`` are those with a value, each with ``name``, ``type`` and ``value``; a name occurs once."""

    form_fields: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    attachments: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the values that are filled in or chosen, line by line, and the notes."""
        lines = []
        for form_field in self.form_fields.values():
            value = form_field["value"]
            if value != UNCHECKED:
                shown = ", ".join(value) if isinstance(value, list) else value
                lines.append(f"{form_field['name']}: {shown}")
        return "\n".join(lines + self.notes)


def read_annotations(document: Any, page: Any) -> PageAnnotations:
    """Read the annotations of a pypdfium2 page; call ``document.init_forms()`` before loading the page.

    Hidden annotations, links and pop-ups are left out: a pop-up repeats the note that it belongs to.
    """
    import pypdfium2.raw as pdfium

    found = PageAnnotations()
    unread = (pdfium.FPDF_ANNOT_POPUP, pdfium.FPDF_ANNOT_LINK)
    for index in range(min(pdfium.FPDFPage_GetAnnotCount(page), MAX_ANNOTATIONS)):
        with _annotation(page, index) as annotation:
            if annotation is None or pdfium.FPDFAnnot_GetFlags(annotation) & pdfium.FPDF_ANNOT_FLAG_HIDDEN:
                continue
            kind = pdfium.FPDFAnnot_GetSubtype(annotation)
            if kind == pdfium.FPDF_ANNOT_WIDGET:
                if document.formenv and (form_field := _form_field(document.formenv, annotation)):
                    found.form_fields.setdefault(str(form_field["name"]), form_field)
            elif kind not in unread:
                if note := _entry(annotation, b"Contents") or _plain(_entry(annotation, b"RC")):
                    found.notes.append(note)
                if name := _file_name(pdfium.FPDFAnnot_GetFileAttachment(annotation)):
                    found.attachments.append(name)
    return found


def attachment_names(document: Any) -> list[str]:
    """Return the names of the files that are embedded in the whole document."""
    import pypdfium2.raw as pdfium

    count = min(document.count_attachments(), MAX_ATTACHMENTS)
    names = (_file_name(pdfium.FPDFDoc_GetAttachment(document, index)) for index in range(count))
    return [name for name in names if name]


def _file_name(attachment: Any) -> str:
    import pypdfium2.raw as pdfium

    return _string(partial(pdfium.FPDFAttachment_GetName, attachment)) if attachment else ""


@contextmanager
def _annotation(page: Any, index: int) -> Iterator[Any]:
    import pypdfium2.raw as pdfium

    annotation = pdfium.FPDFPage_GetAnnot(page, index)
    try:
        yield annotation
    finally:
        if annotation:
            pdfium.FPDFPage_CloseAnnot(annotation)


def _form_field(form: Any, annotation: Any) -> dict[str, object] | None:
    import pypdfium2.raw as pdfium

    kind = _FIELD_TYPES.get(pdfium.FPDFAnnot_GetFormFieldType(form, annotation))
    if kind is None:  # push buttons and signatures have no value
        return None
    if kind == "text" and pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation) & PASSWORD_FLAG:
        return None
    value: object = _string(partial(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation))
    if kind in _BUTTONS:
        value = value or UNCHECKED
    elif kind == "text":
        value = value or _plain(_entry(annotation, b"RV"))
    elif chosen := _chosen(form, annotation):
        value = chosen if kind == "listbox" else chosen[0]
    name = _string(partial(pdfium.FPDFAnnot_GetFormFieldName, form, annotation))
    return {"name": name, "type": kind, "value": value} if value else None


def _chosen(form: Any, annotation: Any) -> list[str]:
    """Return the labels of the options that are selected in a list."""
    import pypdfium2.raw as pdfium

    return [
        _string(partial(pdfium.FPDFAnnot_GetOptionLabel, form, annotation, option))
        for option in range(min(pdfium.FPDFAnnot_GetOptionCount(form, annotation), MAX_ANNOTATIONS))
        if pdfium.FPDFAnnot_IsOptionSelected(form, annotation, option)
    ]


def _entry(annotation: Any, key: bytes) -> str:
    import pypdfium2.raw as pdfium

    return _string(partial(pdfium.FPDFAnnot_GetStringValue, annotation, key))


def _string(read: Callable[[Any, int], int]) -> str:
    """Return the UTF-16 string of a PDFium function that fills a buffer and returns its size in bytes."""
    import pypdfium2.raw as pdfium

    size = read(None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    read(ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    text = buffer.raw[: size - 2].decode("utf-16-le", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()[:MAX_VALUE_CHARS]


def _plain(rich: str) -> str:
    """Return the text of the XHTML that rich text is kept in."""
    from lxml import etree, html

    if not rich:
        return ""
    try:
        return str(html.fromstring(rich.encode(), parser=html.HTMLParser(encoding="utf-8")).text_content()).strip()
    except (etree.ParserError, etree.XMLSyntaxError):
        return ""
