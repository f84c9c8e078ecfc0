"""Splits text into overlapping chunks at paragraphs, sentences and words."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# From the best place to split to the worst; each pattern matches what stays with the chunk before the split.
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
    """Yield chunks of at most ``size`` characters that together contain every character except white space.

    The text is split after a paragraph, else a sentence, a line, a word, else anywhere. A chunk begins up to
    ``overlap`` characters (at most half of ``size``) before the end of the previous chunk, at the beginning of a
    sentence or word.
    Memory is bounded by ``size`` and the longest part.
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
    """Return where the next chunk begins: after ``start``, not after ``end``."""
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
