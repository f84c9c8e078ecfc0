"""Tables of media types: signatures, names, and the one spelling of each that we use."""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from mimetypes import MimeTypes

NAMES = MimeTypes(filenames=())
for _kind, _extension in (
    ("text/markdown", ".md"),
    ("application/x-ndjson", ".jsonl"),
    ("application/x-ndjson", ".ndjson"),
    ("application/yaml", ".yaml"),
    ("application/yaml", ".yml"),
    ("application/vnd.apache.parquet", ".parquet"),
):
    NAMES.add_type(_kind, _extension)

MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
TEXTUAL = frozenset(
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
# UTF-32 LE begins with the mark of UTF-16 LE, so it comes first
MARKS = (
    (BOM_UTF8, "utf-8"),
    (BOM_UTF32_LE, "utf-32-le"),
    (BOM_UTF32_BE, "utf-32-be"),
    (BOM_UTF16_LE, "utf-16-le"),
    (BOM_UTF16_BE, "utf-16-be"),
)
# beginning, signature, its offset, type: long enough, or with a byte that no text has
SIGNATURES: tuple[tuple[bytes, bytes, int, str], ...] = (
    (b"", b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"", b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"", b"GIF87a", 0, "image/gif"),
    (b"", b"GIF89a", 0, "image/gif"),
    (b"BM", b"\0\0\0\0", 6, "image/bmp"),
    (b"", b"II*\0", 0, "image/tiff"),
    (b"", b"MM\0*", 0, "image/tiff"),
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
    (b"\0\0", b"ftypheic", 4, "image/heic"),
    (b"\0\0", b"ftypavif", 4, "image/avif"),
    (b"\0\0", b"ftypM4A", 4, "audio/mp4"),
    (b"\0\0", b"ftypqt", 4, "video/quicktime"),
    (b"\0\0", b"ftyp", 4, "video/mp4"),
    (b"", b"\xff\xfb", 0, "audio/mpeg"),
    (b"", b"\xff\xf3", 0, "audio/mpeg"),
    (b"", b"\xff\xf1", 0, "audio/aac"),
    (b"", b"\xff\xf9", 0, "audio/aac"),
)
CANONICAL = {
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "application/ogg": "audio/ogg",
    "image/jpg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "image/heif": "image/heic",
    "application/x-gzip": "application/gzip",
    "application/x-zip-compressed": "application/zip",
    "application/x-pdf": "application/pdf",
    "application/x-parquet": "application/vnd.apache.parquet",
    "audio/mp3": "audio/mpeg",
    "text/xml": "application/xml",
    "text/json": "application/json",
    "text/javascript": "application/javascript",
    "text/x-markdown": "text/markdown",
    "application/csv": "text/csv",
    "application/x-yaml": "application/yaml",
    "text/yaml": "application/yaml",
}
HAVE_SIGNATURES = frozenset(found for *_, found in SIGNATURES if found not in {"audio/mpeg", "audio/aac"}) | {
    "application/zip",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/msword",
    "application/vnd.ms-excel",
}
