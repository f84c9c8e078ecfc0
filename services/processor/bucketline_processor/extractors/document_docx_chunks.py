"""Text of other files that a Word file imports (``altChunk``): HTML, web archives, plain text and Word files."""

import email
import email.policy
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from pathlib import Path

from bucketline_processor.extractors.decoding import guess_encoding, unicode_in
from bucketline_processor.extractors.document_html import html_documents

Reader = Callable[[Path, str], Iterable[dict[str, object]]]

_HEAD_BYTES = 4096


def chunk_text(content: bytes, label: str, read_docx: Reader) -> str | None:
    """Return the text of an imported file, or None when it is of a kind that cannot be read, such as RTF."""
    head = content[:_HEAD_BYTES]
    if content.startswith(b"PK\x03\x04"):
        return _text_of(content, label, read_docx)
    if b"\nmime-version:" in b"\n" + head.lower():
        body = email.message_from_bytes(content, policy=email.policy.default).get_body(("html", "plain"))
        try:
            text = body.get_content() if body else None
        except LookupError:  # a charset that Python does not know
            text = None
        if text is None:
            return None
        content = BOM_UTF8 + text.encode(errors="replace")
        head = content[:_HEAD_BYTES]
    if content.lstrip().startswith((b"{\\rtf", b"\xd0\xcf\x11\xe0")):
        return None
    if b"<" in head.replace(b"\0", b""):
        return _text_of(content, label, html_documents)
    codec = unicode_in(content) or guess_encoding(content) or "web-windows-1252"
    return content.decode(codec, "replace")


def _text_of(content: bytes, label: str, read: Reader) -> str:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return "".join(str(fields["text"]) for fields in read(Path(file.name), label))
