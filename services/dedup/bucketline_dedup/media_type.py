"""Detects the media type of content from its bytes.

The declared type is a hint among formats that their bytes do not distinguish (Markdown and plain text). It never
overrules a format that was recognized, so an executable declared as an image is stored as an executable.
"""

import csv
import io
import json
import re
import struct
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections import defaultdict
from functools import cache
from mimetypes import MimeTypes

import puremagic

from bucketline.domain.text_encodings import charset_of, codec_of, decode_start

UNKNOWN = "application/octet-stream"
HEAD_BYTES = 64 * 1024
DETECTED_BYTES = 2048

# Control characters that text files do not contain, unlike tabs, line ends, backspaces and escapes.
_CONTROLS = re.compile(r"[\x00-\x07\x0b\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a]")
_PDF = re.compile(rb"%PDF-\d\.\d")
# The tags by which browsers recognize HTML without a declared type (MIME Sniffing standard, 7.1), and <meta>.
_HTML = re.compile(
    r"<(?:!doctype html|html|head|meta|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s>]|<!--"
)
PDF_BYTES = 1024
"""Readers look for the header of a PDF within this many bytes."""

_NAMES = MimeTypes(filenames=())
for _kind, _extension in (
    ("text/markdown", ".md"),
    ("application/x-ndjson", ".jsonl"),
    ("application/x-ndjson", ".ndjson"),
    ("application/yaml", ".yaml"),
    ("application/yaml", ".yml"),
    ("application/vnd.apache.parquet", ".parquet"),
):
    _NAMES.add_type(_kind, _extension)

MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
_TEXTUAL = frozenset(
    {
        "application/json",
        "application/rtf",
        "application/x-ndjson",
        "application/xml",
        "application/yaml",
        "application/javascript",
        "application/sql",
        "application/toml",
    }
)
# UTF-32 LE begins with the mark of UTF-16 LE, so it comes first.
_MARKS = (
    (BOM_UTF8, "utf-8"),
    (BOM_UTF32_LE, "utf-32-le"),
    (BOM_UTF32_BE, "utf-32-be"),
    (BOM_UTF16_LE, "utf-16-le"),
    (BOM_UTF16_BE, "utf-16-be"),
)
# Beginning, signature, its offset, type: long enough, or with a byte that no text contains.
_SIGNATURES: tuple[tuple[bytes, bytes, int, str], ...] = (
    (b"", b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"", b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"", b"GIF87a", 0, "image/gif"),
    (b"", b"GIF89a", 0, "image/gif"),
    (b"BM", b"\0\0\0\0", 6, "image/bmp"),
    (b"", b"II*\0", 0, "image/tiff"),
    (b"", b"MM\0*", 0, "image/tiff"),
    (b"", b"II+\0\x08\0\0\0", 0, "image/tiff"),
    (b"", b"MM\0+\0\x08\0\0", 0, "image/tiff"),
    (b"", b"\xff\x4f\xff\x51", 0, "image/j2c"),
    (b"", b"%PDF-", 0, "application/pdf"),
    (b"", b"PAR1\x15", 0, "application/vnd.apache.parquet"),
    (b"", b"\x1f\x8b\x08", 0, "application/gzip"),
    (b"BZh", b"1AY&SY", 4, "application/x-bzip2"),
    (b"", b"ID3\x02", 0, "audio/mpeg"),
    (b"", b"ID3\x03", 0, "audio/mpeg"),
    (b"", b"ID3\x04", 0, "audio/mpeg"),
    (b"", b"fLaC\0", 0, "audio/flac"),
    (b"", b"OggS\0", 0, "audio/ogg"),
    (b"", b"\x7fELF", 0, "application/x-executable"),
    (b"", b"\0asm", 0, "application/wasm"),
    (b"", b"SQLite format 3\0", 0, "application/vnd.sqlite3"),
    (b"", b"MZ\x90\0", 0, "application/vnd.microsoft.portable-executable"),
    (b"RIFF", b"WEBP", 8, "image/webp"),
    (b"RIFF", b"WAVE", 8, "audio/wav"),
    (b"RIFF", b"AVI ", 8, "video/x-msvideo"),
    (b"", b"\xff\xfb", 0, "audio/mpeg"),
    (b"", b"\xff\xf3", 0, "audio/mpeg"),
    (b"", b"\xff\xf1", 0, "audio/aac"),
    (b"", b"\xff\xf9", 0, "audio/aac"),
)
_BRANDS = {
    brand: kind
    for kind, brands in {
        "image/avif": (b"avif", b"avis"),
        "image/heic": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"),
        "image/heif": (b"heif", b"mif1", b"mif2", b"msf1"),
        "image/jp2": (b"jp2 ",),
        "image/jpx": (b"jpx ",),
        "image/jpm": (b"jpm ",),
        "video/mj2": (b"mjp2",),
        "audio/mp4": (b"M4A ", b"M4B "),
        "video/quicktime": (b"qt  ",),
    }.items()
    for brand in brands
}
"""Types by the major brand of an ISO base media file or a JPEG 2000 file; every other brand is video."""

