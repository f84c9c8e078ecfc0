"""The signature on what is sent to a model server.

``X-Bucketline-Signature: t=<unix seconds>,v1=<hex>`` where hex is the HMAC-SHA256 of ``<t>.`` and the raw
body.
"""

import hashlib
import hmac

HEADER = "X-Bucketline-Signature"


def sign(secret: str, body: bytes, now: float) -> str:
    """The header's value."""
    moment = str(int(now))
    digest = hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def verify(secret: str, body: bytes, value: str, now: float, tolerance: float = 300.0) -> bool:
    """For the receiving side: whether the value signs this body and is at most ``tolerance`` seconds old."""
    parts = dict(part.partition("=")[::2] for part in value.split(","))
    moment = parts.get("t", "")
    if not moment.isdecimal() or abs(now - int(moment)) > tolerance:
        return False
    return hmac.compare_digest(sign(secret, body, int(moment)), f"t={moment},v1={parts.get('v1', '')}")
