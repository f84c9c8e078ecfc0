"""Which encoding a text file is in."""

import codecs
from pathlib import Path

from bucketline.extraction import PermanentError
from processor.extractors.decoding_latin import latin_encoding

SAMPLE_BYTES = 128 * 1024
BLOCK_BYTES = 64 * 1024
MOST_NULS = 0.05
MOST_ODD = 0.02

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_OTHERS = (
    "cp1251",
    "koi8_r",
    "cp866",
    "iso8859_5",
    "cp1253",
    "cp1255",
    "cp1256",
    "cp874",
    "cp1258",
    "cp932",
    "euc_jp",
    "gb18030",
    "big5",
    "cp949",
    "cp1252",
    "cp1250",
    "cp1254",
    "cp1257",
)
"""What is looked for where neither Unicode nor a language with Latin letters explains the bytes: the encodings that
files are in, without those that only old systems know and that a guess would fall for."""

_CONTROLS = frozenset(range(0x20)) - frozenset(b"\0\t\n\v\f\r\x1a\x1b") | {0x7F}


def detect_encoding(path: Path, label: str) -> str:
    """The codec to decode the whole file with, byte order mark included.

    UTF-8 is checked over all bytes, in bounded memory; a few broken ones do not make it something else. Other
    encodings are guessed from the first 128 kB that hold more than ASCII. Raises ``PermanentError``, naming the file
    by ``label``, when it is not text.
    """
    if (unicode := unicode_of(path)) is not None:
        return unicode
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    guess = _with_nuls(head) if b"\0" in head else _without_nuls(path)
    if guess is None:
        raise PermanentError(f"{label} is not a text file")
    return guess


def unicode_of(path: Path) -> str | None:
    """The Unicode encoding that a byte order mark says, or UTF-16 without one; None for all that has to be guessed."""
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None) or _wide_without_mark(head)


def _wide_without_mark(sample: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a zero in every other byte; so have tables of small numbers, but no letters."""
    pairs = len(sample) // 2
    if pairs < 2:
        return None
    low, high = sample[0 : 2 * pairs : 2], sample[1 : 2 * pairs : 2]
    for encoding, zeros, letters in (("utf-16-le", high, low), ("utf-16-be", low, high)):
        if zeros.count(0) > 0.4 * pairs and letters.count(0) < 0.05 * pairs:
            odd = sum(1 for byte in letters if byte in _CONTROLS)
            return encoding if odd <= MOST_ODD * pairs else None
    return None


def _with_nuls(head: bytes) -> str | None:
    """Text with a few zero bytes in it, as some exports have, or UTF-16 of a script beyond Latin."""
    from charset_normalizer import from_bytes

    kept = head.replace(b"\0", b"")
    if len(head) - len(kept) <= max(1, MOST_NULS * len(head)) and not _CONTROLS.intersection(kept) and _mends(kept):
        return "utf-8"
    best = from_bytes(head, cp_isolation=["utf_16_le", "utf_16_be"]).best()
    return best.encoding if best is not None and best.chaos == 0 else None


def _without_nuls(path: Path) -> str | None:
    if _is_utf8(path):
        return "utf-8"
    sample = _sample(path)
    return "utf-8" if _mends(sample) else _guess(sample)


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while block := file.read(BLOCK_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _sample(path: Path) -> bytes:
    """The first blocks that are not all ASCII, which says nothing: the first umlaut may come late."""
    sample = bytearray()
    with path.open("rb") as file:
        while len(sample) < SAMPLE_BYTES and (block := file.read(BLOCK_BYTES)):
            if not block.isascii():
                sample += block
    return bytes(sample)


def _mends(sample: bytes) -> bool:
    """Whether it is UTF-8 with some broken bytes: other encodings hardly ever have a sequence that is valid in it."""
    broken = sample.decode("utf-8", "replace").count("\ufffd")
    valid = sum(1 for letter in sample.decode("utf-8", "ignore") if letter > "\x7f")
    return broken <= valid


def _guess(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes, is_binary

    if is_binary(sample):
        return None
    if (latin := latin_encoding(sample)) is not None:
        return latin
    best = from_bytes(sample, cp_isolation=list(_OTHERS)).best()
    return best.encoding if best is not None else None
