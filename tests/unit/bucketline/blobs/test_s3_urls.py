import pytest

from bucketline.blobs.s3_urls import S3UrlBuilder, content_disposition, split_s3_url, truncated_names
from bucketline.blobs.store import BlobStoreError


@pytest.mark.parametrize(
    ("endpoint", "virtual", "expected"),
    [
        ("http://127.0.0.1:8333", False, "http://127.0.0.1:8333/files/a%20b/%C3%BC%2B%25%3F"),
        ("https://s3.example.com/", True, "https://files.s3.example.com/a%20b/%C3%BC%2B%25%3F"),
        ("https://gateway.example.com/s3", False, "https://gateway.example.com/s3/files/a%20b/%C3%BC%2B%25%3F"),
    ],
)
def test_keys_are_encoded_once(endpoint: str, virtual: bool, expected: str) -> None:
    assert S3UrlBuilder(endpoint, "files", virtual).url("a b/ü+%?") == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a/b c?d", ("bucket", "a/b c?d")),
        ("S3://bucket/a", ("bucket", "a")),
        ("s3://bucket", ("bucket", "")),
    ],
)
def test_an_s3_url_is_taken_literally(url: str, expected: tuple[str, str]) -> None:
    assert split_s3_url(url) == expected


@pytest.mark.parametrize("url", ["http://bucket/a", "s3:bucket/a", "s3", ""])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(BlobStoreError):
        split_s3_url(url)


def test_a_file_name_cannot_add_parameters_or_headers() -> None:
    value = content_disposition('a"; filename=b\r\nX: y.txt')
    assert value.startswith("attachment; filename=\"a_; filename=b__X: y.txt\"; filename*=UTF-8''")
    assert "\r" not in value
    assert "\n" not in value
    assert value.endswith("a%22%3B%20filename%3Db%0D%0AX%3A%20y.txt")


def test_a_cut_file_name_keeps_its_extension() -> None:
    names = list(truncated_names("書" * 300 + ".txt"))
    assert names[-1] is None
    assert all(name is not None and name.endswith("書.txt") for name in names[:-1])
    assert [len(name) for name in names if name] == [259, 132, 68, 36, 20]
