"""Where fetched servers are kept, and the lock that lets only one process fetch at a time."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bucketline.errors import LocalStackError

ProgressCallback = Callable[[str], None]
"""Told one short line for each step that may take long. Called from a worker thread."""

LOCK = "lock"
"""The file in a data folder that the stack which uses the folder holds a lock on."""
LOCK_DEADLINE = 900.0
POLL = 0.2


def silent(_line: str) -> None:
    """The progress callback of callers that show none."""


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/bucketline``, or ``~/.cache/bucketline``. It may be deleted at any time the stack is down."""
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "bucketline"


@contextmanager
def exclusive(lock_file: Path, *, deadline: float = LOCK_DEADLINE) -> Iterator[None]:
    """Holds ``lock_file`` against other processes and threads; the kernel frees it when the holder dies.

    Blocks for up to ``deadline`` seconds, so run it in a thread. Raises LocalStackError after that.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a") as handle:
        give_up = time.monotonic() + deadline
        while not try_lock(handle.fileno()):
            if time.monotonic() >= give_up:
                raise LocalStackError(f"another process has held {lock_file} for {deadline:.0f} s")
            time.sleep(POLL)
        yield


def try_lock(descriptor: int) -> bool:
    """Takes the lock of an open file if nobody has it; it is kept until the file is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
