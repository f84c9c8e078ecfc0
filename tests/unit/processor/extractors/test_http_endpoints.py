import pytest

from bucketline_processor.extractors.http import endpoint_allowed

ALLOWED = ("http://models.internal:9000/v1", "https://Api.Example.com/", "http://10.0.0.5/hook")


@pytest.mark.parametrize(
    "url",
    [
        "http://models.internal:9000/v1",
        "http://models.internal:9000/v1/",
        "http://models.internal:9000/v1/embed?x=1",
        "https://api.example.com",
        "https://api.example.com:443/anything/below",
        "http://10.0.0.5:80/hook",
    ],
)
def test_below_a_prefix_is_allowed(url: str) -> None:
    assert endpoint_allowed(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "http://models.internal:9000/v10",
        "http://models.internal:9000/",
        "http://models.internal/v1",
        "https://models.internal:9000/v1",
        "http://models.internal:9000/v1/../admin",
        "http://models.internal:9000/v1/%2e%2e/admin",
        "http://models.internal:9000/v1/%252e%252e/admin",
        "http://models.internal:9000/v1/..%2fadmin",
        "http://models.internal:9000/v1/..\\admin",
        "http://models.internal:9000@evil.example/v1",
        "http://user:pw@models.internal:9000/v1",
        "http://models.internal.evil.example:9000/v1",
        "http://models.internal:9000\n/v1",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "http://10.0.0.5:99999/hook",
        "//models.internal:9000/v1",
        "",
    ],
)
def test_anything_else_is_not(url: str) -> None:
    assert not endpoint_allowed(url, ALLOWED)


def test_nothing_is_allowed_by_default() -> None:
    assert not endpoint_allowed("http://models.internal:9000/v1", ())
