"""What is left of a unit, cut into pages of bounded size."""

from typing import Any

from bucketline_processor.unit_items import PAGE_BYTES, PAGE_OBJECTS, pages, unfinished


def unit(size: int, *, results: tuple[int, ...] = ()) -> Any:
    items = [{"object_id": f"obj_{number}"} for number in range(size)]
    return {"batch_id": None, "items": items, "size": size, "results": {str(place): {} for place in results}}


def cut(size: int, sizes: dict[str, int]) -> list[tuple[int, int]]:
    return [(len(page), total) for page, total in pages(unfinished(unit(size), {}), sizes)]


def test_what_has_a_result_is_left_out():
    assert [work.place for work in unfinished(unit(5, results=(0, 3)), {})] == [1, 2, 4]


def test_a_page_is_bounded_by_count():
    assert cut(2 * PAGE_OBJECTS + 1, {}) == [(PAGE_OBJECTS, 0), (PAGE_OBJECTS, 0), (1, 0)]


def test_a_page_is_bounded_by_bytes_and_a_larger_object_is_one_of_its_own():
    half = PAGE_BYTES // 2
    sizes = {"obj_0": half, "obj_1": half, "obj_2": 1, "obj_3": 3 * PAGE_BYTES, "obj_4": 1}
    assert cut(5, sizes) == [(2, 2 * half), (1, 1), (1, 3 * PAGE_BYTES), (1, 1)]


def test_nothing_left_is_no_page():
    assert cut(0, {}) == []
