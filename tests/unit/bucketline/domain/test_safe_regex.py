import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bucketline.domain.safe_regex import MAX_SEARCHED, UnsafePattern, translate


def found(pattern: str, text: str, *, case_sensitive: bool = True) -> bool:
    return re.search(translate(pattern, case_sensitive=case_sensitive), text) is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("", ["", "a"], []),
        ("b", ["abc"], ["aBc"]),
        ("^b", ["bc"], ["abc", "a\nb"]),
        ("c$", ["abc"], ["c\n", "cd"]),
        ("^$", [""], ["\n"]),
        ("^.$", ["x", "🎉"], ["\n", "xy"]),
        (r"^\d+$", ["042"], ["", "٣"]),
        (r"^\w+$", ["a_1"], ["é", "-"]),
        (r"\s", ["a b", "\v"], ["\u00a0"]),
        (r"^\D\W\S$", ["a-b"], ["1-b", "aab", "a- "]),
        (r"\bred\b", ["a red car", "red"], ["reds", "_red"]),
        (r"\Bed", ["red"], ["ed"]),
        ("^[a-c-]+$", ["a-c"], ["d"]),
        (r"^[^a\]]$", ["b", "\n"], ["a", "]"]),
        (r"^[\d.]+$", ["1.5"], ["1,5"]),
        ("^(foo|bar)?baz$", ["baz", "foobaz"], ["foo", "foobarbaz"]),
        ("^(?:ab){2}$", ["abab"], ["ab"]),
        ("^a{2,}$", ["aa", "aaaaa"], ["a"]),
        ("^a{1,2}$", ["a", "aa"], ["", "aaa"]),
        ("^(ab)+c$", ["ababc"], ["c"]),
        (r"^\$\(\.\)\\$", ["$(.)\\"], ["$"]),
        (r"a\tb", ["a\tb"], ["atb"]),
        ("]-}", ["x]-}"], [""]),
        ("é.*ü", ["é und ü"], ["é"]),
    ],
)
def test_what_is_known_means_the_usual(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not found(pattern, text)] == []
    assert [text for text in no if found(pattern, text)] == []


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("straße", ["STRAẞE"], ["strasse"]),
        ("^[a-f]+$", ["ABCdef"], ["g"]),
        ("^[^a]$", ["b"], ["a", "A"]),
        ("^[k]$", ["K", "\u212a"], []),
        (r"^\W$", ["-"], ["S", "k"]),
        (r"^[\W]$", ["-"], ["S", "k"]),
        ("ΣΑΣ", ["σας"], []),
    ],
)
def test_case_is_ignored_where_asked(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not found(pattern, text, case_sensitive=False)] == []
    assert [text for text in no if found(pattern, text, case_sensitive=False)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "a)", "[", "[a", "[]a]", "[z-a]", "*", "+a", "a**", "a*?", "a++", "a{2}{3}", "{", "a{", "a{x}",
        "a{,3}", "a{3,1}", "a{999}", "\\", r"\1", r"\q", r"\x41", r"\pL", r"\A", "(?=a)", "(?!a)", "(?<=a)", "(?<n>a)",
        "(?P<n>a)", "(?i)a", "(?>a)", "^*", r"\b+", "[[:alpha:]]", "(?:", "x" * 501, "(" * 11 + ")" * 11,
        "(a+)+", "(a*)*", "(a|a)*", "(a|ab)+c", "(a?)+", "(a?){20}", "a*a*a*a*b", "a*b?a*b?a*", "(a|b)" * 12, "a?" * 12,
        "(^)*", "()*", "(abc){200}" * 50,
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_a_reason(pattern: str) -> None:
    for case_sensitive in (True, False):
        with pytest.raises(UnsafePattern) as caught:
            translate(pattern, case_sensitive=case_sensitive)
        assert caught.value.reason


@pytest.mark.parametrize(
    "pattern", [r"^\d+-\d+-\d+T\d+:\d+$", r"^[\w.]+@[\w.]+\.[a-z]+$", ".*error.*", "^[a-c]*[d-f]*[g-i]*$"]
)
def test_repetitions_that_know_their_end_are_many(pattern: str) -> None:
    translate(pattern, case_sensitive=False)


def test_a_long_text_does_not_match_at_all() -> None:
    assert found("x", "x" * MAX_SEARCHED)
    assert not found("x", "x" * (MAX_SEARCHED + 1))


@given(st.text(alphabet="ab^$.|()[]{}*+?\\dwSb-,12", max_size=14), st.text(alphabet="ab12-\n", max_size=8))
def test_a_pattern_that_is_accepted_means_what_python_means(pattern: str, text: str) -> None:
    try:
        translated = translate(pattern, case_sensitive=True)
    except UnsafePattern:
        assume(False)
    # the end is the very end, not before a last line feed
    own = re.sub(r"(?<!\\)((?:\\\\)*)\$(?![^\[]*\])", r"\1\\Z", pattern)
    assume("$" not in own and "[" not in pattern)
    assert bool(re.search(translated, text)) == bool(re.search(own, text, re.ASCII))


@pytest.mark.parametrize("pattern", ["(?:ab)?[ab]+[bc]*d", "a*[ab]*c", "(?:ab){100}c", "(a|a)(a|a)(a|a)(a|a)(a|a)c"])
def test_the_worst_accepted_patterns_end_soon_on_small_texts(pattern: str) -> None:
    started = time.perf_counter()
    found(pattern, "ab" * 100)
    assert time.perf_counter() - started < 5
