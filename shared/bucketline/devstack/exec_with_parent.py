"""Becomes a command that cannot outlive its parent. Run as a script, so it imports little and nothing of ours.

    python -I -S leash.py (kernel|watch) PARENT_PID COMMAND [ARGUMENT...]

``kernel`` (Linux): the kernel sends SIGKILL when the parent is gone, even if it got SIGKILL itself. It counts the
*thread* that forked as the parent, so that thread must live as long as the child should.

``watch`` (elsewhere): a small process in the child's group looks for the parent twice a second, and kills the
group when it is gone.

The command may open as many files as this user may: an interactive shell's usual soft limit of 1,024 is less than a
database server needs.

Exits 127 when the command cannot be run and 75 when the parent died before it could.
"""

import ctypes
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
WATCH_INTERVAL = 0.5
EX_TEMPFAIL = 75
EX_NOT_RUN = 127
ENOUGH_FILES = 64_000


def die_with_parent(parent: int) -> None:
    """From here on the kernel kills this process when the thread that forked it ends. Survives exec, not fork."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(EX_TEMPFAIL)


def watch_parent(parent: int) -> None:
    """Leaves a process behind that kills this group once ``parent`` is gone, and ends with this process."""
    me = os.getpid()
    if os.fork() != 0:
        return
    while os.getppid() == me:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        time.sleep(WATCH_INTERVAL)
    os._exit(0)


def open_many_files() -> None:
    """Raises the soft limit to the hard one, or to what is enough for anybody. Never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: list[str]) -> None:
    """Never returns."""
    mechanism, parent, command = arguments[0], int(arguments[1]), arguments[2:]
    if mechanism == "kernel":
        die_with_parent(parent)
    else:
        watch_parent(parent)
    open_many_files()
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(EX_NOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
