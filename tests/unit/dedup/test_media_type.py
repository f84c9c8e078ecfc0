import hashlib
import io
import random
import timeit
import zipfile
from collections.abc import Callable

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docx import Document
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bucketline_dedup.media_type import declared_otherwise, media_type

OOXML = "application/vnd.openxmlformats-officedocument."
OPENDOCUMENT = "application/vnd.oasis.opendocument."
XLSX = OOXML + "spreadsheetml.sheet"


def sniff(head: bytes, declared: str | None = None, filename: str | None = None) -> str:
    return media_type(head, declared=declared, filename=filename)


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, kind)
    return out.getvalue()


def docx() -> bytes:
    out = io.BytesIO()
    Document().save(out)
    return out.getvalue()


def xlsx() -> bytes:
    out = io.BytesIO()
    openpyxl.Workbook().save(out)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}), out)
    return out.getvalue()


def archive(*names: str, mimetype: str | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        if mimetype:
            file.writestr("mimetype", mimetype)
        for name in names:
            file.writestr(name, "content " * 10)
    return out.getvalue()


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512)


def boxes(major: bytes, *compatible: bytes) -> bytes:
    box = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (len(box) + 4).to_bytes(4, "big") + box + bytes(64)


JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"

FILES = {
    "png": (picture("PNG"), "image/png"),
    "jpeg": (picture("JPEG"), "image/jpeg"),
    "gif": (picture("GIF"), "image/gif"),
    "bmp": (picture("BMP"), "image/bmp"),
    "tiff": (picture("TIFF"), "image/tiff"),
    "webp": (picture("WEBP"), "image/webp"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
    "pdf after a line": (b"\r\n%PDF-1.4\n1 0 obj\n<<>>", "application/pdf"),
    "pdf after other bytes": (b"\xff\x01" * 500 + b"%PDF-1.4\n1 0 obj\n", "application/pdf"),
    "pdf after a header": (b"HTTP/1.1 200 OK\r\n\r\n%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "application/pdf"),
    "text about PDF": (b"Files begin with %PDF-1.7 and a comment.", "text/plain"),
    "pdf too far in": (b"\xff\x01" * 520 + b"%PDF-1.4\n1 0 obj\n", "application/octet-stream"),
    "docx": (docx(), OOXML + "wordprocessingml.document"),
    "xlsx": (xlsx(), OOXML + "spreadsheetml.sheet"),
    "parquet": (parquet(), "application/vnd.apache.parquet"),
    "pptx": (archive("[Content_Types].xml", "ppt/presentation.xml"), OOXML + "presentationml.presentation"),
    "odt": (archive("content.xml", mimetype=OPENDOCUMENT + "text"), OPENDOCUMENT + "text"),
    "epub": (archive("a.html", mimetype="application/epub+zip"), "application/epub+zip"),
    "zip": (archive("a.txt", "b.txt"), "application/zip"),
    "zip with a docx inside": (archive("a.txt", "backup.docx"), "application/zip"),
    "xls": (OLE + "Workbook".encode("utf-16-le"), "application/vnd.ms-excel"),
    "doc": (OLE + "WordDocument".encode("utf-16-le"), "application/msword"),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "video/mp4"),
    "mov": (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "video/quicktime"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image/heic"),
    "heix": (boxes(b"heix", b"mif1", b"heix"), "image/heic"),
    "heif": (boxes(b"mif1", b"mif1", b"heic"), "image/heif"),
    "heif brand": (boxes(b"heif"), "image/heif"),
    "heif sequence": (boxes(b"msf1", b"msf1", b"hevc"), "image/heif"),
    "avif": (boxes(b"avif", b"avif", b"mif1"), "image/avif"),
    "avif by a compatible brand": (boxes(b"mif1", b"mif1", b"avif"), "image/avif"),
    "m4a": (boxes(b"M4A ", b"isom"), "audio/mp4"),
    "mp4 of many brands": (boxes(b"mp42", b"isom", b"heic"), "video/mp4"),
    "jp2": (JP2 + boxes(b"jp2 ", b"jp2 "), "image/jp2"),
    "jpx": (JP2 + boxes(b"jpx ", b"jp2 ", b"jpx "), "image/jpx"),
    "motion jpeg 2000": (JP2 + boxes(b"mjp2"), "video/mj2"),
    "jpeg 2000 codestream": (b"\xff\x4f\xff\x51\0\x29" + bytes(40), "image/j2c"),
    "bigtiff": (b"II+\0\x08\0\0\0" + bytes(16), "image/tiff"),
    "bigtiff, big-endian": (b"MM\0+\0\x08\0\0" + bytes(16), "image/tiff"),
    "webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x84webm", "video/webm"),
    "mkv": (b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\xf7\x81\x01B\x82\x88matroska", "video/x-matroska"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0", "audio/wav"),
    "mp3": (b"ID3\x03\0\0\0\0\x0f\x76TIT2", "audio/mpeg"),
    "mp3 frames": (b"\xff\xfb\x90\x64" + bytes(64), "audio/mpeg"),
    "flac": (b"fLaC\0\0\0\x22" + bytes(34), "audio/flac"),
    "ogg": (b"OggS\0\2" + bytes(22), "audio/ogg"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(6), "application/gzip"),
    "7z": (b"7z\xbc\xaf'\x1c\0\4", "application/x-7z-compressed"),
    "exe": (b"MZ\x90\0\3\0\0\0\4\0\0\0", "application/vnd.microsoft.portable-executable"),
    "sqlite": (b"SQLite format 3\0\x10\0", "application/vnd.sqlite3"),
    "text": (b"Call the supplier on Friday.", "text/plain"),
    "text in UTF-8": ("Größe: 5 µm, 東京".encode(), "text/plain"),
    "text in UTF-8 with a mark": ("\ufeffhello".encode(), "text/plain"),
    "text in UTF-16": ("hello, wörld".encode("utf-16"), "text/plain"),
    "text in UTF-16 BE": (b"\xfe\xff" + "hello".encode("utf-16-be"), "text/plain"),
    "text in UTF-16 without a mark": ("hello, this is text".encode("utf-16-le"), "text/plain"),
    "text in UTF-32": ("hello".encode("utf-32"), "text/plain"),
    "text in Latin-1": ("Die Größe der Öfen überrascht die Gäste sehr.".encode("latin-1"), "text/plain"),
    "text that begins like a bitmap": (b"BM is short for benchmark", "text/plain"),
    "text that begins like a program": (b"MZ stands for Mark Zbikowski", "text/plain"),
    "text that begins like music": (b"ID3 tags are read from the end", "text/plain"),
    "text that begins like a table": (b"PAR1 is the magic of Parquet", "text/plain"),
    "text about boxes": (b"the ftyp box comes first", "text/plain"),
    "prose with commas": (b"First, we went out into the cold.\nThen, we went home to the warmth.\n", "text/plain"),
    "json": (b'{"a": [1, 2, {"b": null}]}', "application/json"),
    "json array": (b" [1, 2]\n", "application/json"),
    "json in UTF-16": ('{"a": 1}'.encode("utf-16"), "application/json"),
    "no json": (b"{braces} are not enough", "text/plain"),
    "csv": (b"name,age\nAda,36\nAlan,41\n", "text/csv"),
    "csv with semicolons": (b"name;age\nAda;36\nAlan;41\n", "text/csv"),
    "csv with quotes": (b'name,note\nAda,"a, b"\nAlan,"line\nbreak"\n', "text/csv"),
    "tsv": (b"name\tage\nAda\t36\n", "text/csv"),
    "html": (b"\n<!DOCTYPE html><html><body>hi</body></html>", "text/html"),
    "html that begins with a comment": (b"<!-- saved -->\n<p>x</p>", "text/html"),
    "html that begins with a fragment": (b"<div>x</div>", "text/html"),
    "html that begins with a head": (b"<HEAD><title>x</title>", "text/html"),
    "html that begins with a meta": (b'<meta charset="utf-8">x', "text/html"),
    "no html": (b"<divide> and conquer", "text/plain"),
    "text in windows-1251": ("Привет, мир".encode("cp1251"), "text/plain"),
    "text in Shift_JIS": ("これは日本語のテキストです".encode("shift_jis"), "text/plain"),
    "text in ISO-2022-JP": ("会議は中止です".encode("iso2022_jp"), "text/plain"),
    "xml": (b'<?xml version="1.0"?><a/>', "application/xml"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
    "rtf": (b"{\\rtf1\\ansi hello}", "application/rtf"),
    "noise": (bytes(range(256)), "application/octet-stream"),
    "zeros": (bytes(100), "application/octet-stream"),
    "nothing": (b"", "application/octet-stream"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_media_type_is_detected_from_bytes(name: str) -> None:
    content, expected = FILES[name]
    assert sniff(content) == expected


@pytest.mark.parametrize("name", [n for n in FILES if FILES[n][1].partition("/")[0] in {"image", "video", "audio"}])
@pytest.mark.parametrize("lie", ["application/pdf", "text/plain", "image/x-other", "application/x-anything"])
def test_media_type_of_a_recognized_format_ignores_hints(name: str, lie: str) -> None:
    content, expected = FILES[name]
    if expected != "image/svg+xml":
        assert sniff(content, declared=lie, filename="invoice.pdf") == expected


@pytest.mark.parametrize(
    ("content", "declared", "filename", "expected"),
    [
        # ambiguous bytes: the hint decides
        (b"# Title\n\ntext", "text/markdown; charset=utf-8", None, "text/markdown"),
        (b"# Title\n\ntext", None, "README.md", "text/markdown"),
        (b"a: 1\nb: 2\n", None, "config.yaml", "application/yaml"),
        (b"just one column\nof text\n", "text/csv", None, "text/csv"),
        (b'{"a":1}\n{"a":2}\n', "application/json", None, "application/x-ndjson"),
        (b'{"type": "Point"}', "application/geo+json", None, "application/geo+json"),
        (bytes(range(256)), "application/x-custom", None, "application/x-custom"),
        (OLE, None, "old.xls", "application/vnd.ms-excel"),
        (b"", "text/plain", None, "text/plain"),
        (archive("[Content_Types].xml", "docProps/app.xml"), XLSX, None, XLSX),
        # types of text: the declared type decides
        (b"<!-- saved --><p>x</p>", "text/html", None, "text/html"),
        (b"<div>fragment</div>", "text/html; charset=koi8-r", None, "text/html"),
        (b"<?xml version='1.0'?><html/>", "text/html", None, "text/html"),
        (b"<html></html>", "application/xhtml+xml", None, "application/xhtml+xml"),
        (b'{"a": 1}', "text/html", None, "text/html"),
        (b"<div>fragment</div>", None, "a.html", "text/html"),
        (b"<div>fragment</div>", "text/plain", None, "text/plain"),
        (b"<div>fragment</div>", "application/octet-stream", None, "text/html"),
        ("HELLO\n".encode("cp037"), "text/plain; charset=cp037", None, "text/plain"),
        (b"<p>begins with %PDF-1.7, then 1 0 obj", "text/html", None, "text/html"),
        (b"50 \xb0C", "text/plain", None, "text/plain"),
        (b"\xd4\xdd\xff\x91", "text/csv", None, "text/csv"),
        (b"\n%PDF-1.4 c", "application/pdf", None, "application/pdf"),
        # hints that the bytes contradict
        (b"plain words", "image/png", "a.png", "text/plain"),
        (b"plain words", "application/pdf", None, "text/plain"),
        (b"{not json", "application/json", "a.json", "text/plain"),
        (b"plain words", "text/html", None, "text/html"),
        (bytes(range(256)), "image/png", "a.pdf", "application/octet-stream"),
        (bytes(range(256)), "text/plain", "a.txt", "application/octet-stream"),
        (archive("a.txt"), OOXML + "wordprocessingml.document", "a.docx", "application/zip"),
        # invalid hints
        (b"plain words", "application/octet-stream", None, "text/plain"),
        (bytes(range(256)), "no media type", "noextension", "application/octet-stream"),
        (bytes(range(256)), "a/b\r\nX: y", None, "application/octet-stream"),
    ],
)  # fmt: skip
def test_media_type_with_hints(content: bytes, declared: str | None, filename: str | None, expected: str) -> None:
    assert sniff(content, declared=declared, filename=filename) == expected


def test_media_type_of_text_with_a_truncated_character_is_text() -> None:
    text = ("ä" * 40_000).encode()
    for cut in range(1, 4):
        assert sniff(text[: 65536 - cut]) == "text/plain"
    assert sniff(b"[" + b'{"a": 1},' * 20_000) == "application/json"


def test_media_type_costs_no_more_than_a_few_hashes() -> None:
    noise = [random.Random(seed).randbytes(10_000) for seed in range(20)]  # noqa: S311

    def seconds(run: Callable[[bytes], object]) -> float:
        return min(timeit.repeat(lambda: [run(content) for content in noise], number=1, repeat=10))

    # measured: 4 times a SHA-256; the library's own search takes 40 times
    assert seconds(sniff) < 20 * seconds(lambda content: hashlib.sha256(content).digest())


def test_declared_otherwise_only_for_text_of_another_type() -> None:
    assert declared_otherwise("text/plain", "text/html; charset=utf-8")
    assert not declared_otherwise("text/html", "text/html")
    assert not declared_otherwise("text/html", None)
    assert not declared_otherwise("image/png", "text/html")
    assert not declared_otherwise("text/plain", "image/png")


@given(st.binary(max_size=300), st.none() | st.text(max_size=20), st.none() | st.text(max_size=20))
def test_media_type_of_any_bytes_is_valid(content: bytes, declared: str | None, filename: str | None) -> None:
    assert sniff(content, declared, filename).count("/") == 1
