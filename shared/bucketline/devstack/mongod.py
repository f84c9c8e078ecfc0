"""MongoDB as a replica set of one, so that transactions, change streams and majority writes work."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from bucketline.devstack.binaries import Binary
from bucketline.devstack.ports import LOOPBACK
from bucketline.devstack.process import ManagedProcess
from bucketline.errors import LocalStackError

REPLICA_SET = "local"
ALREADY_INITIALIZED = 23
ANSWER_MS = 2_000
STOP_DEADLINE = 10.0

# Its journal is 300 MB on disk otherwise, before the first document.
ENGINE = "log=(prealloc=false,file_max=16MB)"

# Nobody here reads at a time in the past. With the server's default of five minutes, the files of dropped collections
# stay open for as long, and it ends when it may open no more.
NO_HISTORY = "minSnapshotHistoryWindowInSeconds=0"

DEBIAN_PACKAGES = {"libcurl.so.4": "libcurl4", "liblzma.so.5": "liblzma5", "libresolv.so.2": "libc6"}


class Mongod:
    """mongod on ``port`` with its files in ``data_dir``, which may come from a run on another port.

    Journal and majority writes are as in production: what was acknowledged survives SIGKILL.
    """

    def __init__(
        self, binary: Binary, data_dir: Path, port: int, *, cache_gigabytes: float = 0.5, oplog_megabytes: int = 256
    ) -> None:
        self.port = port
        self._data_dir = data_dir / "db"
        self.process = ManagedProcess(
            "mongod",
            [
                str(binary.path),
                *("--dbpath", str(self._data_dir), "--port", str(port), "--bind_ip", LOOPBACK),
                *("--replSet", REPLICA_SET, "--oplogSize", str(oplog_megabytes)),
                *("--wiredTigerCacheSizeGB", str(cache_gigabytes), "--wiredTigerEngineConfigString", ENGINE),
                *("--nounixsocket", "--quiet", "--setParameter", "diagnosticDataCollectionEnabled=false"),
                *("--setParameter", NO_HISTORY),
            ],
            environment=binary.environment,
            log_file=data_dir / "mongod.log",
            stop_deadline=STOP_DEADLINE,
        )

    @property
    def url(self) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}/?replicaSet={REPLICA_SET}&directConnection=true"

    @property
    def pid(self) -> int | None:
        return self.process.pid

    async def start(self) -> None:
        """Returns when it is primary."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        await self.process.start()
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            LOOPBACK,
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=ANSWER_MS,
            connectTimeoutMS=ANSWER_MS,
            socketTimeoutMS=ANSWER_MS,
        )
        replica_set = _ReplicaSet(client, f"{LOOPBACK}:{self.port}")
        try:
            await self.process.ready(replica_set.is_primary)
        except LocalStackError as error:
            await self.process.kill()
            raise LocalStackError(_explained(error.message)) from error
        except BaseException:
            await self.process.kill()
            raise
        finally:
            await client.close()

    async def stop(self) -> None:
        await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()


class _ReplicaSet:
    """Brings the one member to primary, one step a question."""

    def __init__(self, client: AsyncMongoClient[dict[str, Any]], host: str) -> None:
        self._admin = client.admin
        self._host = host
        self._reachable = False
        self._configured = False

    async def is_primary(self) -> bool:
        if not self._reachable:
            # The driver waits half a second between its looks at a server that was not there; a connect costs nothing.
            with contextlib.suppress(OSError):
                host, _, port = self._host.partition(":")
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                self._reachable = True
            if not self._reachable:
                return False
        try:
            if not self._configured:
                await self._configure()
                self._configured = True
            hello = await self._admin.command("hello")
        except PyMongoError:
            return False
        return bool(hello.get("isWritablePrimary"))

    async def _configure(self) -> None:
        member = {"_id": 0, "host": self._host}
        try:
            await self._admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
        except OperationFailure as error:
            if error.code != ALREADY_INITIALIZED:
                raise
            config = (await self._admin.command("replSetGetConfig"))["config"]
            if [known["host"] for known in config["members"]] != [self._host]:
                # The files were made on another port: the member does not find itself in its own set.
                config["members"] = [member]
                config["version"] += 1
                await self._admin.command("replSetReconfig", config, force=True)


def _explained(message: str) -> str:
    missing = re.search(r"error while loading shared libraries: (\S+):", message)
    if missing is None:
        return message
    library = missing[1]
    package = DEBIAN_PACKAGES.get(library, library)
    return (
        f"MongoDB needs the system library {library} (Debian and Ubuntu: apt-get install {package}); install it, "
        "or set BUCKETLINE_MONGODB_URL to the address of a MongoDB that you run."
    )
