"""May this address be fetched? As :mod:`bucketline.http.ssrf` decides; a refusal is the error of a source."""

from collections.abc import Iterator
from contextlib import contextmanager

from bucketline.http import errors, ssrf
from bucketline.http.ssrf import CheckedUrl, GuardPolicy
from bucketline_dedup.errors import AddressRefused

__all__ = [
    "CheckedUrl",
    "GuardPolicy",
    "check_redirect",
    "check_url",
    "refusals",
]


def check_url(url: str, policy: GuardPolicy) -> CheckedUrl:
    """When the producer's string is read, and again for every redirect."""
    with refusals():
        return ssrf.check_url(url, policy)


def check_redirect(source: CheckedUrl, location: str, policy: GuardPolicy) -> CheckedUrl:
    """For a hop."""
    with refusals():
        return ssrf.check_redirect(source, location, policy)


@contextmanager
def refusals() -> Iterator[None]:
    """Around the guard: what it refuses is told as a source's error."""
    try:
        yield
    except errors.AddressRefused as refused:
        raise AddressRefused(detail=refused.detail) from None
