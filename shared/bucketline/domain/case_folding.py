"""Matching text so that MongoDB and Python agree to the letter.

The regular expression engines of the two know different versions of Unicode. So no flag and no named class is ever
used: what "the same letter in another case" and "a letter of a word" mean is decided here, and is written out into
every pattern.

Case is folded one character to one character: ``ß`` is not ``ss``, and ``K`` is also the Kelvin sign.
A word is a run of letters, digits and underscores; beyond ASCII everything is part of a word but spaces, punctuation
and the invisible. There is no stemming.
"""

import re
from functools import cache

ANY = r"[\s\S]"
START, END = r"\A", f"(?!{ANY})"
"""The engines have no sign for the very end in common: nothing follows."""

_LAST_CASED = 0x1FFFF
_NOT_IN_WORDS = (
    (0x80, 0xA9), (0xAB, 0xB1), (0xB4, 0xB4), (0xB6, 0xB8), (0xBB, 0xBB), (0xBF, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7),
    (0x1680, 0x1680), (0x2000, 0x206F), (0x2E00, 0x2E7F), (0x3000, 0x3004), (0x3008, 0x3020), (0x3030, 0x3030),
    (0xFE30, 0xFE4F), (0xFEFF, 0xFEFF), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65),
)  # fmt: skip


def fold(text: str) -> str:
    """``text`` without differences of case; as long as before."""
    return text.lower() if text.isascii() else "".join(map(_fold_one, text))


@cache
def variants() -> dict[str, str]:
    """Every character with a case: those that it equals, itself included, in order."""
    groups: dict[str, list[str]] = {}
    for code in range(_LAST_CASED):
        character = chr(code)
        if (folded := _fold_one(character)) != character or character != character.upper():
            groups.setdefault(folded, [folded])
            if character not in groups[folded]:
                groups[folded].append(character)
    return {member: "".join(sorted(group)) for group in groups.values() for member in group if len(group) > 1}


def literal(text: str, *, case_sensitive: bool) -> str:
    """A pattern for exactly ``text``, or for it in any case."""
    if case_sensitive:
        return "".join(map(escape, text))
    known = variants()
    return "".join(f"[{known[c]}]" if c in known else escape(c) for c in text)


def has_case(text: str) -> bool:
    """Whether some other text is ``text`` in another case."""
    known = variants()
    return any(c in known for c in text)


def escape(character: str) -> str:
    """A pattern for one character, outside and inside of brackets."""
    if character == "\0":
        # a pattern travels as a string that ends at the first NUL
        return r"\x00"
    return "\\" + character if character.isascii() and not character.isalnum() and character != "_" else character


def words_of(text: str) -> list[str]:
    """The words of ``text``, in order."""
    return _word_pattern().findall(text)


def phrase(words: list[str], *, case_sensitive: bool) -> str:
    """A pattern for these whole words one after another, whatever separates them."""
    member, other = _word_class(), _word_class(negated=True)
    inner = f"{other}+".join(literal(word, case_sensitive=case_sensitive) for word in words)
    return f"(?<!{member}){inner}(?!{member})"


@cache
def _word_pattern() -> re.Pattern[str]:
    return re.compile(f"{_word_class()}+")


@cache
def _word_class(*, negated: bool = False) -> str:
    """Listed by what it leaves out, which is shorter."""
    outside = "".join(f"{chr(low)}-{chr(high)}" for low, high in _NOT_IN_WORDS)
    ascii_outside = r"\x00-/:-@\[-\^`{-" + "\x7f"
    return f"[{'' if negated else '^'}{ascii_outside}{outside}]"


def _fold_one(character: str) -> str:
    folded = character.casefold()
    if len(folded) != 1:
        folded = character.lower()
    return folded if len(folded) == 1 else character
