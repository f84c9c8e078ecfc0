"""Identifiers: a prefix that names the kind, then a token that sorts by its time of creation.

The token has 20 characters: 48 bits of milliseconds and 48 random bits in Crockford's base 32, in lower case. The order
within one millisecond is random.
"""

import hashlib
import secrets
import time
from typing import Literal, Protocol

Prefix = Literal["ns", "bkt", "obj", "blob", "upl", "btch", "col", "doc", "task", "evt", "unit", "req", "whd"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TOKEN_LENGTH = 20
# Two symbols at a time, because several ids are created for every object.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


class Ids(Protocol):
    """Creates new identifiers."""

    def new(self, prefix: Prefix) -> str:
        """Return a new identifier such as ``obj_06h2…``."""
        ...


class RandomIds:
    """Creates time-ordered random identifiers."""

    def new(self, prefix: Prefix) -> str:
        """Return a new identifier."""
        token = (time.time_ns() // 1_000_000) << 48 | secrets.randbits(48)
        return f"{prefix}_{_base32(token)}"


class CountingIds:
    """Creates predictable identifiers for tests: ``obj_00000000000000000001`` and so on."""

    def __init__(self) -> None:
        self._count = 0

    def new(self, prefix: Prefix) -> str:
        """Return the next identifier."""
        self._count += 1
        return f"{prefix}_{self._count:0{_TOKEN_LENGTH}d}"


_DERIVED_BYTES = 12


def derived(prefix: Prefix, *parts: str | int) -> str:
    """Return the identifier of these parts. The same parts always give the same id.

    It makes effects idempotent: documents and work units have derived ids.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=_DERIVED_BYTES).digest()
    return f"{prefix}_{_base32(int.from_bytes(digest))}"


def bound(prefix: Prefix, index: int, count: int) -> str:
    """Return the id below which ``index`` of ``count`` equal parts of all derived ids are. Needs ``index < count``."""
    return f"{prefix}_{_base32((index << 8 * _DERIVED_BYTES) // count)}"


def _base32(value: int) -> str:
    symbols = []
    for _ in range(_TOKEN_LENGTH // 2):
        symbols.append(_PAIRS[value & 1023])
        value >>= 10
    return "".join(reversed(symbols))
