"""HTML pages, decoded and parsed as browsers do (the WHATWG standards, by turbohtml)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bucketline.domain.text_encodings import codec_of
from bucketline.extractors import PermanentError, ResourceError
from bucketline_processor.extractors.decoding import ESCAPE, SAMPLE_BYTES, beyond_ascii, guess_encoding, unicode_of
from bucketline_processor.extractors.document_parts import MAX_HEADINGS, text_parts
from bucketline_processor.extractors.values import json_value

if TYPE_CHECKING:
    from turbohtml import Document, Node

MAX_BYTES = 32 * 1024 * 1024

HIDDEN = frozenset((
    "annotation", "annotation-xml", "desc", "head", "iframe", "metadata", "noscript", "script", "style", "template",
    "title",
))  # fmt: skip
CELLS = frozenset(("td", "th"))
PREFORMATTED = frozenset(("pre", "textarea", "listing", "xmp", "plaintext"))
APART = frozenset((
    "button", "input", "select", "text", "textarea",
))  # fmt: skip
"""Inline elements whose text is not one word with the text around them."""
BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "dialog",
    "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5",
    "h6", "header", "hgroup", "hr", "legend", "li", "listing", "main", "menu", "nav", "ol", "optgroup", "option",
    "p", "plaintext", "pre", "search", "section", "summary", "svg", "table", "tbody", "tfoot", "thead", "tr", "ul",
    "xmp",
))  # fmt: skip

_XML_ENCODING = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")
_SPACE = re.compile(r"\s+")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)


def html_documents(
    path: Path, label: str, charset: str | None = None, *, xhtml: bool = False
) -> Iterator[dict[str, object]]:
    """Yield the text that a browser would show, block by block, and what the head says.

    ``charset`` is the one declared with the content; it gives way to a byte order mark only.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ResourceError(f"{label} has {size} bytes of HTML; {MAX_BYTES} are allowed")
    page = _parsed(path, label, charset, xhtml=xhtml)
    yield from text_parts(_lines(page), {"format": "html", **_about(page)})


def _parsed(path: Path, label: str, charset: str | None, *, xhtml: bool) -> "Document":
    """Parse a page in the encoding of its mark, of its transport, of its declaration, or the one its bytes show."""
    from turbohtml import parse

    data = path.read_bytes()
    xml = _XML_ENCODING.match(data)
    codec = unicode_of(path) or (codec_of(charset) if charset else None)
    if codec is None and xhtml:
        codec = codec_of(xml[1].decode()) if xml else "utf-8"
    if codec is None:
        page = parse(data, positions=False)
        if page.encoding == "replacement":
            codec = _refused_by_browsers(data, label)
        elif page.encoding not in ("UTF-8", "windows-1252") or _declares_charset(page):
            return page
        elif xml:
            codec = codec_of(xml[1].decode())
        elif page.encoding == "UTF-8" and ESCAPE not in data:
            return page
        del page  # the tree takes many times the memory of the page
    codec = codec or guess_encoding(beyond_ascii(path) or data[max(0, data.find(ESCAPE)) :][:SAMPLE_BYTES])
    codec = codec or "web-windows-1252"
    text = data.decode(codec, "replace").removeprefix("\ufeff")
    return _parsed_text(text, xml=xhtml or text.startswith("<?xml"))


def _parsed_text(text: str, *, xml: bool) -> "Document":
    """Parse decoded markup. Well-formed XHTML is read as XML: to HTML, ``<title/>`` begins a title without an end."""
    from turbohtml import HTMLParseError, parse, parse_xml

    if xml:
        try:
            page = parse_xml(text)
        except HTMLParseError:
            pass
        else:
            if page.select_one("html") is not None:
                return page
    return parse(text, positions=False)


def _declares_charset(page: "Document") -> bool:
    """Return whether a ``<meta>`` of the page declares a known charset."""
    labels = [str(meta.attrs["charset"]) for meta in page.select("meta[charset]")]
    for meta in page.select('meta[http-equiv="content-type" i][content]'):
        labels += _CHARSET.findall(str(meta.attrs["content"]))
    return any(codec_of(label) for label in labels)


def _refused_by_browsers(data: bytes, label: str) -> str:
    """Return a codec for an encoding that browsers refuse; their reason, hidden scripts, does not apply here."""
    labels = _CHARSET.findall(data.decode("latin-1"))
    if (codec := next(filter(None, map(codec_of, labels)), None)) is None:
        raise PermanentError(f"{label} declares the charset {labels[0]!r}, which cannot be decoded")
    return codec


def _lines(page: "Document") -> Iterator[str]:
    """Yield each line with runs of white space reduced to one space, except preformatted text.

    Several empty lines become one.
    """
    line: list[str] = []
    kept = False
    blank = True
    for text, preformatted in _pieces(page):
        if not preformatted:
            words = _SPACE.sub(" ", text)
            if not line or line[-1].endswith((" ", "\t")):
                words = words.removeprefix(" ")
            if words:
                line.append(words)
            continue
        for place, part in enumerate(text.split("\n")):
            if place:
                shown = "".join(line).replace(" \t", "\t")
                shown = shown.rstrip() if kept else shown.strip()
                if shown or not blank:
                    yield shown + "\n"
                line, kept, blank = [], False, not shown
            if part:
                line.append(part)
                kept = kept or part != "\t"


def _pieces(page: "Document") -> Iterator[tuple[str, bool]]:
    """Yield the text in document order, and whether its white space is significant. Ends with a line feed.

    Line feeds stand around each block, a tab after each cell. Without recursion: pages may be nested tens of thousands
    of levels deep.
    """
    from turbohtml import CData, Document, Element, Text

    left: list[tuple[Node | str, bool]] = [("\n", True), (page, False)]
    while left:
        node, preformatted = left.pop()
        if isinstance(node, str):
            yield node, preformatted
        elif isinstance(node, Text | CData):
            yield node.data, preformatted
        elif isinstance(node, Element | Document):
            tag = node.tag.lower() if isinstance(node, Element) else ""
            if tag in HIDDEN:
                continue
            before = after = ("\n", True) if tag in BLOCKS else (" ", False) if tag in APART else ("", False)
            if tag in CELLS:
                after = ("\t", True)
            elif tag == "br":
                before = ("", False)
            inside = preformatted or tag in PREFORMATTED
            left.append(after)
            left += [(child, inside) for child in reversed(node.children)]
            left.append(before)


def _about(page: "Document") -> dict[str, object]:
    found: dict[str, object] = {}
    if (title := page.select_one("head > title")) is not None and (text := " ".join(title.text.split())):
        found["title"] = text[:1000]
    if (root := page.select_one("html")) is not None and (language := root.attrs.get("lang")):
        found["language"] = str(language)
    for name in ("author", "description"):
        meta = page.select_one(f'meta[name="{name}" i]')
        if meta is not None and (content := meta.attrs.get("content")):
            found[name] = str(content)[:5000]
    titles = [" ".join(heading.text.split())[:500] for heading in page.select("h1, h2, h3")[:MAX_HEADINGS]]
    if titles:
        found["headings"] = titles
    return {name: json_value(value) for name, value in found.items()}