_CANONICAL = {
    alias: kind
    for kind, aliass in {
        "audio/wav": ("audio/wave", "audio/x-wav"),
        "audio/ogg": ("application/ogg",),
        "image/jpeg": ("image/jpg",),
        "image/bmp": ("image/x-ms-bmp",),
        "image/heif": ("image/heif-sequence",),
        "image/heic": ("image/heic-sequence",),
        "image/jp2": ("image/x-jp2", "image/jpeg2000"),
        "application/gzip": ("application/x-gzip",),
        "application/zip": ("application/x-zip-compressed",),
        "application/pdf": ("application/x-pdf",),
        "application/vnd.apache.parquet": ("application/x-parquet",),
        "audio/mpeg": ("audio/mp3",),
        "application/xml": ("text/xml",),
        "application/json": ("text/json",),
        "application/javascript": ("text/javascript",),
        "text/markdown": ("text/x-markdown",),
        "text/csv": ("application/csv",),
        "application/yaml": ("application/x-yaml", "text/yaml"),
    }.items()
    for alias in aliass
}
_HAVE_SIGNATURES = frozenset(kind for *_, kind in _SIGNATURES if kind not in {"audio/mpeg", "audio/aac"}) | {
    *_BRANDS.values(),
    "video/mp4",
    "application/zip",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/msword",
    "application/vnd.ms-excel",
}
_OOXML = "application/vnd.openxmlformats-officedocument."
_ZIP_PARTS = (
    (b"word/", _OOXML + "wordprocessingml.document"),
    (b"xl/", _OOXML + "spreadsheetml.sheet"),
    (b"ppt/", _OOXML + "presentationml.presentation"),
    (b"META-INF/MANIFEST.MF", "application/java-archive"),
)
_OLE_STREAMS = (
    ("WordDocument", "application/msword"),
    ("Workbook", "application/vnd.ms-excel"),
    ("Book", "application/vnd.ms-excel"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ("__substg1.0", "application/vnd.ms-outlook"),
)
_OLE_TYPES = frozenset(kind for _, kind in _OLE_STREAMS)
_MAX_ENTRIES = 256


def media_type(head: bytes, *, declared: str | None, filename: str | None) -> str:
    """Return the media type, in lower case and without parameters, of content that begins with ``head``.

    Pass at least 4 KiB if the content is that long; only the first 64 KiB are examined.
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
    # Neither recognized nor text: a hint may be right (a format without a signature), unless it says text or a format
    # whose signature would have been found.
    return next((h for h in hints if not _is_textual(h) and h not in _HAVE_SIGNATURES), UNKNOWN)


def declared_otherwise(recorded: str, declared: str | None) -> bool:
    """Return whether text recorded under one type is declared as another, which then takes precedence."""
    hint = _clean(declared)
    return hint is not None and hint != recorded and _is_textual(recorded) and _is_textual(hint)


def _by_signature(head: bytes, hints: list[str]) -> str | None:
    """Recognize formats that are certain, and containers by what they contain."""
    for start, signature, offset, kind in _SIGNATURES:
        if head.startswith(start) and head.startswith(signature, offset):
            return kind
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_type(head, hints)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _ole_type(head, hints)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    return _boxes_type(head)


def _zip_type(head: bytes, hints: list[str]) -> str:
    """Return the type of a ZIP file from the names at its beginning."""
    office = False
    position = 0
    for _ in range(_MAX_ENTRIES):
        position = head.find(b"PK\x03\x04", position)
        if position < 0 or position + 30 > len(head):
            break
        method, size, name_length, extra_length = struct.unpack_from("<8xH8xI4xHH", head, position)
        name = head[position + 30 : position + 30 + name_length]
        data = position + 30 + name_length + extra_length
        if name == b"mimetype" and method == 0 and size < 128:
            # EPUB and OpenDocument store their type, uncompressed, in the first entry.
            declared = head[data : data + size].decode("ascii", errors="replace").strip().lower()
            if declared.startswith(("application/epub+zip", "application/vnd.oasis.opendocument.")):
                return declared
        for prefix, kind in _ZIP_PARTS:
            if name.startswith(prefix):
                return kind
        office = office or name == b"[Content_Types].xml"
        # Skip the entry if its size is known, else search for the next signature.
        position = data + size if size else data
    if office:
        # An office file whose first part is beyond the head: the hint only chooses which.
        return next((h for h in hints if h.startswith(_OOXML)), "application/zip")
    return "application/zip"


def _ole_type(head: bytes, hints: list[str]) -> str:
    """Return the type of an OLE2 file. Its directory may be anywhere, so a hint chooses if it is not in the head."""
    for name, kind in _OLE_STREAMS:
        if name.encode("utf-16-le") in head:
            return kind
    return next((h for h in hints if h in _OLE_TYPES), "application/x-ole-storage")


def _boxes_type(head: bytes) -> str | None:
    """Return the type of an ISO base media file (MP4, HEIF, AVIF) or a JPEG 2000 file by its brands; None for others.

    A major brand that only describes the structure of an image file leaves the coding to the compatible brands: AVIF
    is named there, everything else under ``mif1`` is ``image/heif``.
    """
    start = 12 if head.startswith(b"\0\0\0\x0cjP  \r\n\x87\n") else 0
    if not head.startswith((b"\0\0", b"\0\1"), start) or not head.startswith(b"ftyp", start + 4):
        return "image/jp2" if start else None
    size = int.from_bytes(head[start : start + 4], "big")
    brands = [head[index : index + 4] for index in range(start + 16, min(start + size, len(head)) - 3, 4)]
    kind = _BRANDS.get(head[start + 8 : start + 12], "video/mp4")
    if kind == "image/heif" and any(_BRANDS.get(brand) == "image/avif" for brand in brands):
        return "image/avif"
    return kind


def _by_library(head: bytes) -> str | None:
    """Recognize the other formats with a signature. Not used for text, which may begin with "BM" or "MZ" too."""
    matches = [
        (len(signature), kind)
        for offset, signatures in _library().items()
        for signature, kind in signatures.get(head[offset : offset + 4], ())
        if head.startswith(signature, offset)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None


@cache
def _library() -> dict[int, dict[bytes, list[tuple[bytes, str]]]]:
    """Return puremagic's signatures by offset and first four bytes; its own search is linear for each file."""
    table: dict[int, dict[bytes, list[tuple[bytes, str]]]] = defaultdict(lambda: defaultdict(list))
    for entry in puremagic.magic_header_array:
        kind, signature = str(entry.mime_type).lower(), bytes(entry.byte_match)
        if len(signature) >= 4 and entry.offset >= 0 and MEDIA_TYPE.fullmatch(kind) and not _is_textual(kind):
            table[entry.offset][signature[:4]].append((signature, _CANONICAL.get(kind, kind)))
    return {offset: dict(signatures) for offset, signatures in table.items()}


def _as_text(head: bytes, charset: str | None, *, expected: bool) -> str | None:
    """Return the head as text, or None. A truncated character at the end is dropped.

    With ``expected`` (text was declared) any bytes without control characters count as text.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return _decode(head[len(mark) :], encoding)
    if charset is not None and (codec := codec_of(charset)) and (text := _decode(head, codec)) is not None:
        return text
    if (text := _decode(head, "utf-8")) is not None:
        return text
    # UTF-16 without a mark: about every second byte is NUL, and only on one side.
    nul_even, nul_odd = head[0::2].count(0), head[1::2].count(0)
    if max(nul_even, nul_odd) > len(head) * 0.3 and min(nul_even, nul_odd) <= len(head) * 0.02:
        return _decode(head, "utf-16-be" if nul_even > nul_odd else "utf-16-le")
    if _BINARY.search(head) is not None:
        return None
    return _legacy(head, expected=expected)


def _legacy(head: bytes, *, expected: bool) -> str | None:
    """Decode text in a legacy encoding. Which one does not matter, because only ASCII is searched for."""
    if not expected:
        from turbohtml.detect import detect

        first = next((index for index, byte in enumerate(head) if byte >= 0x80), 0)
        if detect(head[first : first + DETECTED_BYTES]).confidence == 0:
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
            # It was parsed above, and is not JSON.
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
    # The head of a longer text: an object begins with a key, an array with a value.
    return re.match(r'\s*(?:\{\s*(?:"|\})|\[\s*(?:["\[{\]\d-]|true|false|null))', text.lstrip("\ufeff")) is not None


def _is_csv(text: str, whole: bool) -> bool:
    """Return whether there are at least two rows, and the first fifty have the same number of fields, two or more."""
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
            # Prose with one comma in each line is not a table: its fields are sentences.
            fields = [field for row in rows for field in row]
            if sum(map(len, fields)) / len(fields) < 40 and not any(f.startswith(" ") and len(f) > 20 for f in fields):
                return True
    return False


def _clean(declared: str | None) -> str | None:
    value = (declared or "").partition(";")[0].strip().lower()
    if not MEDIA_TYPE.fullmatch(value) or value in {UNKNOWN, "binary/octet-stream"}:
        return None
    return _CANONICAL.get(value, value)


def _by_name(filename: str | None) -> str | None:
    # Not the system's tables: a name must mean the same type on every machine.
    return _clean(_NAMES.guess_type((filename or "").lower(), strict=False)[0]) if filename else None


def _is_textual(kind: str) -> bool:
    return kind.startswith("text/") or kind.endswith(("+xml", "+json")) or kind in _TEXTUAL
