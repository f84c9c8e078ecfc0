"""What an operator writes into the environment."""

import pytest

from bucketline.extractors import OutboundPolicy
from bucketline_processor.settings import ProcessorSettings


def test_outbound_defaults_match_the_extractors() -> None:
    assert ProcessorSettings().outbound() == OutboundPolicy()


def test_outbound_limits_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIGNING_SECRET": "hush", "TIMEOUT_SECONDS": "600", "MAX_RESPONSE_BYTES": "1000"}.items():
        monkeypatch.setenv(f"BUCKETLINE_PROCESSOR_HTTP_EXTRACTOR_{name}", value)
    assert ProcessorSettings().outbound() == OutboundPolicy(
        signing_secret="hush", max_response_bytes=1000, timeout=600.0
    )


@pytest.mark.parametrize("written", ["http://models/, https://other/v1", '["http://models/","https://other/v1"]'])
def test_allowed_urls_are_read_from_words_or_json(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("BUCKETLINE_PROCESSOR_HTTP_EXTRACTOR_ALLOWED_URLS", written)
    assert ProcessorSettings().outbound().allowed_endpoints == ("http://models/", "https://other/v1")
