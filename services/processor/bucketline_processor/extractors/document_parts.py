"""Splits text without pages into parts that fit into a document."""

from collections.abc import Iterable, Iterator

from bucketline_processor.extractors.chunking import chunks
from bucketline_processor.extractors.values import json_value

PART_CHARS = 100_000
MAX_HEADINGS = 200


def text_parts(text: Iterable[str], common: dict[str, object]) -> Iterator[dict[str, object]]:
    """Yield the fields of one document per part; a file without text yields one with ``has_text`` false."""
    number = 0
    for number, part in enumerate(chunks(text, PART_CHARS, overlap=0), start=1):
        yield {"text": json_value(part.text), "has_text": True, "part_number": number, **common}
    if number == 0:
        yield {"text": "", "has_text": False, "part_number": 1, **common}
