"""Settings that only the ingest API has."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from bucketline.admin.api_keys import ApiKeySettings
from bucketline.settings import Count, Seconds


def _origins(value: str) -> str:
    for origin in value.split(",") if value else ():
        if origin.strip() != "*" and not re.fullmatch(r"https?://[^/\s]+", origin.strip()):
            raise ValueError(f"{origin.strip()!r} is not an origin such as https://app.example.com, nor *")
    return value


class ApiSettings(ApiKeySettings):
    """Who may call, how often, and how much comes with a request."""

    key: SecretStr | None = None
    """The bootstrap key: ADMIN, every namespace. It always works and is never stored."""
    key_cache_seconds: Seconds = 30.0
    """How long a replica remembers a key, and so a revoked one."""
    namespace_cache_seconds: Seconds = 2.0
    """The same for namespaces and buckets; deletions wait for it. Alike on all replicas."""
    rate_limit: Annotated[int, Field(ge=0)] = 0
    """Requests a window and key; 0 switches limits off."""
    rate_window_seconds: Count = 60
    """The length of such a window."""
    inline_staging_threshold_bytes: Annotated[int, Field(ge=0)] = 256 * 1024
    """Inline content above this goes to S3 before the object is written."""
    max_inline_bytes: Count = 50 * 1024 * 1024
    """Most inline content of a blob."""
    allow_file_sources: bool = False
    """Accept blobs with a ``file://`` source; dedup reads them below its ``file_roots`` only."""
    cors_origins: Annotated[str, AfterValidator(_origins)] = ""
    """Origins, separated by commas, whose pages may call this API from a browser; ``*`` is any. Empty: none."""
    async_confirm_threshold_bytes: Count = 100 * 1024 * 1024
    """An upload of this size or more is confirmed in the background."""
