"""When two objects have the same content: ``skip_duplicates`` returns the older one instead of making a second.

Both writers of an object compute it in this one way: the ingest API for what it has in its hands, dedup for what it
had to fetch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping


def content_key(blobs: Iterable[tuple[str, str]]) -> str | None:
    """One string for ``(property, hash)`` of every blob, whatever their order; None for an object without blobs.

    ``hash`` is ``sha256:<hex>``, or what :func:`properties_hash` gives for a blob without bytes.
    """
    rows = sorted(f"{name}\x00{found}" for name, found in blobs)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest() if rows else None


def properties_hash(properties: Mapping[str, object]) -> str:
    """Stands for the hash of a blob that is free-form data without bytes. Not equal to the hash of any bytes."""
    canonical = json.dumps(properties, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return f"properties:{hashlib.sha256(canonical.encode()).hexdigest()}"
