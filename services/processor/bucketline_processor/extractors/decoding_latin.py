"""Detects the code page of a text in a language with Latin letters.

General detectors confuse Latin code pages, because most bytes are letters in each of them (the detector of browsers
reads "naïve" as ISO-8859-4 and "£5" as windows-1250). A text has one language, however: in the right code page nearly
all of its accented letters belong to one alphabet, and in the others they do not.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from bucketline.domain.text_encodings import codec_of

MIN_KNOWN = 0.85
"""Share of the characters beyond ASCII that must be of one alphabet, or signs that any text has."""

MAX_BEYOND_ASCII = 0.7
"""Maximum share of non-ASCII letters; a text with more is not in a language with Latin letters."""

_SIGNS = frozenset("±µ×÷¹¢¥¶\u00a0\u00ad«»‹›“”„‟‘’‚–—…•·§©®™°€£ªº²³¼½¾¿¡‰†‡")

_WESTERN = (
    "àâæçèéêëîïôœùûüÿ",  # French
    "äöüß",  # German
    "áéíñóúü",  # Spanish
    "áâãàçéêíóôõúü",  # Portuguese
    "àèéìíîòóùú",  # Italian
    "áäèéêëíïóöúü",  # Dutch
    "æøåéèêóòâôüäö",  # Danish, Norwegian
    "åäöéàüšž",  # Swedish, Finnish
    "àçèéíïóòúü",  # Catalan
    "àâçèéêëîïñôöûå",  # English with foreign words
)
_CENTRAL = (
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýž",  # Czech
    "áäčďéíĺľňóôŕšťúýž",  # Slovak
    "áéíóöőúüű",  # Hungarian
    "âîăşţ",  # Romanian
    "čćđšž",  # Croatian, Slovene
)
_TURKISH = ("çğıİöşüâîû",)
_ICELANDIC = ("áéíóúýðþæö",)
_BALTIC = (
    "ąčęėįšųūž",  # Lithuanian
    "āčēģīķļņšūž",  # Latvian
    "äõöüšž",  # Estonian
)

# If two code pages explain a text equally well, the first wins: most of them agree on most letters.
_ALPHABETS = (
    ("windows-1252", _WESTERN),
    ("windows-1250", _CENTRAL),
    ("iso-8859-2", _CENTRAL),
    ("windows-1254", _TURKISH),
    ("windows-1252", _ICELANDIC),
    ("windows-1257", _BALTIC),
    ("iso-8859-15", _WESTERN),
    ("macintosh", _WESTERN),
    ("cp850", _WESTERN),
)


def latin_encoding(sample: bytes) -> str | None:
    """Return the codec that makes the sample's accented letters those of one language; None when none does."""
    counts = Counter(byte for byte in sample if byte >= 0x80)
    ascii_letters = sum(1 for byte in sample if 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A)
    if not counts or counts.total() > MAX_BEYOND_ASCII * (ascii_letters + counts.total()):
        return None
    best, most_known = None, 0.0
    for codec, alphabets in _alphabets():
        if (known := _known(counts, codec, alphabets)) > most_known:
            best, most_known = codec, known
    return best if most_known >= MIN_KNOWN else None


def _known(counts: Mapping[int, int], codec: str, alphabets: Iterable[frozenset[str]]) -> float:
    """Return the share of the characters that belong to the best-fitting alphabet."""
    decoded = {byte: bytes([byte]).decode(codec, "replace") for byte in counts}
    total = sum(counts.values())
    return max(sum(counts[byte] for byte, letter in decoded.items() if letter in known) for known in alphabets) / total


@cache
def _alphabets() -> Sequence[tuple[str, tuple[frozenset[str], ...]]]:
    return [
        (
            codec_of(label) or label,
            tuple(frozenset(letters) | frozenset(letters.upper()) | _SIGNS for letters in alphabets),
        )
        for label, alphabets in _ALPHABETS
    ]
