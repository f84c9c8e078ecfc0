"""Word files, by python-docx; their text is read from the XML, since python-docx passes over what it does not model."""

import re
import zlib
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from bucketline.extraction import PermanentError
from processor.extractors.archive import check_archive
from processor.extractors.document_parts import MAX_HEADINGS, text_parts
from processor.extractors.values import json_value

if TYPE_CHECKING:
    from docx.document import Document as WordDocument
    from docx.oxml.xmlchemy import BaseOxmlElement

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_PARAGRAPH, _TABLE, _ROW, _CELL, _BOX = (f"{_WORD}{name}" for name in ("p", "tbl", "tr", "tc", "txbxContent"))
_TEXT = {f"{_WORD}t", f"{_MATH}t"}
_SIGNS = {
    f"{_WORD}{name}": sign for name, sign in (("tab", "\t"), ("ptab", "\t"), ("cr", "\n"), ("noBreakHyphen", "-"))
}
_BREAK = f"{_WORD}br"
# Properties; what is deleted or was elsewhere, where changes are tracked; how a word is said; and, for older programs,
# the same once more. Whatever else there is, known or not, is looked into.
_LEFT_OUT = {f"{_WORD}{name}" for name in ("pPr", "rPr", "del", "moveFrom", "rt")} | {f"{_COMPATIBILITY}Fallback"}


def docx_documents(path: Path, label: str) -> Iterator[dict[str, object]]:
    """The text in reading order, tables as lines with tabs between the cells; a table in a cell is part of its line.

    Text is as it stands with all tracked changes accepted, also in content controls, in text boxes (behind their
    paragraph) and in formulas. Of cells that are merged the first has the text, those below it are empty.
    """
    import docx
    from docx.opc.exceptions import PackageNotFoundError

    check_archive(path, label, "word/", "Word (.docx)")
    try:
        document = docx.Document(str(path))
        about = _about(document)
    except (
        *(PackageNotFoundError, BadZipFile, zlib.error, NotImplementedError),
        *(KeyError, ValueError, AttributeError, EOFError, OSError),
        SyntaxError,  # lxml's XMLSyntaxError is one
    ) as error:
        raise PermanentError(f"{label} is damaged: it is not a complete Word (.docx) file") from error
    yield from text_parts(_lines(document.element.body), {"format": "docx", **about})


def _lines(parent: "BaseOxmlElement") -> Iterator[str]:
    for block in _nearest(parent, (_PARAGRAPH, _TABLE)):
        if block.tag == _TABLE:
            for row in _nearest(block, (_ROW,)):
                if row.find(f"{_WORD}trPr/{_WORD}del") is None:
                    yield "\t".join(_in_line(cell) for cell in _nearest(row, (_CELL,))) + "\n"
            yield "\n"
        else:
            if text := _text(block):
                yield text + "\n\n"
            for box in _nearest(block, (_BOX,)):
                yield from _lines(box)


def _nearest(parent: "BaseOxmlElement", tags: Container[object]) -> Iterator["BaseOxmlElement"]:
    """The elements with these tags, through whatever stands around them, but not those inside of one another."""
    for child in parent:
        if child.tag in tags:
            yield child
        elif child.tag not in _LEFT_OUT:
            yield from _nearest(child, tags)


def _in_line(cell: "BaseOxmlElement") -> str:
    return re.sub(r"[\t\n]+", " ", "".join(_lines(cell))).strip(" ")


def _text(parent: "BaseOxmlElement") -> str:
    """What the paragraph, or a part of it, says by itself; its text boxes stand behind it."""
    said = []
    for child in parent:
        if child.tag in _TEXT:
            said.append(child.text or "")
        elif child.tag in _SIGNS:
            said.append(_SIGNS[child.tag])
        elif child.tag == _BREAK:
            said.append("" if child.get(f"{_WORD}type") in ("page", "column") else "\n")
        elif child.tag != _BOX and child.tag not in _LEFT_OUT:
            said.append(_text(child))
    return "".join(said)


def _about(document: "WordDocument") -> dict[str, object]:
    core = document.core_properties
    named: dict[str, object] = {"title": core.title, "author": core.author, "language": core.language}
    try:
        dated: dict[str, object] = {"created_at": core.created, "modified_at": core.modified}
    except ValueError:  # a date that is none: Word writes what it is told
        dated = {}
    found = {name: json_value(value) for name, value in named.items() if value}
    details = {name: json_value(value) for name, value in dated.items() if value}
    if headings := list(islice(_headings(document), MAX_HEADINGS)):
        found["headings"] = headings
    return {**found, "file": details} if details else found


def _headings(document: "WordDocument") -> Iterator[str]:
    styles = {style.style_id for style in document.styles if (style.name or "").startswith("Heading")}
    for paragraph in _nearest(document.element.body, (_PARAGRAPH,)):
        style = paragraph.find(f"{_WORD}pPr/{_WORD}pStyle")
        if style is not None and style.get(f"{_WORD}val") in styles and (text := _text(paragraph)):
            yield text[:500]
