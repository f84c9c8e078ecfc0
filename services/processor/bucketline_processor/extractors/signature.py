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
