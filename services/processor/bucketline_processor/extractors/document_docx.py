"""Word files (.docx, .docm, .dotx, .dotm; transitional and strict), read from their XML.

No library reads all of it: python-docx refuses macro files, templates, Strict Open XML and dangling relationships;
docx2python and mammoth skip imported files (altChunk), and docx2python fails on a comment without an author.
"""

import re
from collections.abc import Container, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.archive import check_archive
from bucketline_processor.extractors.document_docx_chunks import chunk_text
from bucketline_processor.extractors.document_docx_package import MATH, RELATIONSHIP_ID, WORD, WordPackage
from bucketline_processor.extractors.document_parts import MAX_HEADINGS, text_parts
from bucketline_processor.extractors.values import json_value

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_CHUNK_DEPTH = 3
"""Word files that import Word files that import Word files; what these import is not read."""

_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_TERMS = "{http://purl.org/dc/terms/}"
_PARAGRAPH, _TABLE, _ROW, _CELL, _BOX, _CHUNK = (
    f"{WORD}{name}" for name in ("p", "tbl", "tr", "tc", "txbxContent", "altChunk")
)
_TEXT = {f"{WORD}t", f"{MATH}t"}
_SIGNS = {f"{WORD}{name}": sign for name, sign in (("tab", "\t"), ("ptab", "\t"), ("cr", "\n"), ("noBreakHyphen", "-"))}
_BREAK = f"{WORD}br"
_ALTERNATIVES = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
# Properties; deleted or moved text, where changes are tracked; and how a word is pronounced. All other elements,
# known or not, are read.
_LEFT_OUT = {f"{WORD}{name}" for name in ("pPr", "rPr", "del", "moveFrom", "rt")}
_NOTE_SEPARATORS = ("separator", "continuationSeparator", "continuationNotice")
_NO_XML_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def docx_documents(path: Path, label: str, *, depth: int = 0) -> Iterator[dict[str, object]]:
    """Yield the text in parts: headers, body, footers, footnotes, endnotes and comments, in this order.

    Text is as it stands with all tracked changes accepted, also in content controls, in text boxes (behind their
    paragraph), in formulas and in imported files (``altChunk``); an imported file of a kind that cannot be read is
    named in ``unread_parts``. Tables are lines with tabs between the cells; a table in a cell is part of its line. Of
    cells that are merged the first has the text, those below it are empty.
    """
    check_archive(path, label, "", "Word (.docx)")
    with ZipFile(path) as archive:
        package = WordPackage(archive, label)
        root = package.document()
        unread = _read_chunks(package, root, label, depth)
        common = {"format": "docx", **_properties(package)}
        if headings := list(islice(_headings(package, root), MAX_HEADINGS)):
            common["headings"] = headings
        if unread:
            common["unread_parts"] = unread
        yield from text_parts(_document_lines(package, root), common)


def _document_lines(package: WordPackage, root: "_Element") -> Iterator[str]:
    yield from _margin_lines(package, "header")
    yield from _lines(root)
    yield from _margin_lines(package, "footer")
    for kind in ("footnotes", "endnotes", "comments"):
        for part in package.related(package.main, kind):
            for note in package.xml(part).iterchildren("*"):
                if note.get(f"{WORD}type") not in _NOTE_SEPARATORS:
                    yield from _lines(note)


def _margin_lines(package: WordPackage, kind: str) -> Iterator[str]:
    """Return the lines of each header or footer once: sections repeat them for first, odd and even pages."""
    texts = ("".join(_lines(package.xml(part))) for part in package.related(package.main, kind))
    yield from dict.fromkeys(texts)


