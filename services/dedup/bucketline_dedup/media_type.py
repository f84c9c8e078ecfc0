"""What the bytes are, told from the bytes.

The declared type is a hint among formats that bytes cannot tell apart (Markdown and plain text); it never
overrules a format that was recognised, so an executable declared as a picture is stored as what it is.
"""

import csv
import io
import json
import re
from collections import defaultdict
from functools import cache

import puremagic

from bucketline.domain.text_encodings import charset_of, codec_of, decode_start
from bucketline_dedup.containers import boxes_type, ole_type, zip_type
from bucketline_dedup.media_type_tables import (
    CANONICAL,
    HAVE_SIGNATURES,
    MARKS,
    MEDIA_TYPE,
    NAMES,
    SIGNATURES,
    TEXTUAL,
)

UNKNOWN = "application/octet-stream"
HEAD_BYTES = 64 * 1024
DETECTED_BYTES = 2048

# every control character (Unicode's Cc) that no text file has; tabs, line ends, backspaces and escapes they do have
_CONTROLS = re.compile(r"[\x00-\x07\x0b\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a]")
_PDF = re.compile(rb"%PDF-\d\.\d")
# the tags by which browsers know HTML that has no declared type (MIME Sniffing standard, 7.1), and <meta>
_HTML = re.compile(
    r"<(?:!doctype html|html|head|meta|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s>]|<!--"
)
PDF_BYTES = 1024
"""Within how many bytes readers look for the header of a PDF."""


def media_type(head: bytes, *, declared: str | None, filename: str | None) -> str:
    """The media type, lower case and without parameters, of content that begins with ``head``.

    Give at least 4 KiB if there are as many; more than 64 KiB are not looked at.
    """
    head = head[:HEAD_BYTES]
    hints = [hint for hint in (_clean(declared), _by_name(filename)) if hint]
    if not head:
        return next(iter(hints), UNKNOWN)
    if recognised := _by_signature(head, hints):
        return recognised
    textual = any(map(_is_textual, hints))
    text = _as_text(head, charset_of(declared), expected=textual)
    if _PDF.search(head, 0, PDF_BYTES + 8) and (
        text is None or "application/pdf" in hints or (b" obj" in head and not textual)
    ):
        return "application/pdf"
    if text is not None:
        return _text_type(text, hints, whole=len(head) < HEAD_BYTES)
    if recognised := _by_library(head):
        return recognised
    # neither known nor text: a hint may be right (a format without a signature), unless it promises text
    # or a format whose signature would have been found
    return next((h for h in hints if not _is_textual(h) and h not in HAVE_SIGNATURES), UNKNOWN)


def declared_otherwise(recorded: str, declared: str | None) -> bool:
    """Return whether text that is stored under one type is declared as another, which then decides."""
    hint = _clean(declared)
    return hint is not None and hint != recorded and _is_textual(recorded) and _is_textual(hint)


def _by_signature(head: bytes, hints: list[str]) -> str | None:
    """Formats that are certain, and containers that have to be opened."""
    for start, signature, offset, found in SIGNATURES:
        if head.startswith(start) and head.startswith(signature, offset):
            return found
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return zip_type(head, hints)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return ole_type(head, hints)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    return boxes_type(head)


