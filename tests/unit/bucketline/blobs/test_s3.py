"""What the store decides without asking the server; the rest is in the contract suite."""

from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import BlobStoreError
from bucketline.settings import S3Settings

AWS = S3Settings(
    access_key="AKIAEXAMPLE",
    secret_key=SecretStr("secret"),
    region="eu-central-1",
    addressing_style="virtual",
    bucket="files",
)


async def test_without_an_endpoint_urls_are_for_the_regions_own() -> None:
    async with S3BlobStore(AWS) as store:
        url = urlsplit(await store.presign_put("a b", expires=60, content_type="text/plain", size=3))
    assert (url.netloc, url.path) == ("files.s3.eu-central-1.amazonaws.com", "/a%20b")
    query = parse_qs(url.query)
    assert query["X-Amz-SignedHeaders"] == ["content-length;content-type;host"]
    assert query["X-Amz-Credential"][0].endswith("/eu-central-1/s3/aws4_request")
    assert query["X-Amz-Expires"] == ["60"]


async def test_without_keys_the_environment_supplies_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    async with S3BlobStore(AWS.model_copy(update={"access_key": None, "secret_key": None})) as store:
        query = parse_qs(urlsplit(await store.presign_get("k", expires=60)).query)
    assert query["X-Amz-Credential"][0].startswith("FROMENV/")
    assert query["X-Amz-Security-Token"] == ["token"]


async def test_a_url_that_would_be_too_long_is_not_given_out() -> None:
    async with S3BlobStore(AWS) as store:
        with pytest.raises(BlobStoreError):
            await store.presign_put("k" * 2000, expires=60)
        with pytest.raises(BlobStoreError):
            await store.presign_get("k" * 2000, expires=60)
