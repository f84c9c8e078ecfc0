"""Detects the encoding of a text file: its byte order mark, else the declared charset, else a guess from the bytes."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from bucketline.domain.text_encodings import codec_of
from bucketline.extractors import PermanentError
from bucketline_processor.extractors.decoding_latin import latin_encoding

SAMPLE_BYTES = 128 * 1024
BLOCK_BYTES = 64 * 1024
MAX_NUL_SHARE = 0.05
MAX_ODD_SHARE = 0.02
PRESCAN_BYTES = 1024
"""Number of bytes in which browsers look for ``<meta charset>``."""

# UTF-32 LE begins with the mark of UTF-16 LE, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

ESCAPE = b"\x1b$"
"""How ISO-2022-JP begins its Japanese characters."""

_CONTROLS = frozenset(range(0x20)) - frozenset(b"\0\t\n\v\f\r\x1a\x1b") | {0x7F}
_CONTROL_BYTES = bytes(_CONTROLS)


def detect_encoding(path: Path, label: str, charset: str | None = None) -> str:
    """Return the codec to decode the whole file with, byte order mark included.

    A byte order mark comes first, as in browsers. A declared ``charset`` is used unless more bytes are invalid in it
    than are valid. UTF-8 is checked over all bytes, in bounded memory; a few broken ones do not make it something
    else. Other encodings are guessed from the first 128 kB that hold more than ASCII. Raises ``PermanentError``, naming
    the file by ``label``, when it is not text or its encoding cannot be determined.
    """
    if (unicode := unicode_of(path)) is not None:
        return unicode
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    # a file that is declared as ASCII but has other bytes is detected from these bytes
    declared = codec_of(charset) if charset not in (None, "us-ascii", "ascii") else None
    if declared is not None and _decodes(beyond_ascii(path) or head, declared):
        return declared
    if b"\0" in head:
        if (guess := _with_nuls(head)) is None:
            raise PermanentError(f"{label} is not a text file")
        return guess
    return _without_nuls(path, label)


def unicode_of(path: Path) -> str | None:
    """Return the Unicode encoding of a byte order mark, or UTF-16 without one; None for what has to be guessed."""
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    return unicode_in(head)


def unicode_in(head: bytes) -> str | None:
    """Return the Unicode encoding of a file that begins with ``head``."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None) or _wide_without_mark(head)


def guess_encoding(sample: bytes) -> str | None:
    """Return the codec that explains bytes beyond ASCII; None when none clearly does.

    UTF-8 with some broken bytes is UTF-8: other encodings hardly ever have a sequence that is valid in it.
    ISO-2022-JP is ASCII to every other reader: only its escape sequences show it.
    """
    if ESCAPE in sample and sample.isascii() and (escaped := _detected(sample)) == "web-iso-2022-jp":
        return escaped
    if _decodes(sample, "utf-8"):
        return "utf-8"
    return _legacy(sample)


def _wide_without_mark(sample: bytes) -> str | None:
    """Recognize UTF-16 of mostly Latin text: a zero in every other byte, and letters in between."""
    pairs = len(sample) // 2
    if pairs < 2:
        return None
    low, high = sample[0 : 2 * pairs : 2], sample[1 : 2 * pairs : 2]
    for encoding, zeros, letters in (("utf-16-le", high, low), ("utf-16-be", low, high)):
        if zeros.count(0) > 0.4 * pairs and letters.count(0) < 0.05 * pairs:
            return encoding if _odd_share(letters) <= MAX_ODD_SHARE else None
    return None


def _with_nuls(head: bytes) -> str | None:
    """Handle text with zero bytes: UTF-16 of a script other than Latin, or an export with a few zeros."""
    from charset_normalizer import from_bytes

    kept = head.replace(b"\0", b"")
    few = len(head) - len(kept) <= max(1, MAX_NUL_SHARE * len(head))
    if few and not _CONTROLS.intersection(kept) and _decodes(kept, "utf-8"):
        return "utf-8"
    best = from_bytes(head, cp_isolation=["utf_16_le", "utf_16_be"]).best()
    return best.encoding if best is not None and best.chaos == 0 else None


def _without_nuls(path: Path, label: str) -> str:
    if _is_utf8(path):
        escaped = next((block for block in _blocks(path) if ESCAPE in block), b"")
        return guess_encoding(escaped) or "utf-8"
    sample = beyond_ascii(path)
    if (guess := guess_encoding(sample)) is not None:
        return guess
    if _is_ebcdic(sample):
        raise PermanentError(
            f"{label} seems to be EBCDIC; declare its code page, for example as 'text/plain; charset=cp037'"
        )
    beyond = sum(1 for byte in sample if byte >= 0x80)
    if _odd_share(sample) <= MAX_ODD_SHARE:
        if beyond <= MAX_ODD_SHARE * len(sample):
            return "utf-8"  # a few broken bytes in a text of ASCII: each becomes U+FFFD
        raise PermanentError(
            f"the encoding of {label} cannot be determined from its bytes; "
            "declare it, for example as 'text/plain; charset=windows-1251'"
        )
    raise PermanentError(f"{label} is not a text file")


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in _blocks(path):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def beyond_ascii(path: Path) -> bytes:
    """Return the first blocks that are not pure ASCII; they may come late in the file."""
    sample = bytearray()
    for block in _blocks(path):
        if not block.isascii():
            sample += block
        if len(sample) >= SAMPLE_BYTES:
            break
    return bytes(sample)


def _decodes(sample: bytes, codec: str) -> bool:
    """Return whether at most as many bytes are invalid in this codec as there are valid characters beyond ASCII."""
    text = sample.decode(codec, "replace")
    broken = text.count("\ufffd")
    return broken <= sum(1 for character in text if character > "\x7f") - broken


def _legacy(sample: bytes) -> str | None:
    if _odd_share(sample) > MAX_ODD_SHARE or _is_ebcdic(sample):
        return None
    return latin_encoding(sample) or _detected(sample)


def _detected(sample: bytes) -> str | None:
    """Return the result of the detector of browsers; None if it only falls back to windows-1252."""
    from turbohtml.detect import detect

    # a text may contain <meta charset> without declaring anything
    match = detect(b" " * PRESCAN_BYTES + sample)
    return codec_of(match.encoding) if match.encoding and match.confidence > 0 else None


def _is_ebcdic(sample: bytes) -> bool:
    """Return whether the bytes are words in EBCDIC."""
    if b" " in sample:
        return False
    text = sample.decode("cp037")
    plain = sum(1 for character in text if character.isascii() and (character.isalnum() or character in " .,\n\x85"))
    return " " in text and plain > 0.8 * len(text)


def _odd_share(sample: bytes) -> float:
    """Return the share of control characters that do not occur in text."""
    return (len(sample) - len(sample.translate(None, _CONTROL_BYTES))) / max(1, len(sample))
