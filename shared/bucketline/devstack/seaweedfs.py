"""SeaweedFS: S3 with signatures, SHA-256 checksums and conditional writes, in one process."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from bucketline.devstack import readiness
from bucketline.devstack.binaries import Binary
from bucketline.devstack.ports import LOOPBACK, TWIN, claim
from bucketline.devstack.process import ManagedProcess
from bucketline.errors import LocalStackError

VOLUME_MEGABYTES = 1024
VOLUMES = 4096
VOLUMES_AT_ONCE = 2

# Its own way to stop waits 15 s for a stream between two of its parts. Every write is in the kernel's hands when it
# is answered, so ending the process loses nothing; a crash of the machine might.
STOP_DEADLINE = 0.5

FILER_SHARDS = 8
"""LevelDB databases of the filer. The last byte of the MD5 of a folder's path chooses the one of its entries."""
MIN_FREE_BYTES = 64 * 1024 * 1024
"""With less room on its disk SeaweedFS cannot write, and a restart would not help."""

SOCKETS = Path("/tmp")  # noqa: S108 - the server's own choice, whatever TMPDIR says


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """The one identity of the server; it may do everything."""

    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True)
class SeaweedFSPorts:
    """HTTP ports; master, volume and filer use the port 10,000 above for gRPC, S3 uses ``s3_grpc``."""

    master: int
    volume: int
    filer: int
    s3: int
    s3_grpc: int


def remove_dead_sockets() -> None:
    """Removes what servers left that were killed together with whoever would have cleaned up after them.

    A port that can be claimed is no living stack's, and no server listens on it.
    """
    for path in SOCKETS.glob("seaweedfs-*.sock"):
        port = path.stem.rpartition("-")[2]
        if port.isdecimal() and 0 < int(port) < 65536:
            with contextlib.suppress(LocalStackError, OSError):
                lease = claim(int(port))
                try:
                    path.unlink()
                finally:
                    lease.release()


def shard_paths() -> list[str]:
    """Return one path for each shard of the filer, in the order of the shards."""
    paths: dict[int, str] = {}
    for number in itertools.count():
        folder = f"/bucketline-probe/{number}"
        shard = hashlib.md5(folder.encode(), usedforsecurity=False).digest()[-1] % FILER_SHARDS
        paths.setdefault(shard, f"{folder}/written")
        if len(paths) == FILER_SHARDS:
            break
    return [paths[shard] for shard in range(FILER_SHARDS)]


class SeaweedFS:
    """SeaweedFS with its files in ``data_dir``, which may come from a run on other ports.

    Keys are made on the first start and kept beside the data. ``bucket`` exists and takes writes when ``start``
    returns. Only S3 asks for credentials: the other ports are open to every user of this machine.
    """

    def __init__(self, binary: Binary, data_dir: Path, ports: SeaweedFSPorts, *, bucket: str) -> None:
        self.ports = ports
        self._bucket = bucket
        self._data_dir = data_dir
        self._config = data_dir / "s3.json"
        self.credentials = self._read_credentials() or S3Credentials(secrets.token_hex(10), secrets.token_hex(20))
        self.process = ManagedProcess(
            "weed",
            [
                *(str(binary.path), "-logtostderr=true", "server", f"-dir={data_dir / 'files'}"),
                *(f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-master.telemetry=false"),
                *(f"-master.port={ports.master}", f"-master.port.grpc={ports.master + TWIN}"),
                *(f"-volume.port={ports.volume}", f"-volume.port.grpc={ports.volume + TWIN}"),
                *("-filer", f"-filer.port={ports.filer}", f"-filer.port.grpc={ports.filer + TWIN}"),
                *("-s3", f"-s3.port={ports.s3}", f"-s3.port.grpc={ports.s3_grpc}"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self._config}"),
                *("-volume.preStopSeconds=0", f"-volume.max={VOLUMES}", "-master.resumeState=false"),
                # Alone, it need not elect itself: without this the start takes 3 to 7 s instead of 2.
                *("-master.peers=none", f"-master.volumeSizeLimitMB={VOLUME_MEGABYTES}"),
                "-master.volumePreallocate=false",
            ],
            # Each bucket has volumes of its own, seven by default: too many files where each test has a bucket.
            environment={"HOME": str(data_dir), "WEED_MASTER_VOLUME_GROWTH_COPY_1": str(VOLUMES_AT_ONCE)},
            folder=data_dir,
            log_file=data_dir / "weed.log",
            stop_deadline=STOP_DEADLINE,
        )

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.s3}"

    @property
    def pid(self) -> int | None:
        return self.process.pid

    async def start(self) -> None:
        (self._data_dir / "files").mkdir(parents=True, exist_ok=True)
        remove_dead_sockets()
        self._write_credentials()
        await self.process.start()
        try:
            await self.process.ready(self._takes_writes)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        await self.process.stop()
        self._remove_sockets()

    async def kill(self) -> None:
        await self.process.kill()
        self._remove_sockets()

    async def needs_restart(self) -> bool:
        """Return whether writes fail although the disk has room.

        After a full disk a shard of the filer keeps answering "no space left on device" for as long as it runs.
        """
        try:
            has_room = shutil.disk_usage(self._data_dir).free >= MIN_FREE_BYTES
        except OSError:
            return False
        return has_room and not await self._writes_every_shard()

    async def _writes_every_shard(self) -> bool:
        """Write an entry without content in every database of the filer, outside of the buckets."""
        put = (readiness.http_status(self.ports.filer, path, method="PUT") for path in shard_paths())
        return all(status == 201 for status in await asyncio.gather(*put))

    async def _takes_writes(self) -> bool:
        if await readiness.http_status(self.ports.s3, "/healthz") != 200:
            return False
        made = await readiness.http_status(self.ports.filer, f"/buckets/{self._bucket}/", method="POST")
        if made not in (201, 409):
            return False
        # Asks for room in the bucket: makes its first volumes now rather than under the first write.
        if await readiness.http_status(self.ports.master, f"/dir/assign?collection={self._bucket}") != 200:
            return False
        return await self._writes_every_shard()

    def _read_credentials(self) -> S3Credentials | None:
        try:
            identity = json.loads(self._config.read_text())["identities"][0]["credentials"][0]
            return S3Credentials(identity["accessKey"], identity["secretKey"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _write_credentials(self) -> None:
        key = {"accessKey": self.credentials.access_key, "secretKey": self.credentials.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = {"identities": [{"name": "local", "credentials": [key], "actions": actions}]}
        descriptor = os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            json.dump(config, handle)

    def _remove_sockets(self) -> None:
        ports = self.ports
        internal = {"master": ports.master, "volume": ports.volume, "filer": ports.filer}
        names = [f"{part}-grpc-{port + TWIN}" for part, port in internal.items()]
        names += [f"s3-grpc-{ports.s3_grpc}", f"filer-{ports.filer}", f"s3-{ports.s3}"]
        for name in names:
            with contextlib.suppress(OSError):
                (SOCKETS / f"seaweedfs-{name}.sock").unlink()