def _read_chunks(package: WordPackage, root: "_Element", label: str, depth: int) -> list[str]:
    """Turn each imported file into a paragraph with its text; return the names of those that cannot be read."""
    from lxml import etree

    imported = [part for part in package.relationships(package.main) if part.kind == "aFChunk"]
    targets = {part.relationship_id: part.target for part in imported}
    places = [(place, targets.get(place.get(RELATIONSHIP_ID, ""))) for place in root.iter(_CHUNK)]
    used = {target for _, target in places}
    places += [(etree.SubElement(root, _CHUNK), target) for target in targets.values() if target not in used]
    read_docx = partial(docx_documents, depth=depth + 1)
    unread = []
    for place, target in places:
        text = None
        if target is not None and depth < MAX_CHUNK_DEPTH:
            with suppress(PermanentError):
                text = chunk_text(package.read(target), label, read_docx)
        if text is not None:
            place.tag = _PARAGRAPH
            etree.SubElement(place, f"{WORD}t").text = _NO_XML_TEXT.sub("", text.strip())
        elif target is not None:
            unread.append(target)
    return unread


def _lines(parent: "_Element") -> Iterator[str]:
    for block in _nearest(parent, (_PARAGRAPH, _TABLE)):
        if block.tag == _TABLE:
            for row in _nearest(block, (_ROW,)):
                if row.find(f"{WORD}trPr/{WORD}del") is None:
                    yield "\t".join(_in_line(cell) for cell in _nearest(row, (_CELL,))) + "\n"
            yield "\n"
        else:
            if text := _text(block):
                yield text + "\n\n"
            for box in _nearest(block, (_BOX,)):
                yield from _lines(box)


def _nearest(parent: "_Element", tags: Container[object]) -> Iterator["_Element"]:
    """Yield the elements with these tags at any depth, but not those inside of one another."""
    for child in _children(parent):
        if child.tag in tags:
            yield child
        else:
            yield from _nearest(child, tags)


def _children(parent: "_Element") -> Iterator["_Element"]:
    """Yield the children that are read; of alternatives the first: the others repeat it for older programs."""
    for child in parent.iterchildren("*"):
        if child.tag == _ALTERNATIVES:
            for alternative in child[:1]:
                yield from _children(alternative)
        elif child.tag not in _LEFT_OUT:
            yield child


def _in_line(cell: "_Element") -> str:
    return re.sub(r"[\t\n]+", " ", "".join(_lines(cell))).strip(" ")


def _text(parent: "_Element") -> str:
    """Return the text of a paragraph, or of a part of it, without that of its text boxes."""
    pieces = []
    for child in _children(parent):
        if child.tag in _TEXT:
            pieces.append(child.text or "")
        elif child.tag in _SIGNS:
            pieces.append(_SIGNS[child.tag])
        elif child.tag == _BREAK:
            pieces.append("" if child.get(f"{WORD}type") in ("page", "column") else "\n")
        elif child.tag != _BOX:
            pieces.append(_text(child))
    return "".join(pieces)


def _properties(package: WordPackage) -> dict[str, object]:
    """Return the core properties of the file; nothing if they are damaged, because the text matters more."""
    for part in package.related("", "core-properties"):
        try:
            core = package.xml(part)
        except PermanentError:
            continue
        named = {"title": "title", "author": "creator", "language": "language"}
        texts = {name: core.findtext(f"{_DUBLIN_CORE}{element}") for name, element in named.items()}
        found: dict[str, object] = {name: json_value(text) for name, text in texts.items() if text}
        dates = {f"{name}_at": _moment(core.findtext(f"{_TERMS}{name}")) for name in ("created", "modified")}
        if details := {name: json_value(date) for name, date in dates.items() if date}:
            found["file"] = details
        return found
    return {}


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _headings(package: WordPackage, root: "_Element") -> Iterator[str]:
    styles = {
        style.get(f"{WORD}styleId")
        for part in package.related(package.main, "styles")
        for style in package.xml(part).iterchildren(f"{WORD}style")
        if _style_name(style).lower().startswith("heading")
    }
    for paragraph in _nearest(root, (_PARAGRAPH,)):
        style = paragraph.find(f"{WORD}pPr/{WORD}pStyle")
        if style is not None and style.get(f"{WORD}val") in styles and (text := _text(paragraph)):
            yield text[:500]


def _style_name(style: "_Element") -> str:
    name = style.find(f"{WORD}name")
    return "" if name is None else name.get(f"{WORD}val", "")
