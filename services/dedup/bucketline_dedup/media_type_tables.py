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
BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"hevc": "image/heic",
    b"hevx": "image/heic",
    b"heif": "image/heif",
    b"mif1": "image/heif",
    b"mif2": "image/heif",
    b"msf1": "image/heif",
    b"jp2 ": "image/jp2",
    b"jpx ": "image/jpx",
    b"jpm ": "image/jpm",
    b"mjp2": "video/mj2",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
"""What the major brand of an ISO base media file or of a JPEG 2000 file makes of it; every other brand is video."""

CANONICAL = {
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "application/ogg": "audio/ogg",
    "image/jpg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "image/heif-sequence": "image/heif",
    "image/heic-sequence": "image/heic",
    "image/x-jp2": "image/jp2",
    "image/jpeg2000": "image/jp2",
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
    *BRANDS.values(),
    "video/mp4",
    "application/zip",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/msword",
    "application/vnd.ms-excel",
}
