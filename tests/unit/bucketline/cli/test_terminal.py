"""Progress, signals and times on the command line."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from signal import SIGINT, SIGTERM, Signals

import pytest
import typer

from bucketline.cli.terminal import parse_duration, parse_past_time, report_progress

NOW = datetime(2026, 3, 8, 12, 0, tzinfo=UTC)


def test_report_progress_without_a_terminal_prints_one_line_per_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with report_progress("looking") as report:
        for step in range(100):
            now += 1
            report(f"{step + 1} seen")
    printed = capsys.readouterr()
    assert printed.out == "", "only results go to standard output"
    assert printed.err.splitlines() == ["looking", "30 seen", "60 seen", "90 seen"]


STOPPABLE = """
import asyncio
from bucketline.cli.terminal import run_until_signal

async def work():
    try:
        print("working", flush=True)
        await asyncio.Event().wait()
    finally:
        print("cleaning", flush=True)
        await asyncio.to_thread(input)
        print("clean", flush=True)

print(run_until_signal(work()))
"""


@pytest.mark.parametrize("first", [SIGINT, SIGTERM])
@pytest.mark.parametrize("second", [SIGINT, SIGTERM, None])
def test_run_until_signal_lets_the_work_clean_up_after_several_signals(first: Signals, second: Signals | None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPABLE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(first)
        assert process.stdout.readline() == "cleaning\n"
        if second is not None:
            process.send_signal(second)
        out, err = process.communicate("go on\n", timeout=20)
    assert (process.returncode, out, err) == (0, "clean\nNone\n", "stopping\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("90m", NOW - timedelta(minutes=90)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:30", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("2026-03-01T12:30:00Z", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("2026-03-01T14:30:00+02:00", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_parse_past_time_accepts_times_and_durations(text: str, expected: datetime) -> None:
    assert parse_past_time(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "7", "d", "-7d", "7 d", "99999999999999d", "9999999d", "2026-13-01"])
def test_parse_past_time_with_invalid_text_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_past_time(text, NOW)


def test_parse_duration_accepts_weeks() -> None:
    assert parse_duration("4w") == timedelta(weeks=4)
