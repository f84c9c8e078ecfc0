"""Cutting text into overlapping pieces at the places where a reader would pause."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# From the best place to cut to the worst; each matches what stays with the piece before the cut.
_BOUNDARIES = (
    re.compile(r"\n[ \t\r]*\n\s*"),
    re.compile(r"[.!?。！？…]['\")\]»”’]*\s+|[。！？]"),
    re.compile(r"\n"),
    re.compile(r"\s+"),
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """``text`` is exactly the characters ``start`` to ``end`` of the whole text."""

    text: str
    start: int
    end: int


def chunks(parts: Iterable[str], size: int, overlap: int) -> Iterator[Chunk]:
    """Pieces of at most ``size`` characters that together hold every character that is not white space.

    Cuts come after a paragraph, else a sentence, a line, a word, else anywhere. A piece begins up to
    ``overlap`` characters (at most half of ``size``) before the end of the one before it, at the beginning
    of a sentence or word. Memory is bounded by ``size`` and the longest part.
    """
    overlap = min(overlap, size // 2)
    buffer, offset, fresh = "", 0, 0
    for part in parts:
        buffer += part
        consumed = 0
        while len(buffer) - consumed > size:
            end = _cut(buffer, consumed, consumed + size)
            yield from _trimmed(buffer, consumed, end, offset)
            fresh = offset + end
            consumed = _resume(buffer, consumed, end, overlap)
        offset += consumed
        buffer = buffer[consumed:]
    if buffer[max(0, fresh - offset) :].strip():  # not merely the overlap of the last piece
        yield from _trimmed(buffer, 0, len(buffer), offset)


def _cut(text: str, start: int, limit: int) -> int:
    earliest = start + (limit - start) // 2
    for boundary in _BOUNDARIES:
        # A mark at the very end of the window may need the white space after it, hence the one more
        # character.
        ends = [min(found.end(), limit) for found in boundary.finditer(text, earliest, limit + 1)]
        if ends:
            return ends[-1]
    return limit


def _resume(text: str, start: int, end: int, overlap: int) -> int:
    """Where the next piece begins: after ``start``, not after ``end``."""
    earliest = max(end - overlap, start + 1)
    if overlap == 0:
        return end
    for boundary in (_BOUNDARIES[1], _BOUNDARIES[3]):
        found = boundary.search(text, earliest, end)
        if found and found.end() < end:
            return found.end()
    return earliest


def _trimmed(text: str, start: int, end: int, offset: int) -> Iterator[Chunk]:
    piece = text[start:end]
    body = piece.strip()
    if body:
        first = start + len(piece) - len(piece.lstrip())
        yield Chunk(body, offset + first, offset + first + len(body))
