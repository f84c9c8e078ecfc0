"""URLs that the store builds without a request; the rest is in the contract suite."""

from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.s3_signing import content_disposition, truncated_names
from bucketline.blobs.store import BlobStoreError, split_s3_url
from bucketline.settings import S3Settings

AWS = S3Settings(
    access_key="AKIAEXAMPLE",
    secret_key=SecretStr("secret"),
    region="eu-central-1",
    addressing_style="virtual",
    bucket="files",
)


async def test_presign_without_an_endpoint_uses_the_region() -> None:
    async with S3BlobStore(AWS) as store:
        url = urlsplit(await store.presign_put("a b", expires=60, content_type="text/plain", size=3))
    assert (url.netloc, url.path) == ("files.s3.eu-central-1.amazonaws.com", "/a%20b")
    query = parse_qs(url.query)
    assert query["X-Amz-SignedHeaders"] == ["content-length;content-type;host"]
    assert query["X-Amz-Credential"][0].endswith("/eu-central-1/s3/aws4_request")
    assert query["X-Amz-Expires"] == ["60"]


async def test_presign_without_keys_uses_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    async with S3BlobStore(AWS.model_copy(update={"access_key": None, "secret_key": None})) as store:
        query = parse_qs(urlsplit(await store.presign_get("k", expires=60)).query)
    assert query["X-Amz-Credential"][0].startswith("FROMENV/")
    assert query["X-Amz-Security-Token"] == ["token"]


async def test_presign_of_a_too_long_url_raises() -> None:
    async with S3BlobStore(AWS) as store:
        with pytest.raises(BlobStoreError):
            await store.presign_put("k" * 2000, expires=60)
        with pytest.raises(BlobStoreError):
            await store.presign_get("k" * 2000, expires=60)


@pytest.mark.parametrize(
    ("endpoint", "addressing", "expected"),
    [
        ("http://127.0.0.1:8333", "path", "http://127.0.0.1:8333/files/a%20b/%C3%BC%2B%25%3F?"),
        ("https://s3.example.com/", "virtual", "https://files.s3.example.com/a%20b/%C3%BC%2B%25%3F?"),
        ("https://gateway.example.com/s3", "path", "https://gateway.example.com/s3/files/a%20b/%C3%BC%2B%25%3F?"),
    ],
)
async def test_presign_encodes_the_key_once(endpoint: str, addressing: str, expected: str) -> None:
    settings = AWS.model_copy(update={"public_endpoint_url": endpoint, "addressing_style": addressing})
    async with S3BlobStore(settings) as store:
        assert (await store.presign_get("a b/ü+%?", expires=60)).startswith(expected)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a/b c?d", ("bucket", "a/b c?d")),
        ("S3://bucket/a", ("bucket", "a")),
        ("s3://bucket", ("bucket", "")),
    ],
)
def test_split_s3_url_takes_the_key_literally(url: str, expected: tuple[str, str]) -> None:
    assert split_s3_url(url) == expected


@pytest.mark.parametrize("url", ["http://bucket/a", "s3:bucket/a", "s3", ""])
def test_split_s3_url_of_another_scheme_raises(url: str) -> None:
    with pytest.raises(BlobStoreError):
        split_s3_url(url)


def test_content_disposition_cannot_add_parameters_or_headers() -> None:
    value = content_disposition('a"; filename=b\r\nX: y.txt')
    assert value.startswith("attachment; filename=\"a_; filename=b__X: y.txt\"; filename*=UTF-8''")
    assert "\r" not in value
    assert "\n" not in value
    assert value.endswith("a%22%3B%20filename%3Db%0D%0AX%3A%20y.txt")


def test_truncated_names_keep_the_extension() -> None:
    names = list(truncated_names("書" * 300 + ".txt"))
    assert names[-1] is None
    assert all(name is not None and name.endswith("書.txt") for name in names[:-1])
    assert [len(name) for name in names if name] == [259, 132, 68, 36, 20]
