"""Which URLs an extractor may call: a decision without I/O."""

from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

_PORTS = {"http": 80, "https": 443}


def endpoint_allowed(url: str, allowed: Sequence[str]) -> bool:
    """Whether one of the operator's prefixes covers ``url``.

    Scheme, host and port must be equal; the path must be the prefix's or below it, at a ``/``. A URL with a
    user, with dots or escaped slashes that would leave the prefix, or without a plain host is never allowed.
    """
    target = _parts(url)
    if target is None:
        return False
    return any(_covers(prefix, target) for text in allowed if (prefix := _parts(text)) is not None)


def _parts(url: str) -> SplitResult | None:
    if any(ord(letter) <= 32 or letter == "\\" for letter in url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    plain = parts.scheme in _PORTS and parts.hostname and parts.username is None and parts.password is None
    path = unquote(parts.path)
    climbs = ".." in path.split("/") or "%" in path or path.count("/") != parts.path.count("/") or "\\" in path
    return parts if plain and not climbs else None


def _covers(prefix: SplitResult, target: SplitResult) -> bool:
    if _origin(prefix) != _origin(target):
        return False
    base = prefix.path.rstrip("/")
    return target.path == prefix.path or target.path == base or target.path.startswith(base + "/")


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
