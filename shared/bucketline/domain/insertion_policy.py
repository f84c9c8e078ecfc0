"""Insertion policies: what a write does when its unique key is free, and when an object has it (contract, 1.5)."""

from collections.abc import Mapping
from typing import Literal

from bucketline.errors import AlreadyExists, BadRequest, Json, NotFound, ValidationFailed, ValidationIssue

Policy = Literal["insert", "update", "upsert"]

POLICIES: tuple[Policy, ...] = ("insert", "update", "upsert")


def resolve_policy(
    query: str | None, default: str | None, *, bucket_id: str, missing: Literal[400, 422] = 400
) -> Policy:
    """Return the policy of a write to a bucket with a unique key: the request's, else the bucket's.

    Raises :class:`BadRequest` when there is none (creating an object), or :class:`ValidationFailed` with
    ``missing=422`` (confirming an upload), and :class:`BadRequest` for an unknown policy.
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


def key_taken(existing_object_id: str, unique_key: Mapping[str, Json]) -> AlreadyExists:
    """Return the 409 for a key that an object has."""
    return AlreadyExists(
        "an object with this unique key exists",
        code="unique_key_exists",
        details={"existing_object_id": existing_object_id, "unique_key": dict(unique_key)},
    )


def key_not_found(unique_key: Mapping[str, Json]) -> NotFound:
    """Return the 404 for a key that no object has."""
    return NotFound(
        "no object with this unique key exists",
        code="unique_key_not_found",
        details={"resource": "object", "unique_key": dict(unique_key)},
    )


def put_fields(stored: Mapping[str, object], metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the root fields that a PUT with ``metadata`` changes.

    A key that the object holds in its own ``metadata`` is changed there, any other at the root.
    """
    held = stored.get("metadata")
    if not isinstance(held, dict):
        return dict(metadata)
    inner = {name: value for name, value in metadata.items() if name in held}
    outer = {name: value for name, value in metadata.items() if name not in held}
    return {**outer, "metadata": {**held, **inner}} if inner else outer
