"""Settings that only the ingest API has."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from bucketline.admin.api_keys import ApiKeySettings
from bucketline.settings import Count, HttpUrl, Seconds


def _origins(value: str) -> str:
    for origin in value.split(",") if value else ():
        if origin.strip() != "*" and not re.fullmatch(r"https?://[^/\s]+", origin.strip()):
            raise ValueError(f"{origin.strip()!r} is not an origin such as https://app.example.com, nor *")
    return value


class ApiSettings(ApiKeySettings):
    """Access, rate limits and the size of requests."""

    key: SecretStr | None = None
    """The bootstrap key. It has all permissions in every namespace, is always valid and never stored."""
    key_cache_seconds: Seconds = 30.0
    """How long a replica caches a key, and so how long a revoked key may still work."""
    namespace_cache_seconds: Seconds = 2.0
    """How long a replica caches namespaces and buckets. Deletions wait for it. Use the same value on all replicas."""
    rate_limit: Annotated[int, Field(ge=0)] = 0
    """Requests per window and API key; 0 disables rate limiting."""
    rate_window_seconds: Count = 60
    """Length of a rate-limiting window."""
    store_timeout_seconds: Seconds = 4.0
    """Seconds that one MongoDB call of a request may take before the request is answered with 503 and `Retry-After`."""
    inline_staging_threshold_bytes: Annotated[int, Field(ge=0)] = 256 * 1024
    """Inline content above this size is stored in S3 before the object is written."""
    max_inline_bytes: Count = 50 * 1024 * 1024
    """Limit on the inline content of a blob."""
    allow_file_sources: bool = False
    """Accept blobs with a ``file://`` source. Dedup reads them only below its ``file_roots``."""
    cors_origins: Annotated[str, AfterValidator(_origins)] = ""
    """Comma-separated origins whose pages may call the API from a browser; ``*`` allows all, empty allows none."""
    console_url: HttpUrl | None = None
    """URL of the web console as users reach it. ``GET /`` redirects there, or to ``/docs`` if it is unset."""
    async_confirm_threshold_bytes: Count = 100 * 1024 * 1024
    """Uploads of at least this size are confirmed in the background."""
    event_retention_days: Count = 7
    """Days for which events stay in the feed."""
    webhook_retry_seconds: Seconds = 5.0
    """Pause after the first failed attempt of a webhook delivery; it doubles up to an hour."""
