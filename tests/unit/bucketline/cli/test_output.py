"""How commands talk while they work, and how they stop."""

import subprocess
import sys
from signal import SIGINT, SIGTERM, Signals

import pytest

from bucketline.cli import output
from bucketline.cli.output import progress_reporter


def test_where_nobody_watches_a_long_command_says_now_and_then_what_it_is_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)
    with progress_reporter("looking") as tell:
        for step in range(100):
            now += 1
            tell(f"{step + 1} seen")
    said = capsys.readouterr()
    assert said.out == "", "results alone go to standard output"
    assert said.err.splitlines() == ["looking", "30 seen", "60 seen", "90 seen"]


STOPPABLE = """
import asyncio
from bucketline.cli.output import run_until_signal

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
def test_work_that_is_stopped_by_a_signal_cleans_up_whatever_comes_then(first: Signals, second: Signals | None) -> None:
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
