"""Tests for the recognition of regular expressions that may take exponential time."""

import string

import pytest

from bucketline.domain.regex_safety import backtracks_exponentially


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+", "(a*)*b", "((ab)*)*", "(?:a+?)+", "(a|a)*", "(a|aa)+c", "(a|A)*", r"(\w|\d)+x", r"(\s|\n)+",
        "(a|b|ab)*c", "([^a]|b)*", r"^(\w+\s?)+$", "(.*,)*x", "(a?a?)*b", "([a-z]+|[a-f]b)*$", "(?=(a+)+b)",
        r"(?:\d{1,3})+x", "(a+){20}", r"^\w+([.-]?\w+)*@\w+$", "(?#a|b)(a|a)+", "(?:a{1,99}){1,99}c", "(?:.*?,){20}c",
    ],
)  # fmt: skip
def test_group_that_matches_text_in_two_ways_is_exponential(pattern: str) -> None:
    assert backtracks_exponentially(pattern, case_sensitive=False)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:[a-z]+-)*[a-z]+", "^(foo|bar)+$", "(?:foo|foobar)*", "a+b+", ".*foo.*", r"(.|\n)*", r"[\s\S]*", r"[\w\d]+",
        r"^[\w.+-]+@([\w-]+\.)+[\w-]{2,4}$", r"(?:\d{1,3}\.){3}\d{1,3}", r"(\d{3})+", r"^(?:\w+\s+)*\w+$", "(a++)+",
        r"(?:[^\"\\]|\\.)*", r"(?:a\|b)+", "(a[|]b)*", r"(a)(b\1)*", r"INV-(\d+)(?:/(\d+))*", "(?:[a-z]+ ?){1,3}",
        r"^https?://(?:[a-z0-9-]+\.)+[a-z]{2,}(?:/[^/\s]*)*$", r"^\d{4}-\d\d-\d\d$", "(?<=a|b)c|d", "(a|)+",
    ],
)  # fmt: skip
def test_common_pattern_is_not_exponential(pattern: str) -> None:
    assert not backtracks_exponentially(pattern, case_sensitive=False)


def test_alternatives_that_differ_in_case_are_exponential_only_without_case() -> None:
    assert backtracks_exponentially("(a|A)*", case_sensitive=False)
    assert not backtracks_exponentially("(a|A)*", case_sensitive=True)


def test_examination_of_many_alternatives_is_bounded() -> None:
    letters = "|".join(f".{letter}" for letter in string.ascii_lowercase * 6)
    assert backtracks_exponentially(f"(?:{letters})*", case_sensitive=True)
