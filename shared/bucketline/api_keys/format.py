"""How an API key looks, and how one is recognised.

``sk_<key id>_<secret><checksum>``: a prefix for secret scanners, an id to look the key up by, 190 random bits, and a
checksum, so that a scanner can tell a real key from noise without asking anybody. Only a SHA-256 of the clear key,
keyed with the deployment's pepper, is stored; a slow hash buys nothing for random secrets.
"""

import hashlib
import hmac
import re
import secrets
import zlib

_SHAPE = re.compile(r"sk_([a-z0-9]{12})_([A-Za-z0-9]{32})([a-z0-9]{8})")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_VISIBLE = 10


def new_key(key_id: str | None = None) -> tuple[str, str]:
    """A fresh key id (or the given one, to rotate) and the key in clear, shown this once."""
    identifier = key_id or "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))
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


def visible_prefix(key_id: str) -> str:
    """The beginning of the clear key, by which people tell their keys apart. Holds nothing of the secret."""
    return f"sk_{key_id}"[:_VISIBLE]


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
