"""Opaque cursors: base64url of JSON that says where the next page begins and in which order.

A cursor is not a secret and grants nothing: every list applies its own scope and permissions. The check sum is there
so that a cut or edited cursor is told apart from ours (400) instead of silently giving another page.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bucketline.clock import from_millis, millis
from bucketline.domain.bson_compare import EMPTY
from bucketline.domain.keyset import MAX_KEY_STRING, Key, Position
from bucketline.domain.moments import MOMENTS
from bucketline.domain.sorting import MAX_SORTS, MAX_TIES, Sort, path_fault
from bucketline.errors import BadRequest

VERSION = 1
MAX_LENGTH = 8192
MAX_ID = 200
MAX_PARTITIONS = 256

_CHECK_BYTES = 6


class _Unreadable(Exception):
    """Not a cursor of ours."""


@dataclass(frozen=True)
class Partition:
    """The rows with one ``index`` of ``count``, from 0: every row is in exactly one partition."""

    index: int
    count: int


@dataclass(frozen=True)
class Cursor:
    """``count`` rows came before. The next begins after ``position``, or, where it has none, after those by number.

    The pages that follow stay in the ``partition``.
    """

    sorts: tuple[Sort, ...]
    count: int
    position: Position | None
    partition: Partition | None = None

    def encode(self) -> str:
        """URL-safe text."""
        payload: dict[str, object] = {
            "v": VERSION,
            "s": [[sort.field, "d" if sort.descending else "a"] for sort in self.sorts],
            "n": self.count,
        }
        if self.position is not None:
            payload["k"] = [_tagged(key) for key in self.position.keys]
            payload["i"] = self.position.id
        if self.partition is not None:
            payload["p"] = [self.partition.index, self.partition.count]
        body = json.dumps(payload, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(_check(body) + body).decode().rstrip("=")


def decode(text: str) -> Cursor:
    """The cursor that ``encode`` wrote. Raises :class:`BadRequest` for anything else, whatever it is."""
    try:
        return _decode(text)
    except (_Unreadable, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise BadRequest(
            "the cursor is not one of ours: start again without it", code="invalid_cursor", details={"field": "cursor"}
        ) from error


def check_sorts(cursor: Cursor, sorts: Sequence[Sort]) -> None:
    """Raises :class:`BadRequest` when the request names another order than that of the cursor."""
    if cursor.sorts != tuple(sorts):
        raise BadRequest(
            "the cursor belongs to another sort: repeat the sort of the first page, or start again without the cursor",
            code="invalid_cursor",
            details={"field": "cursor"},
        )


def check_partition(cursor: Cursor, partition: Partition) -> None:
    """Raises :class:`BadRequest` when the request names another partition than that of the cursor."""
    if cursor.partition != partition:
        raise BadRequest(
            "the cursor belongs to another partition: send the cursor alone, or start again without it",
            code="invalid_cursor",
            details={"field": "cursor"},
        )


def _decode(text: str) -> Cursor:
    if len(text) > MAX_LENGTH:
        raise _Unreadable
    raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    check, body = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if check != _check(body):
        raise _Unreadable
    payload = json.loads(body)
    if payload["v"] != VERSION:
        raise _Unreadable
    sorts = tuple(Sort(_path(field), {"a": False, "d": True}[direction]) for field, direction in payload["s"])
    count = payload["n"]
    if type(count) is not int or not 0 <= count < 2**53 or len(sorts) > MAX_SORTS + MAX_TIES:
        raise _Unreadable
    partition = _partition(payload["p"]) if "p" in payload else None
    if "i" not in payload:
        return Cursor(sorts, count, None, partition)
    keys = tuple(_untagged(entry) for entry in payload["k"])
    identifier = payload["i"]
    if len(keys) != len(sorts) or not isinstance(identifier, str):
        raise _Unreadable
    return Cursor(sorts, count, Position(keys, _text(identifier, MAX_ID)), partition)


def _partition(entry: object) -> Partition:
    match entry:
        case [int(index), int(count)] if 0 <= index < count <= MAX_PARTITIONS:
            return Partition(index, count)
    raise _Unreadable


def _tagged(key: Key) -> object:
    """JSON has neither dates nor a difference between nothing and an empty array, so those are wrapped."""
    if key is EMPTY:
        return ["e"]
    if isinstance(key, datetime):
        return ["t", millis(key)]
    return key


def _untagged(entry: object) -> Key:
    if isinstance(entry, int) and not -(2**63) <= entry < 2**63:
        raise _Unreadable
    if isinstance(entry, str):
        return _text(entry, MAX_KEY_STRING)
    if entry is None or isinstance(entry, int | float):
        return entry
    if entry == ["e"]:
        return EMPTY
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == "t" and type(entry[1]) is int:
        return from_millis(entry[1])
    raise _Unreadable


def _text(value: str, limit: int) -> str:
    """Fit for the database: its encoder fails on half a surrogate pair."""
    if len(value) > limit:
        raise _Unreadable
    value.encode()
    return value


def _path(field: object) -> str:
    if not isinstance(field, str) or path_fault(field.removeprefix(f"{MOMENTS}.")) is not None:
        raise _Unreadable
    return field


def _check(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECK_BYTES, person=b"cursor").digest()
