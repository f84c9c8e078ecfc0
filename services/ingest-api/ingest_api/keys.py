"""API keys: how they look, and how one is recognised.

``sk_<key id>_<secret><checksum>``: a prefix for secret scanners, an id to look the key up by, 192 random bits, and a
checksum, so that a scanner can tell a real key from noise without asking anybody. Only SHA-256 of the clear key, with
the deployment's pepper, is stored; a slow hash buys nothing for random secrets.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass

from bucketline.storage.keys import Permission

_SHAPE = re.compile(r"sk_([a-z0-9]{12})_([A-Za-z0-9]{32})([a-z0-9]{8})")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class Caller:
    """Who makes a request. ``namespaces`` empty: every one of the organisation."""

    key_id: str
    key_name: str
    organization_id: str
    user_email: str | None
    permissions: frozenset[Permission]
    namespaces: frozenset[str]


def new_key(key_id: str | None = None) -> tuple[str, str]:
    """A fresh key id (or the given one, to rotate) and the key in clear, shown this once."""
    identifier = key_id or "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(12))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(32))
    return identifier, f"sk_{identifier}_{secret}{_checksum(identifier + secret)}"


def key_id_of(clear: str) -> str | None:
    """The id that a well-formed key carries; None for anything else, without asking the database."""
    found = _SHAPE.fullmatch(clear)
    if found is None or not hmac.compare_digest(_checksum(found[1] + found[2]), found[3]):
        return None
    return found[1]


def digest(clear: str, pepper: str) -> str:
    """What is stored of a key."""
    return hmac.new(pepper.encode(), clear.encode(), hashlib.sha256).hexdigest()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
