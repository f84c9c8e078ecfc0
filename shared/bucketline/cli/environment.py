"""The env file of a running local stack: ``bucketline up`` writes it, the other commands read it.

It is in the data folder of the run, ``.bucketline/8080/env``; ``.bucketline/env`` links to that of the last run that
was started. It holds keys, so only its user may read it, and it is removed when ``up`` stops. A file that a killed
``up`` left behind is ignored: the lock of its data folder is free.
"""

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bucketline.devstack.reservations import LOCK_FILE, try_lock

DATA_VARIABLE = "BUCKETLINE_DATA"
DEFAULT_DATA = Path(".bucketline")
NAME = "env"
MARKER = "BUCKETLINE_LOCAL_STACK"
"""Set by an env file to the data folder of its run: shows that the other variables come from there."""

_HEADER = """\
# The running local stack, written by `bucketline up` and removed when it stops. It holds keys.
# Read by the other bucketline commands; for a shell: . {path}
"""


@contextlib.contextmanager
def written(data: Path, folder: Path, variables: Mapping[str, str]) -> Iterator[Path]:
    """Write the env file of the run whose data is in ``folder``, and remove it in the end; yield its path."""
    own, link = folder / NAME, data / NAME
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".env-", delete=False) as file:  # its mode is 0600
        file.write(_HEADER.format(path=shlex.quote(str(own))) + exports)
    Path(file.name).replace(own)
    _link(link, folder)
    try:
        yield own
    finally:
        own.unlink(missing_ok=True)
        if link.is_symlink() and not link.exists():
            other = next((run for run in sorted(data.iterdir()) if run != folder and _is_running(run)), None)
            if other is None:
                link.unlink(missing_ok=True)
            else:
                _link(link, other)


def find(data: Path | None = None) -> Path | None:
    """Return the env file of the running stack in ``data``; None when none runs there."""
    link = (data or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA)) / NAME
    try:
        own = link.resolve(strict=True)
    except OSError:
        return None
    return own if _is_running(own.parent) else None


def read(path: Path) -> dict[str, str]:
    """Return the variables of an env file."""
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


def use_running_stack() -> tuple[Path, list[str]] | None:
    """Set the variables of the running stack that neither the environment nor ``.env`` sets.

    Return the stack's data folder and the names that were set before; None when no stack runs or all were.
    """
    path = find()
    if path is None:
        return None
    try:
        variables = read(path)
    except FileNotFoundError:  # it stops right now
        return None
    given = variables.keys() & (os.environ.keys() | _dotenv_names())
    if given == variables.keys():
        return None
    os.environ.update({name: value for name, value in variables.items() if name not in given})
    return path.parent, sorted(given)


def _dotenv_names() -> set[str]:
    try:
        text = Path(".env").read_text(errors="replace")
    except OSError:
        return set()
    return {name.upper() for name in re.findall(r"(?m)^\s*(?:export\s+)?(\w+)\s*=", text)}


def _link(link: Path, folder: Path) -> None:
    fresh = link.with_name(f".{NAME}-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path(os.path.relpath(folder, link.parent)) / NAME)
    fresh.replace(link)


def _is_running(folder: Path) -> bool:
    """Return whether a stack uses the data folder, and its env file is there."""
    if not (folder / NAME).is_file():
        return False
    try:
        with (folder / LOCK_FILE).open("a") as lock:
            return not try_lock(lock.fileno())
    except OSError:
        return False
