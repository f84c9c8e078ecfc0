"""Execute a command that cannot outlive its parent. Run as a script, so it imports nothing of ours. Linux only.

    python -I -S exec_with_parent.py PARENT_PID COMMAND [ARGUMENT...]

The kernel sends SIGKILL when the parent is gone, even if the parent was killed with SIGKILL. It takes the *thread* that
forked for the parent, so that thread must live as long as the child should.

The command's limit of open files is raised: the usual soft limit of 1,024 is not enough for a database server.
Exits with 127 when the command cannot be executed and with 75 when the parent died before that.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
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


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, to at most ``MAX_OPEN_FILES``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def main(parent: int, command: list[str]) -> None:
    """Execute the command. Does not return."""
    die_with_parent(parent)
    raise_open_file_limit()
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(EXIT_NOT_EXECUTED)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
