"""The items of a unit that are still to be done, and the pages in which they are read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bucketline.db.work_units import Item, WorkUnitDocument, group_of

PAGE_OBJECTS = 100
PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ItemGroup:
    """One item of a unit."""

    unit: WorkUnitDocument
    place: int
    trace: Mapping[str, str]

    @property
    def item(self) -> Item:
        return self.unit["items"][self.place]

    @property
    def group(self) -> str:
        """With whom it shares its turns: its batch, or all that its namespace has processed at once."""
        return group_of(self.unit)


def unfinished(unit: WorkUnitDocument, trace: Mapping[str, str]) -> list[ItemGroup]:
    """The items that have no result yet."""
    return [ItemGroup(unit, place, trace) for place in range(unit["size"]) if str(place) not in unit["results"]]


def pages(todo: Sequence[ItemGroup], sizes: Mapping[str, int]) -> Iterator[tuple[list[ItemGroup], int]]:
    """Cuts the items into pages of bounded count and bytes; ``sizes`` are those of the objects."""
    page: list[ItemGroup] = []
    size = 0
    for work in todo:
        own = sizes.get(work.item["object_id"], 0)
        if page and (len(page) >= PAGE_OBJECTS or size + own > PAGE_BYTES):
            yield page, size
            page, size = [], 0
        page.append(work)
        size += own
    if page:
        yield page, size
