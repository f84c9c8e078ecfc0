"""Which encoding a text file is in."""

import codecs
from pathlib import Path

from bucketline.extraction import PermanentError

SAMPLE_BYTES = 128 * 1024
BLOCK_BYTES = 1024 * 1024

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def detect_encoding(path: Path, label: str) -> str:
    """The codec to decode the whole file with, byte order mark included.

    UTF-8 is checked over all bytes, in bounded memory; other encodings are guessed from the first 128 kB.
    Raises ``PermanentError``, naming the file by ``label``, when it is not text.
    """
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if (wide := _wide_without_mark(sample)) is not None:
        return wide
    if b"\0" not in sample and _is_utf8(path):
        return "utf-8"
    if (guess := _guess(sample)) is None:
        raise PermanentError(f"{label} is not a text file")
    return guess


def _wide_without_mark(sample: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a zero in every other byte; nothing else that is text does."""
    pairs = len(sample) // 2
    if pairs < 2:
        return None
    low, high = sample[0 : 2 * pairs : 2].count(0), sample[1 : 2 * pairs : 2].count(0)
    if high > 0.4 * pairs and low < 0.05 * pairs:
        return "utf-16-le"
    if low > 0.4 * pairs and high < 0.05 * pairs:
        return "utf-16-be"
    return None


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


def _guess(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes, is_binary

    if is_binary(sample):
        return None
    best = from_bytes(sample).best()
    return best.encoding if best is not None else None
