"""Real files of every kind, made small."""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bucketline.extractors import BlobView, FileSource, MemorySource


def blob(content: bytes, filename: str, mime_type: str, kind: str = "text", charset: str | None = None) -> BlobView:
    return BlobView(
        blob_id=f"blob_{filename}",
        property="file",
        type=kind,
        filename=filename,
        mime_type=mime_type,
        size_bytes=len(content),
        sha256=None,
        source=MemorySource(content),
        charset=charset,
    )


def file_blob(path: Path, mime_type: str, kind: str) -> BlobView:
    return BlobView("blob_file", "file", kind, path.name, mime_type, path.stat().st_size, None, FileSource(path))


def pdf(pages: Sequence[str], title: str = "") -> bytes:
    """A PDF with one line of Helvetica a page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Title ({title}) /Author (Ada) /CreationDate (D:20260301120000Z) >>")
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, text in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{text}\nendobj\n".encode())
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(f"{place:010d} 00000 n \n".encode() for place in places))
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    out.write(f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def picture(width: int = 640, height: int = 400) -> Image.Image:
    """Not uniform, so that its perceptual hash says something."""
    image = Image.new("RGB", (width, height), "white")
    for x in range(0, width, 4):
        color = (255 * x // width, 90, 255 - 255 * x // width)
        image.paste(color, (x, height * x // width // 2, x + 4, height))
    return image


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png_bomb(side: int) -> bytes:
    """A small file that claims ``side`` x ``side`` pixels, and has them: all white, one bit each."""
    rows = zlib.compressobj(9)
    line = b"\0" + b"\xff" * ((side + 7) // 8)
    data = b"".join(rows.compress(line) for _ in range(side)) + rows.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )
