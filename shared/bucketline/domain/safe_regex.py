"""Regular expressions that producers may send: a subset that is safe to run and means the same everywhere.

Known: literals, ``.``, ``^``, ``$``, sets, ``\\d \\w \\s \\b`` and their opposites, groups, alternatives, and the
repetitions ``? * + {n,m}``.
Refused: back references, look-around, flags, lazy and possessive repetition.

An engine that backtracks cannot be interrupted inside one text, so the work is bounded beforehand: only texts of at
most :data:`MAX_SEARCHED` characters can match, only single characters and groups of fixed width without choices may
be repeated, and the ways through all choices and repetitions together are limited. The server stops by itself after
some 200,000 steps in one text, which then does not match; a pattern needs two repetitions of the same letters, on a
text full of them, to get there.

A pattern is parsed and written anew: classes are those of ASCII, ``.`` is anything but a line feed, and without
``case_sensitive`` each letter becomes the set of its cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bucketline.domain.case_folding import ANY, END, START, escape, variants
from bucketline.domain.character_sets import Range, bracketed, merged, negated, other_cases, overlap

MAX_PATTERN = 500
MAX_SIZE = 30_000
MAX_REPEAT = 200
MAX_SEARCHED = 1000
MAX_WAYS = 512
OPEN_WAYS = 16
MAX_NESTING = 10

_DIGIT: tuple[Range, ...] = ((48, 57),)
_WORD: tuple[Range, ...] = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: tuple[Range, ...] = ((9, 13), (32, 32))
_SHORT = f"{START}(?!{ANY}{{{MAX_SEARCHED + 1}}}){ANY}*?"
"""From the start of a text that is not too long, as far as it takes. One start, so one budget of the engine's."""

_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_W = "[0-9A-Z_a-z]"
_BOUNDARY = f"(?:(?<={_W})(?!{_W})|(?<!{_W})(?={_W}))"
_NO_BOUNDARY = f"(?:(?<={_W})(?={_W})|(?<!{_W})(?!{_W}))"


