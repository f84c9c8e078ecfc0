"""Times as people type them."""

from datetime import UTC, datetime, timedelta

import pytest
import typer

from bucketline.cli.params import moment, span

NOW = datetime(2026, 3, 8, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("90m", NOW - timedelta(minutes=90)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:30", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("2026-03-01T12:30:00Z", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("2026-03-01T14:30:00+02:00", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_a_moment(text: str, meant: datetime) -> None:
    assert moment(text, NOW) == meant


@pytest.mark.parametrize("text", ["", "yesterday", "7", "d", "-7d", "7 d", "99999999999999d", "9999999d", "2026-13-01"])
def test_what_is_no_moment_is_the_callers_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        moment(text, NOW)


def test_a_span() -> None:
    assert span("4w") == timedelta(weeks=4)
