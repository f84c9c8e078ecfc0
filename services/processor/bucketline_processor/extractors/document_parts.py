"""Text without pages, in parts that fit into a document."""

from collections.abc import Iterable, Iterator

from bucketline_processor.extractors.chunking import chunks
from bucketline_processor.extractors.values import json_value

PART_CHARS = 100_000
MAX_HEADINGS = 200


def text_parts(text: Iterable[str], common: dict[str, object]) -> Iterator[dict[str, object]]:
    """The fields of one document a part; a file without text gives one that says so."""
    number = 0
    for number, part in enumerate(chunks(text, PART_CHARS, overlap=0), start=1):
        yield {"text": json_value(part.text), "has_text": True, "part_number": number, **common}
    if number == 0:
        yield {"text": "", "has_text": False, "part_number": 1, **common}
