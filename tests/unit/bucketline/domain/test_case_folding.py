import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.case_folding import END, START, fold, has_case, literal, phrase, variants, words_of

CASED = st.text(alphabet="aAsSſkKKßẞiIİıσςΣéÉ1- \n\0]^\\", max_size=6)


def test_folding_is_stable_and_one_to_one() -> None:
    for code in range(0x20000):
        character = chr(code)
        assert len(fold(character)) == 1
        assert fold(fold(character)) == fold(character)


@pytest.mark.parametrize("same", ["aA", "éÉ", "sSſ", "kK\u212a", "σςΣ", "ßẞ", "жЖ", "𐐀𐐨", "θϑΘϴ"])
def test_cases_of_one_letter_are_the_same(same: str) -> None:
    assert {fold(c) for c in same} == {fold(same[0])}
    assert {variants()[c] for c in same} == {"".join(sorted(same))}


@pytest.mark.parametrize(("left", "right"), [("ß", "ss"), ("i", "İ"), ("i", "ı"), ("e", "é"), ("1", "¹")])
def test_these_are_different(left: str, right: str) -> None:
    assert fold(left) != fold(right)


@given(CASED, CASED)
def test_a_literal_pattern_matches_exactly_what_folds_to_the_same(text: str, other: str) -> None:
    insensitive = re.compile(START + literal(text, case_sensitive=False) + END)
    assert bool(insensitive.search(other)) == (fold(text) == fold(other))
    assert insensitive.search(text)
    assert insensitive.search(fold(text))
    sensitive = re.compile(START + literal(text, case_sensitive=True) + END)
    assert bool(sensitive.search(other)) == (text == other)
    assert has_case(text) or not insensitive.search(text.swapcase()) or text.swapcase() == text


@given(st.text(max_size=20))
def test_any_text_is_a_literal(text: str) -> None:
    for case_sensitive in (True, False):
        pattern = literal(text, case_sensitive=case_sensitive)
        assert "\0" not in pattern
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red, green; blue!", ["Red", "green", "blue"]),
        ("a_b c-d", ["a_b", "c", "d"]),
        ("“Größe” — 12,5", ["Größe", "12", "5"]),
        ("日本、東京", ["日本", "東京"]),
        ("\u00a0x\u3000y\u200bz", ["x", "y", "z"]),
        (" .,!?@[]^`{}~\x7f", []),
    ],
)
def test_words_are_runs_of_letters_and_digits(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(alphabet="ab _.-é“\n", max_size=12), st.text(alphabet="ab_.é", max_size=4))
def test_a_phrase_is_found_where_its_words_stand_in_a_row(text: str, wanted: str) -> None:
    if words := words_of(wanted):
        all_words = words_of(text)
        there = any(all_words[i : i + len(words)] == words for i in range(len(all_words)))
        assert bool(re.search(phrase(words, case_sensitive=True), text)) == there
