"""``bucketline env``, and the env file of a running local stack: `up` writes it, the other commands read it.

The file is in the data folder of the run, ``.bucketline/8080/env``. It contains keys, so only its user may read it. It
is removed when ``up`` stops. A file that a killed ``up`` left behind is ignored, because nothing holds the lock of its
data folder.
"""

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

DATA_VARIABLE = "BUCKETLINE_DATA"
DEFAULT_DATA_DIR = Path(".bucketline")
ENV_FILE = "env"
MARKER = "BUCKETLINE_LOCAL_STACK"
"""Set in an env file to the data folder of its run: shows where the other variables come from."""

_HEADER = """\
# The running local stack, written by `bucketline up` and removed when it stops. It contains keys.
# The other bucketline commands read it; for a shell: . {path}
"""


def env(
    data: Annotated[
        Path, typer.Option(envvar=DATA_VARIABLE, help="The data folder of `bucketline up`.")
    ] = DEFAULT_DATA_DIR,
) -> None:
    """Print the variables of the running local stack, for a shell. They contain its keys.

    Example: [cyan]eval "$(bucketline env)"[/]
    """
    from bucketline.cli.terminal import fail

    path = find_env_file(data)
    if path is None:
        fail(f"no local stack is running with its data in {data}", advice="Start one: [cyan]bucketline up[/].")
    typer.echo(path.read_text(), nl=False)


@contextlib.contextmanager
def write_env_file(folder: Path, variables: Mapping[str, str]) -> Iterator[Path]:
    """Write the env file of the run whose data is in ``folder``, and remove it at the end. Yield its path."""
    path = folder / ENV_FILE
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".env-", delete=False) as file:  # its mode is 0600
        file.write(_HEADER.format(path=shlex.quote(str(path))) + exports)
    Path(file.name).replace(path)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def find_env_file(data: Path | None = None) -> Path | None:
    """Return the env file of the stack that was started last of those that run in ``data``; None if none runs."""
    data = data or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA_DIR)
    try:
        running = [path for path in (data / ENV_FILE, *data.glob(f"*/{ENV_FILE}")) if _is_running(path)]
        newest = max(running, key=lambda path: path.stat().st_mtime_ns, default=None)
    except OSError:  # a stack has just stopped
        return None
    return newest and newest.resolve()


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of an env file."""
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


def use_running_stack() -> tuple[Path, list[str]] | None:
    """Set the variables of the running stack that neither the environment nor ``.env`` sets.

    Return the stack's data folder and the names that were set before; None when no stack is running or all were set.
    """
    path = find_env_file()
    if path is None:
        return None
    try:
        variables = read_env_file(path)
    except FileNotFoundError:  # the stack has just stopped
        return None
    kept = variables.keys() & (os.environ.keys() | _read_dotenv_names())
    if kept == variables.keys():
        return None
    os.environ.update({name: value for name, value in variables.items() if name not in kept})
    return path.parent, sorted(kept)


def _read_dotenv_names() -> set[str]:
    try:
        text = Path(".env").read_text(errors="replace")
    except OSError:
        return set()
    return {name.upper() for name in re.findall(r"(?m)^\s*(?:export\s+)?(\w+)\s*=", text)}


def _is_running(env_file: Path) -> bool:
    """Return whether the file exists and a stack holds the lock of its folder."""
    if not env_file.is_file():
        return False
    from bucketline.devstack.reservations import LOCK_FILE, try_lock

    with env_file.with_name(LOCK_FILE).open("a") as lock:
        return not try_lock(lock.fileno())
