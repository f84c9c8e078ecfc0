"""Settings that the API and the command line need to speak of the same keys."""

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from bucketline.settings import Seconds, SettingsBase


class ApiKeySettings(SettingsBase):
    """Whose keys they are, and how they are kept."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_API_")

    organization_id: str = "org_local"
    """The organisation of this deployment."""
    key_pepper: SecretStr = SecretStr("")
    """Part of every stored hash: changing it ends every key."""
    key_grace_seconds: Seconds = 24 * 3600.0
    """How long the old secret of a rotated key still works."""
