"""Execute a command that cannot outlive its parent. Run as a script, so it imports nothing of ours.

    python -I -S exec_with_parent.py (kernel|watch) PARENT_PID COMMAND [ARGUMENT...]

``kernel`` (Linux): the kernel sends SIGKILL when the parent is gone, even if the parent was killed with SIGKILL. The
kernel takes the *thread* that forked for the parent, so that thread must live as long as the child should.

``watch`` (other systems): a small process in the child's group checks twice a second whether the parent still runs, and
kills the group when it does not.

The command's limit of open files is raised: the usual soft limit of 1,024 is not enough for a database server.
Exits with 127 when the command cannot be executed and with 75 when the parent died before that.
"""

import ctypes
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
WATCH_INTERVAL_SECONDS = 0.5
EXIT_PARENT_DIED = 75
EXIT_NOT_EXECUTED = 127
MAX_OPEN_FILES = 64_000


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that forked it ends. Survives exec, not fork."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(EXIT_PARENT_DIED)


def watch_parent(parent: int) -> None:
    """Fork a process that kills this process group when ``parent`` is gone, and that ends with this process."""
    watched = os.getpid()
    if os.fork() != 0:
        return
    while os.getppid() == watched:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        time.sleep(WATCH_INTERVAL_SECONDS)
    os._exit(0)


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, to at most ``MAX_OPEN_FILES``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def main(arguments: list[str]) -> None:
    """Execute the command. Does not return."""
    mechanism, parent, command = arguments[0], int(arguments[1]), arguments[2:]
    if mechanism == "kernel":
        die_with_parent(parent)
    else:
        watch_parent(parent)
    raise_open_file_limit()
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(EXIT_NOT_EXECUTED)


if __name__ == "__main__":
    main(sys.argv[1:])
