"""Insertion policies: what a write does when its unique key is free, and when an object has it (contract, 1.5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bucketline.errors import AlreadyExists, ApiError, BadRequest, Json, NotFound, ValidationFailed, ValidationIssue

Policy = Literal["insert", "update", "upsert"]

INSERT: Final = "insert"
UPDATE: Final = "update"
UPSERT: Final = "upsert"
POLICIES: tuple[Policy, ...] = (INSERT, UPDATE, UPSERT)


@dataclass(frozen=True)
class InsertNew:
    """Make a new object."""


@dataclass(frozen=True)
class UpdateExisting:
    """Change the object that has the key; it keeps its id."""

    object_id: str


@dataclass(frozen=True)
class Refuse:
    """Write nothing and answer this."""

    error: ApiError


Decision = InsertNew | UpdateExisting | Refuse


def resolve_policy(
    query: str | None, default: str | None, *, bucket_id: str, missing: Literal[400, 422] = 400
) -> Policy:
    """The policy of a write to a bucket with a unique key: the request's, else the bucket's.

    Raises :class:`BadRequest` when there is none (creating an object), or :class:`ValidationFailed` with
    ``missing=422`` (confirming an upload), and :class:`BadRequest` for a word that is no policy.
    """
    named = query if query is not None else default
    for policy in POLICIES:
        if named == policy:
            return policy
    if named is not None:
        raise BadRequest(
            "policy must be insert, update or upsert",
            code="policy_invalid",
            details={"policy": named[:100], "allowed": list(POLICIES)},
        )
    message = "the bucket has a unique_key: pass ?policy= or set unique_key.default_policy"
    if missing == 422:
        raise ValidationFailed([ValidationIssue("missing", ("query", "policy"), message)], code="policy_required")
    raise BadRequest(message, code="policy_required", details={"bucket_id": bucket_id, "allowed": list(POLICIES)})


def decide(policy: Policy, existing_object_id: str | None, unique_key: Mapping[str, Json]) -> Decision:
    """What a write under ``policy`` does when ``existing_object_id`` has its key, or nobody (None).

    The answer is advice: between reading and writing somebody may take or free the key. The unique index has the last
    word, and whoever loses there reads again and asks again.
    """
    if existing_object_id is None:
        return Refuse(key_not_found(unique_key)) if policy == UPDATE else InsertNew()
    return Refuse(key_taken(existing_object_id, unique_key)) if policy == INSERT else UpdateExisting(existing_object_id)


def key_taken(existing_object_id: str, unique_key: Mapping[str, Json]) -> AlreadyExists:
    """The 409 of a key that an object has."""
    return AlreadyExists(
        "an object with this unique key exists",
        code="unique_key_exists",
        details={"existing_object_id": existing_object_id, "unique_key": dict(unique_key)},
    )


def key_not_found(unique_key: Mapping[str, Json]) -> NotFound:
    """The 404 of a key that no object has."""
    return NotFound(
        "no object with this unique key exists",
        code="unique_key_not_found",
        details={"resource": "object", "unique_key": dict(unique_key)},
    )


def merged_fields(stored: Mapping[str, object], sent: Mapping[str, object]) -> dict[str, object]:
    """Root fields after an update: one that was sent replaces its namesake as a whole, the others stay."""
    return {**stored, **sent}


def put_fields(stored: Mapping[str, object], metadata: Mapping[str, object]) -> dict[str, object]:
    """The root fields that a PUT with ``metadata`` changes.

    A key that the object holds in its own ``metadata`` is changed there, any other at the root.
    """
    held = stored.get("metadata")
    if not isinstance(held, dict):
        return dict(metadata)
    inner = {name: value for name, value in metadata.items() if name in held}
    outer = {name: value for name, value in metadata.items() if name not in held}
    return {**outer, "metadata": {**held, **inner}} if inner else outer
