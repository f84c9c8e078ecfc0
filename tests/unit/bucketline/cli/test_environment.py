"""The env file of a local stack: safe to keep, readable by shells and commands, and gone with the stack."""

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bucketline.cli import environment
from bucketline.cli.main import app
from bucketline.devstack.reservations import LOCK_FILE, hold_lock

VARIABLES = {
    "BUCKETLINE_MONGODB_URL": "mongodb://127.0.0.1:20196/?replicaSet=local&directConnection=true",
    "BUCKETLINE_API_KEY": "sk_local_1",
    "BUCKETLINE_PLAIN": "8080",
    "BUCKETLINE_EMPTY": "",
    "BUCKETLINE_QUOTES": 'it\'s "so" `x` $HOME \\ # no comment = yes',
    "BUCKETLINE_LINES": "one\ntwo\tthree",
    "BUCKETLINE_WIDE": "Grüße, 東京 🙂",
}


@contextlib.contextmanager
def running(data: Path, port: int, variables: dict[str, str] | None = None) -> Iterator[Path]:
    """A run that holds the lock of its data folder and has written its env file."""
    folder = data / str(port)
    with (
        hold_lock(folder / LOCK_FILE, timeout=0),
        environment.write_env_file(folder, VARIABLES if variables is None else variables) as path,
    ):
        yield path


def test_env_file_is_readable_by_its_user_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with running(tmp_path / "my data", 8080) as path:
            assert path == tmp_path / "my data" / "8080" / "env"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert environment.read_env_file(path) == VARIABLES
            program = '. "$1" && env -0'
            shell = subprocess.run(["sh", "-c", program, "sh", path], env={}, capture_output=True, check=True)
            seen = dict(entry.split("=", 1) for entry in shell.stdout.decode().split("\0") if entry)
            assert {name: value for name, value in seen.items() if name in VARIABLES} == VARIABLES
    finally:
        os.umask(old)


def test_env_file_is_removed_when_the_run_ends_and_that_of_another_run_is_found(tmp_path: Path) -> None:
    assert environment.find_env_file(tmp_path) is None
    with running(tmp_path, 8080) as first:
        with running(tmp_path, 9090) as second:
            assert environment.find_env_file(tmp_path) == second, "the run that was started last"
        assert not second.exists()
        assert environment.find_env_file(tmp_path) == first
        assert environment.find_env_file(tmp_path / "8080") == first
    assert environment.find_env_file(tmp_path) is None
    assert sorted(path.name for path in tmp_path.rglob("*env*")) == []


def test_env_file_that_a_killed_run_left_behind_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, 8080) as path:
        text = path.read_text()
    path.write_text(text)
    assert environment.find_env_file(tmp_path) is None
    monkeypatch.setenv(environment.DATA_VARIABLE, str(tmp_path))
    assert environment.use_running_stack() is None
    with running(tmp_path, 8080) as again:
        assert environment.find_env_file(tmp_path) == again


def test_use_running_stack_sets_only_what_neither_the_environment_nor_dotenv_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("# mine\nexport BUCKETLINE_B = 'mine'\nbucketline_c=mine\n#BUCKETLINE_D=x\n")
    names = ["BUCKETLINE_A", "BUCKETLINE_B", "BUCKETLINE_C", "BUCKETLINE_D", "BUCKETLINE_E"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BUCKETLINE_A", "mine")
    with running(Path(".bucketline"), 8080, dict.fromkeys(names, "theirs")):
        found = environment.use_running_stack()
    try:
        assert found == (tmp_path / ".bucketline" / "8080", names[:3])
        assert [os.environ.get(name) for name in names] == ["mine", None, None, "theirs", "theirs"]
    finally:
        for name in names:
            os.environ.pop(name, None)


def test_env_command_prints_the_file_of_the_running_stack_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(Path(".bucketline"), 8080) as path:
        shown = CliRunner().invoke(app, ["env"])
        assert (shown.exit_code, shown.stdout) == (0, path.read_text())
    gone = CliRunner().invoke(app, ["env"])
    assert gone.exit_code == 1
    assert "no local stack is running with its data in .bucketline" in gone.stderr
    assert "bucketline up" in gone.stderr
