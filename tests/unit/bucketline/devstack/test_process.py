import asyncio
import os
import resource
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from signal import SIGKILL

import pytest

from bucketline.devstack.exec_with_parent import ENOUGH_FILES
from bucketline.devstack.process import LINE_LIMIT, TAIL_LINES, ManagedProcess
from bucketline.errors import LocalStackError

DEADLINE = 20.0

WAITS_FOREVER = "import signal, time\nprint('here', flush=True)\nwhile True: time.sleep(60)\n"
IGNORES_SIGTERM = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITS_FOREVER
HAS_A_CHILD = "import subprocess, sys\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"


class Output(list[str]):
    """Lines as they come, and the wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def add(self, line: str) -> None:
        self.append(line)
        self._more.set()

    async def first(self) -> str:
        async with asyncio.timeout(DEADLINE):
            await self._more.wait()
        return self[0]


Make = Callable[..., tuple[ManagedProcess, Output]]


@pytest.fixture
async def run() -> AsyncIterator[Make]:
    """Makes processes out of Python source, and ends what a test leaves behind."""
    made: list[ManagedProcess] = []

    def make(source: str, **options: object) -> tuple[ManagedProcess, Output]:
        output = Output()
        if "log_file" not in options:
            options["on_line"] = output.add
        process = ManagedProcess("script", [sys.executable, "-uIS", "-c", source], **options)  # type: ignore[arg-type]
        made.append(process)
        return process, output

    yield make
    for process in made:
        await process.kill()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="waits with pidfd; both mechanisms run on Linux")


def gone(pid: int) -> bool:
    """Waits for the end of a process that is not our child, whether it is collected or not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], DEADLINE)[0])
    finally:
        os.close(descriptor)


async def never() -> bool:
    return False


async def test_output_comes_line_by_line_and_the_code_is_returned(run: Make) -> None:
    process, output = run("import sys\nprint('one')\nsys.stderr.write('two\\nthree')\nsys.exit(3)")
    await process.start()
    assert await process.wait(deadline=DEADLINE) == 3
    assert sorted(output) == ["one", "three", "two"]
    assert process.pid is None


async def test_a_line_without_end_is_cut_into_pieces(run: Make) -> None:
    process, output = run(f"print('x' * {LINE_LIMIT * 3})")
    await process.start()
    await process.wait(deadline=DEADLINE)
    assert "".join(output) == "x" * (LINE_LIMIT * 3)
    assert max(map(len, output)) <= LINE_LIMIT * 2


async def test_environment_is_only_what_was_given(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKETLINE_OURS", "1")
    source = "import os\nprint(os.environ.get('BUCKETLINE_OURS'), os.environ.get('GIVEN'))"
    clean, clean_output = run(source, environment={"GIVEN": "2"})
    heir, heir_output = run(source, environment={"GIVEN": "2"}, inherit=True)
    for process in (clean, heir):
        await process.start()
        await process.wait(deadline=DEADLINE)
    assert clean_output == ["None 2"]
    assert heir_output == ["1 2"]


async def test_a_low_limit_of_open_files_is_raised_for_it(run: Make) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process, output = run("import resource\nprint(*resource.getrlimit(resource.RLIMIT_NOFILE))")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    try:
        await process.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await process.wait(deadline=DEADLINE)
    assert output == [f"{min(hard, ENOUGH_FILES)} {hard}"]


async def test_log_of_the_run_before_is_kept(run: Make, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "script.log"
    process, _ = run("import os\nprint('pid', os.getpid())", log_file=log)
    for _ in range(2):
        await process.start()
        await process.wait(deadline=DEADLINE)
    now, before = log.read_text(), (tmp_path / "logs" / "script.log.1").read_text()
    assert now.startswith("pid ")
    assert before.startswith("pid ")
    assert now != before


async def test_an_early_end_is_noticed_at_once_and_explained(run: Make, tmp_path: Path) -> None:
    process, _ = run(
        "import sys\nprint(*range(100), sep='\\n')\nsys.exit('no such disk')", log_file=tmp_path / "script.log"
    )
    await process.start()
    with pytest.raises(LocalStackError, match="script ended with code 1") as caught:
        await process.ready(never, idle_deadline=DEADLINE)
    assert caught.value.message.endswith("99\nno such disk")
    assert len(caught.value.message.splitlines()) == TAIL_LINES + 1


async def test_ready_with_an_idle_process_fails_after_the_idle_deadline(run: Make) -> None:
    process, output = run(WAITS_FOREVER)
    await process.start()
    await output.first()
    with pytest.raises(LocalStackError, match=r"script was not ready after \d s, the last \d of them without work"):
        await process.ready(never, idle_deadline=0.1)
    assert process.running


async def test_ready_with_a_working_process_has_no_deadline(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline.devstack.process.WORKING_CPU_SECONDS", 0.01)
    process, output = run("import time\nwhile time.process_time() < 1.5: pass\nprint('worked')\n" + WAITS_FOREVER)
    await process.start()

    async def worked() -> bool:
        return "worked" in output

    await process.ready(worked, idle_deadline=0.5)


async def test_a_command_that_does_not_exist_is_named() -> None:
    process = ManagedProcess("ghost", ["/nonexistent/program"])
    await process.start()
    with pytest.raises(LocalStackError, match="cannot run /nonexistent/program: No such file"):
        await process.ready(never, idle_deadline=DEADLINE)
    assert process.returncode == 127


async def test_stop_lets_it_end_in_order(run: Make) -> None:
    process, output = run(
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')))\n" + WAITS_FOREVER
    )
    await process.start()
    await output.first()
    assert await process.stop() == 0
    assert output == ["here", "bye"]
    assert await process.stop() == 0


async def test_stop_uses_force_after_the_deadline(run: Make) -> None:
    process, output = run(IGNORES_SIGTERM, stop_deadline=0.1)
    await process.start()
    await output.first()
    assert await process.stop() == -SIGKILL


async def test_it_can_be_started_again_but_not_twice(run: Make) -> None:
    process, output = run(WAITS_FOREVER)
    await process.start()
    await output.first()
    with pytest.raises(LocalStackError, match="runs already"):
        await process.start()
    first = process.pid
    await process.kill()
    assert process.pid is None
    await process.start()
    assert process.pid not in (None, first)


@linux_only
@pytest.mark.parametrize("ending", ["", "import os\nos.kill(os.getpid(), 9)\n"])
async def test_what_it_leaves_behind_is_killed(run: Make, ending: str) -> None:
    process, output = run(HAS_A_CHILD + ending)
    await process.start()
    await process.wait(deadline=DEADLINE)
    assert gone(int(output[0]))


PARENT = """
import asyncio, sys
from bucketline.devstack.exec_with_parent import ENOUGH_FILES
from bucketline.devstack.process import ManagedProcess

async def main():
    child = ManagedProcess("child", ["sleep", "600"], mechanism=sys.argv[1], on_line=print)
    await child.start()
    while open(f"/proc/{child.pid}/comm").read() != "sleep\\n":
        await asyncio.sleep(0.01)
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@linux_only
@pytest.mark.parametrize("mechanism", ["kernel", "watch"])
def test_no_child_is_left_when_the_parent_is_killed(mechanism: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, mechanism], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert select.select([os.pidfd_open(child)], [], [], 0) == ([], [], [])
        os.kill(parent.pid, SIGKILL)
        parent.wait(timeout=DEADLINE)
    assert gone(child)
