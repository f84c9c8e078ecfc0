"""Signatures, pauses between attempts, and when a webhook is deactivated."""

import base64
import hashlib
import hmac
from datetime import timedelta

import pytest

from bucketline.clock import ManualClock
from bucketline.db.webhooks import WebhookChannel
from bucketline_ingest_api.webhooks.delivery import MAX_FAILURES, is_failing, retry_pause, signature_headers

NOW = ManualClock().now()
TIME = int(NOW.timestamp())


def channel(secret: str | None) -> WebhookChannel:
    return {"url": "https://hooks.example/in", "headers": {}, "timeout": 10.0, "secret": secret}


def test_standard_signature_is_keyed_by_the_decoded_secret() -> None:
    key = b"\x00\x01\x02 a key of some bytes"
    headers = signature_headers(channel(f"whsec_{base64.b64encode(key).decode()}"), "evt_1", b'{"a":1}', NOW)
    expected = hmac.digest(key, f'evt_1.{TIME}.{{"a":1}}'.encode(), hashlib.sha256)
    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == str(TIME)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"


@pytest.mark.parametrize("secret", ["change-me", "whsec_AAEC", "whsec_not base64"])
def test_signature_of_the_contract_is_keyed_by_the_text_of_the_secret(secret: str) -> None:
    headers = signature_headers(channel(secret), "evt_1", b'{"a":1}', NOW)
    expected = hmac.new(secret.encode(), f'{TIME}.{{"a":1}}'.encode(), hashlib.sha256).hexdigest()
    assert headers["X-Mixpeek-Signature"] == f"t={TIME},v1={expected}"


def test_delivery_without_a_secret_is_not_signed() -> None:
    assert signature_headers(channel(None), "evt_1", b"{}", NOW).keys() == {"webhook-id", "webhook-timestamp"}


def test_rotated_secret_signs_beside_the_new_one_until_it_expires() -> None:
    until = NOW + timedelta(hours=1)
    rotated: WebhookChannel = {**channel("new"), "previous_secret": "old", "previous_until": until}
    old = signature_headers(channel("old"), "evt_1", b"{}", NOW)["webhook-signature"]
    new = signature_headers(channel("new"), "evt_1", b"{}", NOW)["webhook-signature"]
    assert signature_headers(rotated, "evt_1", b"{}", NOW)["webhook-signature"] == f"{new} {old}"
    assert " " not in signature_headers(rotated, "evt_1", b"{}", until)["webhook-signature"]


def test_pause_doubles_up_to_an_hour() -> None:
    pauses = [retry_pause(failures, 5.0).total_seconds() for failures in (1, 2, 3, 30)]
    for pause, longest in zip(pauses, (5, 10, 20, 3600), strict=True):
        assert 0.8 * longest <= pause <= longest


@pytest.mark.parametrize(
    ("failures", "hours", "expected"), [(MAX_FAILURES, 24, True), (MAX_FAILURES - 1, 48, False), (1000, 23, False)]
)
def test_webhook_is_failing_after_many_failures_over_a_day(failures: int, hours: int, expected: bool) -> None:
    first = NOW - timedelta(hours=hours)
    assert is_failing({"consecutive_failures": failures, "first_failure_at": first}, NOW) is expected
    assert not is_failing({}, NOW)