class UnsafePattern(ValueError):
    """The pattern is not one of the subset; ``reason`` is for the producer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class _Part:
    """A piece of the pattern, written anew.

    ``size`` is about what it takes compiled, in bytes (engines stop at 65,536); ``ways`` counts the paths through its
    choices.
    """

    text: str
    size: int
    ways: int = 1
    characters: tuple[Range, ...] = ()
    """What a single character, or a repetition of one, consists of."""
    optional: bool = False
    """May match nothing."""
    repeatable: bool = False
    """Matches in one way only, and never nothing."""
    assertion: bool = False


def translate(pattern: str, *, case_sensitive: bool) -> str:
    """``pattern`` for MongoDB's engine and for Python's. Raises :class:`UnsafePattern`."""
    if len(pattern) > MAX_PATTERN:
        raise UnsafePattern(f"a pattern has at most {MAX_PATTERN} characters")
    return f"{_SHORT}(?:{_Parser(pattern, case_sensitive).parse()})"


class _Parser:
    """By recursive descent; every method leaves ``_at`` behind what it read."""

    def __init__(self, pattern: str, case_sensitive: bool) -> None:
        self._pattern = pattern
        self._case_sensitive = case_sensitive
        self._at = 0

    def parse(self) -> str:
        part = self._alternatives(0)
        if self._at < len(self._pattern):
            raise UnsafePattern("a ) closes no group")
        return part.text

    def _alternatives(self, nesting: int) -> _Part:
        if nesting > MAX_NESTING:
            raise UnsafePattern(f"groups nest at most {MAX_NESTING} levels")
        branches = [self._sequence(nesting)]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence(nesting))
        if len(branches) == 1:
            return branches[0]
        return _checked(
            "|".join(branch.text for branch in branches),
            sum(branch.size + 6 for branch in branches),
            sum(branch.ways for branch in branches),
        )

    def _sequence(self, nesting: int) -> _Part:
        parts = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom(nesting)))
        repeatable = any(not part.assertion for part in parts) and all(part.repeatable for part in parts)
        return _checked(
            "".join(part.text for part in parts),
            sum(part.size for part in parts),
            math.prod(map(_ways, parts, [*parts[1:], None])),
            repeatable=repeatable,
        )

    def _repeated(self, part: _Part) -> _Part:
        bounds = self._quantifier()
        if bounds is None:
            return part
        low, high = bounds
        if part.assertion:
            raise UnsafePattern("^, $ and \\b cannot be repeated")
        if self._peek() in ("?", "+", "*") or (self._peek() == "{" and self._braces() is not None):
            raise UnsafePattern("a repetition cannot be repeated, nor be lazy or possessive")
        if (low, high) == (0, 1):
            return _checked(f"{part.text}?", part.size + 8, part.ways + 1)
        if not part.repeatable:
            raise UnsafePattern("only a single character or a group of fixed width can be repeated")
        most = low if high is None else high
        if max(low, most) > MAX_REPEAT:
            raise UnsafePattern(f"a part is repeated at most {MAX_REPEAT} times by number")
        upper = "" if high is None else str(high)
        text = f"{part.text}{{{low}}}" if low == high else f"{part.text}{{{low},{upper}}}"
        # engines write a group out as often as it is repeated
        size = part.size + 8 if part.characters else part.size * (max(most, 1) + 1)
        if low == high:
            return _checked(text, size, repeatable=low > 0)
        _checked(text, size)
        return _Part(text, size, OPEN_WAYS, characters=part.characters, optional=low == 0)

    def _quantifier(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        found = simple.get(self._peek())
        if found is not None:
            self._at += 1
            return found
        if self._peek() != "{":
            return None
        braces = self._braces()
        if braces is None:
            raise UnsafePattern(r"{ starts no repetition: write \{ for the character")
        self._at += braces[1]
        low, high = braces[0]
        if high is not None and high < low:
            raise UnsafePattern("a repetition ends before it begins")
        return low, high

    def _braces(self) -> tuple[tuple[int, int | None], int] | None:
        """The bounds in ``{n}``, ``{n,}`` or ``{n,m}``, and the length of the text."""
        end = self._pattern.find("}", self._at)
        inner = self._pattern[self._at + 1 : end] if end > 0 else ""
        low, comma, high = inner.partition(",")
        numbers = [text for text in (low, high) if text]
        if not low or not all(text.isascii() and text.isdigit() and len(text) < 6 for text in numbers):
            return None
        upper = int(high) if high else None if comma else int(low)
        return (int(low), upper), len(inner) + 2

    def _atom(self, nesting: int) -> _Part:
        character = self._next()
        match character:
            case "(":
                return self._group(nesting)
            case "[":
                return self._set()
            case ".":
                return _one(negated([(10, 10)]))
            case "^":
                return _Part(START, 1, repeatable=True, assertion=True)
            case "$":
                return _Part(END, 1, repeatable=True, assertion=True)
            case "\\":
                return self._escaped()
            case "*" | "+" | "?" | "{":
                raise UnsafePattern(f"{character} repeats nothing")
        return self._literal(character)

    def _group(self, nesting: int) -> _Part:
        if self._peek() == "?":
            if self._pattern[self._at : self._at + 2] != "?:":
                raise UnsafePattern("look-around, named groups and flags are not known")
            self._at += 2
        inner = self._alternatives(nesting + 1)
        if self._peek() != ")":
            raise UnsafePattern("a ( is not closed")
        self._at += 1
        return _Part(f"(?:{inner.text})", inner.size + 6, inner.ways, repeatable=inner.repeatable)

    def _escaped(self) -> _Part:
        character = self._next()
        if character == "b":
            return _Part(_BOUNDARY, 200, repeatable=True, assertion=True)
        if character == "B":
            return _Part(_NO_BOUNDARY, 200, repeatable=True, assertion=True)
        if character.lower() in _CLASSES:
            return _one(_class(character))
        return self._literal(_plain(character))

    def _set(self) -> _Part:
        opposite = self._peek() == "^"
        self._at += opposite
        ranges: list[Range] = []
        first = True
        while first or self._peek() != "]":
            ranges += self._set_item(first)
            first = False
        self._at += 1
        return _one(negated(ranges) if opposite else merged(ranges))

    def _set_item(self, first: bool) -> Sequence[Range]:
        """One item of a set: a class as it is, a character or a range with its other cases."""
        character = self._next()
        if character == "]" and first:
            raise UnsafePattern(r"a set holds something: write \] for the bracket")
        if character == "[" and self._peek() in (":", ".", "="):
            raise UnsafePattern("named classes in a set are not known")
        if character == "\\":
            character = self._next()
            if character.lower() in _CLASSES:
                return _class(character)
            character = _plain(character)
        low = ord(character)
        if self._peek() != "-" or self._pattern[self._at + 1 : self._at + 2] in ("]", ""):
            high = low
        else:
            self._at += 1
            upper = self._next()
            high = ord(_plain(self._next()) if upper == "\\" else upper)
        if high < low:
            raise UnsafePattern("a range ends before it begins")
        return [(low, high)] if self._case_sensitive else [(low, high), *other_cases([(low, high)])]

    def _literal(self, character: str) -> _Part:
        if not self._case_sensitive and (same := variants().get(character)):
            return _one([(ord(c), ord(c)) for c in same])
        return _Part(escape(character), 5, characters=((ord(character), ord(character)),), repeatable=True)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise UnsafePattern("the pattern ends too early")
        self._at += 1
        return character


def _plain(character: str) -> str:
    if character in _CONTROLS:
        return _CONTROLS[character]
    if character.isalnum():
        raise UnsafePattern(f"\\{character} is not known")
    return character


def _class(letter: str) -> Sequence[Range]:
    ranges = _CLASSES[letter.lower()]
    return negated(ranges) if letter.isupper() else ranges


def _one(ranges: Sequence[Range]) -> _Part:
    """One character out of ``ranges``."""
    text = bracketed(ranges)
    return _Part(text, 44 + 2 * len(text.encode()), characters=tuple(ranges), repeatable=True)


def _ways(part: _Part, following: _Part | None) -> int:
    """A repetition that can only end where the next part begins has one way to do so."""
    if part.ways != OPEN_WAYS or not part.characters or following is None:
        return part.ways
    if following.text == END:
        return 1
    if following.optional or not following.characters:
        return part.ways
    return part.ways if overlap(part.characters, following.characters) else 1


def _checked(text: str, size: int, ways: int = 1, *, repeatable: bool = False) -> _Part:
    if size > MAX_SIZE:
        raise UnsafePattern("the pattern is too large")
    if ways > MAX_WAYS:
        raise UnsafePattern("too many repetitions (* + {n,m}) and choices (| ?): the search could take for ever")
    return _Part(text, size, ways, repeatable=repeatable)