def _by_library(head: bytes) -> str | None:
    """Everything else that has a signature. Not asked about text: prose begins with "BM" or "MZ" too."""
    matches = [
        (len(signature), kind)
        for offset, signatures in _library().items()
        for signature, kind in signatures.get(head[offset : offset + 4], ())
        if head.startswith(signature, offset)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None


@cache
def _library() -> dict[int, dict[bytes, list[tuple[bytes, str]]]]:
    """Return puremagic's table of signatures by place and first four bytes: its own search reads all of it per file."""
    table: dict[int, dict[bytes, list[tuple[bytes, str]]]] = defaultdict(lambda: defaultdict(list))
    for entry in puremagic.magic_header_array:
        kind, signature = str(entry.mime_type).lower(), bytes(entry.byte_match)
        if len(signature) >= 4 and entry.offset >= 0 and MEDIA_TYPE.fullmatch(kind) and not _is_textual(kind):
            table[entry.offset][signature[:4]].append((signature, CANONICAL.get(kind, kind)))
    return {offset: dict(signatures) for offset, signatures in table.items()}


def _as_text(head: bytes, charset: str | None, *, expected: bool) -> str | None:
    """The head as text, or None. A character cut in two at its end is left out.

    ``expected``: text was declared, so that what no control character contradicts is taken for it.
    """
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return _decode(head[len(mark) :], encoding)
    if charset is not None and (codec := codec_of(charset)) and (text := _decode(head, codec)) is not None:
        return text
    if (text := _decode(head, "utf-8")) is not None:
        return text
    # UTF-16 without its mark: about every second byte is NUL, and only on one side
    nul_even, nul_odd = head[0::2].count(0), head[1::2].count(0)
    if max(nul_even, nul_odd) > len(head) * 0.3 and min(nul_even, nul_odd) <= len(head) * 0.02:
        return _decode(head, "utf-16-be" if nul_even > nul_odd else "utf-16-le")
    if _BINARY.search(head) is not None:
        return None
    return _legacy(head, expected=expected)


def _legacy(head: bytes, *, expected: bool) -> str | None:
    """Text in an encoding of before Unicode. Which one does not matter here: what is looked for in it is ASCII."""
    if not expected:
        from turbohtml.detect import detect

        beyond = next((place for place, byte in enumerate(head) if byte >= 0x80), 0)
        if detect(head[beyond : beyond + DETECTED_BYTES]).confidence == 0:
            return None
    return head.decode("latin-1")


def _decode(head: bytes, codec: str) -> str | None:
    text = decode_start(head, codec)
    return None if text is None or _CONTROLS.search(text) else text


def _text_type(text: str, hints: list[str], *, whole: bool) -> str:
    start = text.lstrip("\ufeff \t\r\n")[:1024].lower()
    if hints and hints[0] in {"text/html", "application/xhtml+xml"}:
        return hints[0]
    if start.startswith(("<!doctype html", "<html")):
        return "text/html"
    if start.startswith(("<?xml", "<svg", "<!doctype svg")):
        if "<svg" in start:
            return "image/svg+xml"
        return "application/xhtml+xml" if "<html" in start else "application/xml"
    if start.startswith("{\\rtf"):
        return "application/rtf"
    if start[:1] in {"{", "["} and _is_json(text, whole):
        return next((h for h in hints if h.endswith("+json")), "application/json")
    for hint in hints:
        if hint == "application/json":
            # it was read above, and is not
            return "application/x-ndjson" if _is_json(text.partition("\n")[0], whole=True) else "text/plain"
        if hint not in {"text/plain", "image/svg+xml"} and _is_textual(hint):
            return hint
    if not any(map(_is_textual, hints)) and _HTML.match(start):
        return "text/html"
    return "text/csv" if _is_csv(text, whole) else "text/plain"


def _is_json(text: str, whole: bool) -> bool:
    if whole:
        try:
            json.loads(text.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            return False
        return True
    # only a part of it: an object begins with a key, an array with a value
    return re.match(r'\s*(?:\{\s*(?:"|\})|\[\s*(?:["\[{\]\d-]|true|false|null))', text.lstrip("\ufeff")) is not None


def _is_csv(text: str, whole: bool) -> bool:
    """At least two rows, and every row of the first fifty has the same two or more fields."""
    lines = text.lstrip("\ufeff").splitlines()
    if not whole and len(lines) > 1:
        lines = lines[:-1]
    if len(lines) < 2:
        return False
    first = "\n".join(lines[:50])
    for delimiter in ",;\t":
        if delimiter not in first:
            continue
        rows = [row for row in csv.reader(io.StringIO(first), delimiter=delimiter) if row]
        widths = {len(row) for row in rows}
        if len(rows) >= 2 and len(widths) == 1 and widths.pop() >= 2:
            # prose with one comma in each line is no table: its fields are sentences
            fields = [field for row in rows for field in row]
            if sum(map(len, fields)) / len(fields) < 40 and not any(f.startswith(" ") and len(f) > 20 for f in fields):
                return True
    return False


def _clean(declared: str | None) -> str | None:
    value = (declared or "").partition(";")[0].strip().lower()
    if not MEDIA_TYPE.fullmatch(value) or value in {UNKNOWN, "binary/octet-stream"}:
        return None
    return CANONICAL.get(value, value)


def _by_name(filename: str | None) -> str | None:
    # not the system's tables: the same name must mean the same type on every machine
    return _clean(NAMES.guess_type((filename or "").lower(), strict=False)[0]) if filename else None


def _is_textual(kind: str) -> bool:
    return kind.startswith("text/") or kind.endswith(("+xml", "+json")) or kind in TEXTUAL
