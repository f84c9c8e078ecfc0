"""The servers of the local stack: how each one is started, and when it is ready."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from bucketline.devstack.downloads import Binary, KafkaJars
from bucketline.devstack.process import IDLE_TIMEOUT_SECONDS, ManagedProcess
from bucketline.devstack.reservations import GRPC_PORT_OFFSET, LOOPBACK, reserve_port
from bucketline.errors import LocalStackError

REQUEST_TIMEOUT_SECONDS = 2.0


class Server:
    """A server in one process. It may be started again after it was stopped or killed, on the same port."""

    process: ManagedProcess
    idle_timeout = IDLE_TIMEOUT_SECONDS

    @property
    def pid(self) -> int | None:
        """The process id; None if it does not run."""
        return self.process.pid

    async def start(self) -> None:
        """Start the server and return when it is ready.

        Raises LocalStackError, and leaves nothing running, when it does not become ready.
        """
        await self._prepare()
        await self.process.start()
        try:
            await self.process.wait_ready(self.is_ready, idle_timeout=self.idle_timeout)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Stop the server in order, and by force after a timeout."""
        await self.process.stop()
        self._clean_up()

    async def kill(self) -> None:
        """Kill the server, and return when it is gone."""
        await self.process.kill()
        self._clean_up()

    async def is_ready(self) -> bool:
        """Return whether the server answers requests."""
        raise NotImplementedError

    async def needs_restart(self) -> bool:
        """Return whether the server runs but no longer works, and a restart would help."""
        return False

    async def _prepare(self) -> None:
        """Create what the process needs before it starts."""

    def _clean_up(self) -> None:
        """Remove what the process leaves behind."""


