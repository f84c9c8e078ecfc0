"""The job that all peers do, and the addresses of the servers."""

import hashlib
import os
from typing import Any

from pydantic import BaseModel

MONGODB_URL = os.environ["PEER_MONGODB_URL"]
DATABASE = os.environ["PEER_DATABASE"]
KAFKA = os.environ["PEER_KAFKA"]
REDIS_URL = os.environ["PEER_REDIS_URL"]
S3 = {
    "endpoint_url": os.environ["PEER_S3_ENDPOINT"],
    "aws_access_key_id": os.environ["PEER_S3_ACCESS_KEY"],
    "aws_secret_access_key": os.environ["PEER_S3_SECRET_KEY"],
    "region_name": "us-east-1",
}
BUCKET = os.environ["PEER_S3_BUCKET"]


class Blob(BaseModel):
    """One blob of an object; ``data`` is its text."""

    property: str
    type: str
    data: str


class NewObject(BaseModel):
    """The body of a create request."""

    name: str
    blobs: list[Blob]


def content(document: dict[str, Any]) -> tuple[bytes, str]:
    """Return the bytes of the object's blob and the key that stores them."""
    data = document["blobs"][0]["data"].encode()
    return data, f"blobs/{hashlib.sha256(data).hexdigest()}"


def result(document: dict[str, Any]) -> dict[str, Any]:
    """Return the result document of an object whose blob is stored."""
    return {"_id": f"result-{document['_id']}", "object_id": document["_id"], "blob": document["blob_key"]}
