import sys
from pathlib import Path

import pytest

from bucketline.devstack import binaries
from bucketline.devstack.binaries import Binary, Part, obtain
from bucketline.devstack.downloads import Machine
from bucketline.errors import LocalStackError

NO_WHEELS = Machine("plan9", "mips", "")


@pytest.mark.parametrize("part", [binaries.MONGODB, binaries.TANSU, binaries.S3])
def test_a_machine_without_builds_is_told_what_to_set(
    part: Part, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalStackError) as caught:
        obtain(part, tmp_path, machine=NO_WHEELS)
    assert part.title in caught.value.message
    assert part.setting in caught.value.message
    assert "plan9 mips" in caught.value.message


def test_each_part_names_its_own_setting() -> None:
    assert [part.setting for part in (binaries.MONGODB, binaries.TANSU, binaries.S3)] == [
        "BUCKETLINE_MONGODB_URL",
        "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS",
        "BUCKETLINE_S3_ENDPOINT_URL",
    ]


def install(folder: Path, code: int) -> Path:
    program = folder / "mongod"
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.exit({code} if sys.argv[1:] == ['--version'] else 9)\n"
    )
    program.chmod(0o755)
    return program


def test_a_server_on_path_stands_in_and_that_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = install(tmp_path, 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    told: list[str] = []
    assert obtain(binaries.MONGODB, tmp_path, told.append, NO_WHEELS) == Binary(program)
    assert str(program) in told[0]


def test_a_server_on_path_that_does_not_start_is_no_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(tmp_path, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalStackError, match="BUCKETLINE_MONGODB_URL"):
        obtain(binaries.MONGODB, tmp_path, machine=NO_WHEELS)


def test_only_a_binary_that_brings_libraries_gets_a_library_path() -> None:
    assert Binary(Path("/a/weed")).environment == {}
    assert Binary(Path("/a/mongod"), (Path("/b"), Path("/c"))).environment == {"LD_LIBRARY_PATH": "/b:/c"}
