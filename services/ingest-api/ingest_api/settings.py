"""Settings that only the ingest API has."""

from typing import Annotated

from pydantic import Field, SecretStr

from bucketline.access.settings import AccessSettings
from bucketline.settings import Count, Seconds


class ApiSettings(AccessSettings):
    """``key`` is the bootstrap key: ADMIN, every namespace. It always works and is never stored."""

    key: SecretStr | None = None
    key_cache_seconds: Seconds = 30.0
    scope_cache_seconds: Seconds = 2.0
    rate_limit: Annotated[int, Field(ge=0, description="Requests a window and key; 0 switches limits off.")] = 0
    rate_window_seconds: Count = 60
    inline_spill_bytes: Annotated[
        int, Field(ge=0, description="Inline content above this goes to S3 before the object is written.")
    ] = 256 * 1024
    inline_limit_bytes: Count = 50 * 1024 * 1024
    allow_file_sources: bool = False
    async_confirm_bytes: Count = 100 * 1024 * 1024
