"""How commands talk while they work."""

import pytest

from bucketline.cli import console
from bucketline.cli.console import telling


def test_where_nobody_watches_a_long_command_says_now_and_then_what_it_is_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with telling("looking") as tell:
        for step in range(100):
            now += 1
            tell(f"{step + 1} seen")
    said = capsys.readouterr()
    assert said.out == "", "results alone go to standard output"
    assert said.err.splitlines() == ["looking", "30 seen", "60 seen", "90 seen"]
