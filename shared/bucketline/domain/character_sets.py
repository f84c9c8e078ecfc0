"""Sets of characters as ranges of code points, and how a pattern writes them."""

from collections.abc import Iterable, Sequence

from bucketline.domain.case_folding import escape, variants

Range = tuple[int, int]

_LAST = 0x10FFFF


def bracketed(ranges: Sequence[Range]) -> str:
    """The set as both engines read it. ``ranges`` are merged."""
    if not ranges:
        # neither can write the empty set
        return r"[^\s\S]"
    shown = ((escape(chr(low)), escape(chr(high))) for low, high in ranges)
    return "[" + "".join(low if low == high else f"{low}-{high}" for low, high in shown) + "]"


def other_cases(ranges: Iterable[Range]) -> list[Range]:
    held = list(ranges)
    known = variants()
    found: set[str] = set()
    for character, same in known.items():
        if any(low <= ord(character) <= high for low, high in held):
            found.update(same)
    return [(ord(c), ord(c)) for c in found]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Sorted and disjoint, without the half characters that no text holds."""
    joined: list[Range] = []
    for low, high in sorted(_without_surrogates(ranges)):
        if joined and low <= joined[-1][1] + 1 and not (joined[-1][1] == 0xD7FF and low == 0xE000):
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return joined


def overlap(left: Iterable[Range], right: Iterable[Range]) -> bool:
    """Whether some character is in both."""
    others = list(right)
    return any(low <= other_high and other_low <= high for low, high in left for other_low, other_high in others)


def _without_surrogates(ranges: Iterable[Range]) -> Iterable[Range]:
    for low, high in ranges:
        if low < 0xD800:
            yield low, min(high, 0xD7FF)
        if high > 0xDFFF:
            yield max(low, 0xE000), high


def negated(ranges: Iterable[Range]) -> list[Range]:
    outside = []
    start = 0
    for low, high in merged(ranges):
        if low > start:
            outside.append((start, low - 1))
        start = high + 1
    if start <= _LAST:
        outside.append((start, _LAST))
    return merged(outside)