async def accepts_connections(port: int) -> bool:
    """Return whether a server accepts connections on the port."""
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_status(port: int, path: str, *, method: str = "GET") -> int | None:
    """Return the status of a request without a body; None if there is no HTTP answer in time."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(f"http://{LOOPBACK}:{port}", timeout=timeout) as session,
            # With a content type, SeaweedFS would expect a form.
            session.request(method, path, allow_redirects=False, skip_auto_headers=["Content-Type"]) as response,
        ):
            return response.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


class Mongod(Server):
    """MongoDB as a replica set of one member, so that transactions, change streams and majority writes work.

    Its files are in ``data_dir``, which may come from a run on another port. Acknowledged writes survive SIGKILL.
    """

    REPLICA_SET = "local"
    ALREADY_INITIALIZED = 23
    # The journal would be 300 MB on disk before the first document.
    ENGINE = "log=(prealloc=false,file_max=16MB)"
    # Nothing here reads at a time in the past. With the server's default of five minutes, the files of dropped
    # collections stay open for as long, and the server ends when it reaches its limit of open files.
    NO_HISTORY = "minSnapshotHistoryWindowInSeconds=0"
    DEBIAN_PACKAGES: ClassVar = {"libcurl.so.4": "libcurl4", "liblzma.so.5": "liblzma5", "libresolv.so.2": "libc6"}

    def __init__(
        self, binary: Binary, data_dir: Path, port: int, *, cache_gigabytes: float = 0.5, oplog_megabytes: int = 256
    ) -> None:
        self.port = port
        self._data_dir = data_dir / "db"
        self._configured = False
        self.process = ManagedProcess(
            "mongod",
            [
                str(binary.path),
                *("--dbpath", str(self._data_dir), "--port", str(port), "--bind_ip", LOOPBACK),
                *("--replSet", self.REPLICA_SET, "--oplogSize", str(oplog_megabytes)),
                *("--wiredTigerCacheSizeGB", str(cache_gigabytes), "--wiredTigerEngineConfigString", self.ENGINE),
                *("--nounixsocket", "--quiet", "--setParameter", "diagnosticDataCollectionEnabled=false"),
                *("--setParameter", self.NO_HISTORY),
            ],
            environment=binary.environment,
            log_file=data_dir / "mongod.log",
        )

    @property
    def url(self) -> str:
        """The connection string."""
        return f"mongodb://{LOOPBACK}:{self.port}/?replicaSet={self.REPLICA_SET}&directConnection=true"

    async def start(self) -> None:
        """Start the server and return when it is the primary of its replica set."""
        try:
            await super().start()
        except LocalStackError as error:
            raise LocalStackError(self._explain(error.message)) from error

    async def is_ready(self) -> bool:
        """Configure the replica set if necessary, and return whether the member is primary."""
        # The driver would wait half a second between its attempts to connect.
        if not await accepts_connections(self.port):
            return False
        timeout_ms = int(REQUEST_TIMEOUT_SECONDS * 1000)
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            LOOPBACK,
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
        )
        try:
            async with client:
                if not self._configured:
                    await self._configure(client)
                    self._configured = True
                return bool((await client.admin.command("hello")).get("isWritablePrimary"))
        except PyMongoError:
            return False

    async def _prepare(self) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._configured = False

    async def _configure(self, client: AsyncMongoClient[dict[str, Any]]) -> None:
        host = f"{LOOPBACK}:{self.port}"
        member = {"_id": 0, "host": host}
        try:
            await client.admin.command("replSetInitiate", {"_id": self.REPLICA_SET, "members": [member]})
        except OperationFailure as error:
            if error.code != self.ALREADY_INITIALIZED:
                raise
            config = (await client.admin.command("replSetGetConfig"))["config"]
            if [existing["host"] for existing in config["members"]] != [host]:
                # The files come from another port: the member does not find itself in its own replica set.
                config |= {"members": [member], "version": config["version"] + 1}
                await client.admin.command("replSetReconfig", config, force=True)

    def _explain(self, message: str) -> str:
        missing = re.search(r"error while loading shared libraries: (\S+):", message)
        if missing is None:
            return message
        library = missing[1]
        package = self.DEBIAN_PACKAGES.get(library, library)
        return (
            f"MongoDB needs the system library {library} (Debian and Ubuntu: apt-get install {package}); install it, "
            "or set BUCKETLINE_MONGODB_URL to the address of a MongoDB that you run."
        )


class KafkaServer(Server):
    """A broker that speaks Kafka's protocol on ``port``."""

    port: int

    @property
    def bootstrap(self) -> str:
        """The address of the broker, ``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    async def is_ready(self) -> bool:
        """Return whether the broker answers a request for its metadata."""
        if not await accepts_connections(self.port):
            return False  # the client logs an error for each connection that is refused
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=3_000)
        try:
            await admin.start()
            await admin.describe_cluster()
        except KafkaError:
            return False
        finally:
            await admin.close()
        return True


class Tansu(KafkaServer):
    """The Tansu broker, in memory: a restart loses every topic, record and offset. It has no idempotent producer."""

    def __init__(self, binary: Binary, data_dir: Path, port: int) -> None:
        self.port = port
        address = f"tcp://{LOOPBACK}:{port}"
        self.process = ManagedProcess(
            "tansu",
            [
                *(str(binary.path), "broker", "--cluster-id", "bucketline_local"),
                *("--listener-url", address, "--advertised-listener-url", address),
                *("--storage-engine", "memory://tansu/"),
            ],
            environment={"RUST_LOG": "warn"},
            log_file=data_dir / "tansu.log",
            stop_timeout=3.0,
        )


class Kafka(KafkaServer):
    """Apache Kafka, one node in KRaft mode, with its log in ``data_dir``, which may come from a run on other ports.

    Acknowledged records survive SIGKILL. Topics are not created by using them. The JVM is set to start fast, so do
    not measure throughput with it.
    """

    JVM_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    # A fixed id: the data folder belongs to this cluster, and there is only one.
    CLUSTER_ID = "YnVja2V0bGluZS1sb2NhbA"
    FORMAT_TIMEOUT_SECONDS = 60.0

    def __init__(self, jars: KafkaJars, data_dir: Path, port: int, controller_port: int) -> None:
        self.port = port
        self._controller_port = controller_port
        self._data_dir = data_dir
        self._properties = data_dir / "server.properties"
        self._java = [
            *(str(jars.java), *self.JVM_OPTIONS, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
            *("-cp", f"{jars.folder}/*"),
        ]
        self.process = self._create_process("kafka", "kafka.Kafka", str(self._properties))

    def _create_process(self, name: str, *arguments: str) -> ManagedProcess:
        return ManagedProcess(
            name,
            [*self._java, *arguments],
            environment={"HOME": str(self._data_dir)},
            folder=self._data_dir,
            log_file=self._data_dir / f"{name}.log",
        )

    async def _prepare(self) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(self._build_properties())
        if (self._data_dir / "log" / "meta.properties").exists():
            return
        arguments = ("format", "--ignore-formatted", "--cluster-id", self.CLUSTER_ID, "--config", str(self._properties))
        storage_tool = self._create_process("kafka-storage", "kafka.tools.StorageTool", *arguments)
        await storage_tool.start()
        try:
            code = await storage_tool.wait(timeout=self.FORMAT_TIMEOUT_SECONDS)
        finally:
            await storage_tool.kill()
        if code != 0:
            raise LocalStackError(f"Kafka cannot format {self._data_dir}{storage_tool.describe_output()}")

    def _build_properties(self) -> str:
        broker, controller = self.bootstrap, f"{LOOPBACK}:{self._controller_port}"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._data_dir / "log"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # No other member is about to join a group of tests.
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker comes back only after its session has expired: shorter than the default of nine seconds,
            # but not so short that a busy machine fences a healthy broker.
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "1000",
            # The default of 128 MB is a quarter of this heap.
            "log.cleaner.dedupe.buffer.size": "8388608",
        }
        return "".join(f"{name}={value}\n" for name, value in properties.items())


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """The URL of an S3 API and a key for it."""

    endpoint: str
    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True)
class SeaweedFSPorts:
    """HTTP ports. Master, volume and filer use the ports 10,000 above for gRPC, S3 uses ``s3_grpc``."""

    master: int
    volume: int
    filer: int
    s3: int
    s3_grpc: int


class SeaweedFS(Server):
    """S3 with signatures, SHA-256 checksums and conditional writes in one process, with its files in ``data_dir``.

    The keys are created on the first start and kept beside the data. ``bucket`` exists and accepts writes when
    ``start`` returns. Only S3 asks for credentials: the other ports are open to every user of this machine.
    """

    MIN_FREE_BYTES = 64 * 1024 * 1024
    """With less free disk space SeaweedFS cannot write, and a restart would not help."""
    FILER_SHARDS = 8
    """LevelDB databases of the filer, chosen by the last byte of the MD5 of an entry's folder."""

    def __init__(self, binary: Binary, data_dir: Path, ports: SeaweedFSPorts, *, bucket: str) -> None:
        self.ports = ports
        self._bucket = bucket
        self._data_dir = data_dir
        self._config = data_dir / "s3.json"
        access_key, secret_key = self._read_keys() or (secrets.token_hex(10), secrets.token_hex(20))
        self.s3 = S3Endpoint(f"http://{LOOPBACK}:{ports.s3}", access_key, secret_key)
        grpc = GRPC_PORT_OFFSET
        self.process = ManagedProcess(
            "weed",
            [
                *(str(binary.path), "-logtostderr=true", "server", f"-dir={data_dir / 'files'}"),
                *(f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-master.telemetry=false"),
                *(f"-master.port={ports.master}", f"-master.port.grpc={ports.master + grpc}"),
                *(f"-volume.port={ports.volume}", f"-volume.port.grpc={ports.volume + grpc}"),
                *("-filer", f"-filer.port={ports.filer}", f"-filer.port.grpc={ports.filer + grpc}"),
                *("-s3", f"-s3.port={ports.s3}", f"-s3.port.grpc={ports.s3_grpc}"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self._config}"),
                *("-volume.preStopSeconds=0", "-volume.max=4096", "-master.resumeState=false"),
                # A single master need not elect itself: without this the start takes 3 to 7 s instead of 2.
                *("-master.peers=none", "-master.volumeSizeLimitMB=1024", "-master.volumePreallocate=false"),
            ],
            # Each bucket has volumes of its own, seven by default: too many files where each test has a bucket.
            environment={"HOME": str(data_dir), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"},
            folder=data_dir,
            log_file=data_dir / "weed.log",
            # Its own way to stop waits 15 s for a stream between two of its parts. Acknowledged writes are in the
            # kernel's page cache, so killing the process loses nothing.
            stop_timeout=0.5,
        )

    async def is_ready(self) -> bool:
        """Create the bucket, and return whether it accepts writes."""
        if await http_status(self.ports.s3, "/healthz") != 200:
            return False
        if await http_status(self.ports.filer, f"/buckets/{self._bucket}/", method="POST") not in (201, 409):
            return False
        # Creates the bucket's first volumes now rather than with the first write.
        if await http_status(self.ports.master, f"/dir/assign?collection={self._bucket}") != 200:
            return False
        return await self._can_write()

    async def needs_restart(self) -> bool:
        """Return whether writes fail although the disk has free space.

        After a full disk a shard of the filer keeps answering "no space left on device" as long as it runs.
        """
        try:
            has_space = shutil.disk_usage(self._data_dir).free >= self.MIN_FREE_BYTES
        except OSError:
            return False
        return has_space and not await self._can_write()

    async def _can_write(self) -> bool:
        """Write an empty entry into every shard of the filer, outside of the buckets."""
        requests = (http_status(self.ports.filer, path, method="PUT") for path in build_shard_paths())
        return all(status == 201 for status in await asyncio.gather(*requests))

    async def _prepare(self) -> None:
        (self._data_dir / "files").mkdir(parents=True, exist_ok=True)
        remove_stale_sockets()
        key = {"accessKey": self.s3.access_key, "secretKey": self.s3.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = {"identities": [{"name": "local", "credentials": [key], "actions": actions}]}
        descriptor = os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(config, file)

    def _read_keys(self) -> tuple[str, str] | None:
        try:
            credentials = json.loads(self._config.read_text())["identities"][0]["credentials"][0]
            return str(credentials["accessKey"]), str(credentials["secretKey"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _clean_up(self) -> None:
        ports = self.ports
        internal = {"master": ports.master, "volume": ports.volume, "filer": ports.filer}
        names = [f"{part}-grpc-{port + GRPC_PORT_OFFSET}" for part, port in internal.items()]
        names += [f"s3-grpc-{ports.s3_grpc}", f"filer-{ports.filer}", f"s3-{ports.s3}"]
        for name in names:
            with contextlib.suppress(OSError):
                (SEAWEEDFS_SOCKETS / f"seaweedfs-{name}.sock").unlink()


SEAWEEDFS_SOCKETS = Path("/tmp")  # noqa: S108 - the server ignores TMPDIR


def remove_stale_sockets() -> None:
    """Remove the Unix sockets of SeaweedFS servers that were killed together with the stack that ran them.

    A port that can be reserved belongs to no running stack, and no server listens on it.
    """
    for path in SEAWEEDFS_SOCKETS.glob("seaweedfs-*.sock"):
        port = path.stem.rpartition("-")[2]
        if port.isdecimal() and 0 < int(port) < 65536:
            with contextlib.suppress(LocalStackError, OSError), reserve_port(int(port)):
                path.unlink()


def build_shard_paths() -> list[str]:
    """Return one path per shard of the filer, in the order of the shards."""
    paths: dict[int, str] = {}
    for number in itertools.count():
        folder = f"/bucketline-probe/{number}"
        shard = hashlib.md5(folder.encode(), usedforsecurity=False).digest()[-1] % SeaweedFS.FILER_SHARDS
        paths.setdefault(shard, f"{folder}/written")
        if len(paths) == SeaweedFS.FILER_SHARDS:
            break
    return [paths[shard] for shard in range(SeaweedFS.FILER_SHARDS)]
