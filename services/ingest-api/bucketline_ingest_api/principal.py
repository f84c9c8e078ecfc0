"""The caller that a key stands for."""

from dataclasses import dataclass
from datetime import datetime

from bucketline.db.api_keys import Permission


@dataclass(frozen=True)
class Principal:
    """Who makes a request. ``namespaces`` holds ids; empty: every one of the organisation."""

    key_id: str
    key_name: str
    organization_id: str
    user_email: str | None
    permissions: frozenset[Permission]
    namespaces: frozenset[str]
    rate_limit: int | None = None
    expires_at: datetime | None = None
