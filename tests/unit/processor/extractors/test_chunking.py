from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bucketline_processor.extractors.chunking import chunks

WORDS = st.text(st.sampled_from("ab .!?\n。\t日"), max_size=400)


@given(parts=st.lists(WORDS, max_size=8), size=st.integers(50, 120), overlap=st.integers(0, 90))
def test_chunks_are_slices_that_cover_all_text_in_order(parts: list[str], size: int, overlap: int) -> None:
    whole = "".join(parts)
    found = list(chunks(parts, size, overlap))

    covered = set()
    for chunk in found:
        assert chunk.text == whole[chunk.start : chunk.end]
        assert 0 < len(chunk.text) <= size
        covered |= set(range(chunk.start, chunk.end))
    assert all(whole[place].isspace() for place in range(len(whole)) if place not in covered)
    for before, after in pairwise(found):
        assert after.start > before.start
        assert after.end > before.end
        assert before.end - after.start <= overlap


@given(parts=st.lists(WORDS, max_size=8), size=st.integers(50, 120), overlap=st.integers(0, 90))
def test_how_the_text_arrives_does_not_matter(parts: list[str], size: int, overlap: int) -> None:
    assert list(chunks(parts, size, overlap)) == list(chunks(["".join(parts)], size, overlap))


def test_a_text_without_any_boundary_is_cut_by_size() -> None:
    found = list(chunks(["x" * 1000], 100, 10))

    assert {len(chunk.text) for chunk in found} <= {100, found[-1].end - found[-1].start}
    assert found[-1].end == 1000
