"""Recognises regular expressions on which a backtracking engine may take exponential time, such as ``(a+)+``.

MongoDB 6.0 gives up on such a pattern and reports "no match" instead of an error, so filters refuse it. A pattern is
exponential when a repeated group can match the same text in two ways. To decide that, the group is turned into its
position automaton (Glushkov): two ways exist if a step has two derivations, or if two paths with the same text part and
meet again.
"""

import itertools
import re
import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import Any

# the parser of the standard library is private and has no types
_parser: Any = import_module("re._parser")
sre: Any = import_module("re._constants")

HARMLESS_REPEATS = 10
"""A group that is repeated at most this often is not examined: its backtracking is bounded."""
MAX_STEPS = 200_000
"""Patterns whose examination takes more steps (0.1 s) are refused."""

_UNMERGED = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|\|", re.DOTALL)
_CATEGORIES = {
    sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)


def backtracks_exponentially(pattern: str, *, case_sensitive: bool) -> bool:
    """Return whether a valid pattern has a repeated group that can match the same text in two ways."""
    # Python's parser merges (a|a) to a and (\w|a) to [\wa], which hides the ambiguity; an empty lookahead prevents it.
    unmerged = _UNMERGED.sub(lambda token: "|(?=)" if token[0] == "|" else token[0], pattern)
    alphabet = {*map(chr, range(128)), *pattern, "\xa0", "\u0663", "\u65e5"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = _parser.parse(unmerged)
    return any(_Loop(body, alphabet, case_sensitive).is_ambiguous() for body in _outermost_loops(parsed))


def _outermost_loops(node: Any) -> Iterable[Any]:
    if isinstance(node, tuple) and node and node[0] in _REPEATS and node[1][1] > HARMLESS_REPEATS:
        yield node[1][2]
    elif isinstance(node, tuple | list | _parser.SubPattern):
        for child in node:
            yield from _outermost_loops(child)


class _Loop:
    """The position automaton of a repeated group. Positions are numbered; ``_follow`` has the successors of each."""

    def __init__(self, body: Any, alphabet: set[str], case_sensitive: bool) -> None:
        self._alphabet, self._case_sensitive = alphabet, case_sensitive
        self._chars: list[set[str]] = []
        self._follow: list[set[int]] = []
        self._repeated_step = False
        first, last, _ = self._add_sequence(body)
        self._connect(last, first)

    def is_ambiguous(self) -> bool:
        """Return whether two different paths with the same text lead from one position to one position."""
        follow = [frozenset(successors) for successors in self._follow]
        pairs = {(position, position) for position in range(len(follow))}
        queue, examined, steps = list(pairs), set(), 0
        while queue and not self._repeated_step:
            left, right = queue.pop()
            step = (follow[left], follow[right], left == right)
            if step in examined:
                continue
            examined.add(step)
            steps += len(follow[left]) * len(follow[right])
            if steps > MAX_STEPS or (left != right and follow[left] & follow[right]):
                return True
            for pair in itertools.product(follow[left], follow[right]):
                if pair not in pairs and not self._chars[pair[0]].isdisjoint(self._chars[pair[1]]):
                    pairs.add(pair)
                    queue.append(pair)
        return self._repeated_step

    def _connect(self, last: set[int], first: set[int]) -> None:
        for position in last:
            self._repeated_step |= not first.isdisjoint(self._follow[position])
            self._follow[position] |= first

    def _add_sequence(self, items: Any) -> tuple[set[int], set[int], bool]:
        """Add the positions of a sequence; return its first and last positions, and whether it can be empty."""
        first: set[int] = set()
        last: set[int] = set()
        is_empty = True
        for operator, argument in items:
            item_first, item_last, optional = self._add(operator, argument)
            self._connect(last, item_first)
            first |= item_first if is_empty else set()
            last = item_last | last if optional else item_last
            is_empty = is_empty and optional
        return first, last, is_empty

    def _add(self, operator: Any, argument: Any) -> tuple[set[int], set[int], bool]:
        if operator in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
            return set(), set(), True
        if operator in (sre.SUBPATTERN, sre.ATOMIC_GROUP):
            return self._add_sequence(argument[-1] if operator is sre.SUBPATTERN else argument)
        if operator in (sre.BRANCH, sre.GROUPREF_EXISTS):
            branches = argument[1] if operator is sre.BRANCH else [argument[1], argument[2] or []]
            firsts, lasts, optional = zip(*map(self._add_sequence, branches), strict=True)
            return set().union(*firsts), set().union(*lasts), any(optional)
        if operator in _REPEATS:
            low, high, body = argument
            first, last, is_empty = self._add_sequence(body)
            if operator is not sre.POSSESSIVE_REPEAT and high > max(low, 1):
                self._connect(last, first)
            return first, last, is_empty or low == 0
        self._chars.append({char for char in self._alphabet if self._matches(operator, argument, char)})
        self._follow.append(set())
        position = {len(self._chars) - 1}
        return position, position, False

    def _matches(self, operator: Any, argument: Any, char: str) -> bool:
        if operator is sre.ANY:
            return char != "\n"
        if operator is sre.GROUPREF:
            return False  # its text is not known: assume that it differs from everything else
        items = argument if operator is sre.IN else [(operator, argument)]
        cases = {char} if self._case_sensitive else {char, char.lower(), char.upper()}
        negated = items[0][0] in (sre.NEGATE, sre.NOT_LITERAL)
        return negated != any(_has(kind, value, case) for kind, value in items for case in cases)


def _has(kind: Any, value: Any, char: str) -> bool:
    if kind is sre.CATEGORY:
        return re.match(_CATEGORIES[value], char, re.ASCII) is not None
    if kind is sre.RANGE:
        return len(char) == 1 and value[0] <= ord(char) <= value[1]
    return kind is not sre.NEGATE and char == chr(value)
