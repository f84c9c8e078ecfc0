"""MongoDB, a Kafka broker and S3 on this machine, started together and gone together."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from bucketline.devstack import binaries
from bucketline.devstack.binaries import PARTS, PartName
from bucketline.devstack.cache import LOCK, ProgressCallback, default_cache_dir, exclusive, silent
from bucketline.devstack.kafka import Kafka, KafkaPorts, kafka_jars
from bucketline.devstack.mongod import Mongod
from bucketline.devstack.ports import PortReservation, claim, reserve
from bucketline.devstack.seaweedfs import SeaweedFS, SeaweedFSPorts
from bucketline.devstack.server import Server
from bucketline.devstack.server_monitor import ServerMonitor
from bucketline.devstack.service_specs import WAITING_INTERVAL, Event
from bucketline.devstack.tansu import Tansu
from bucketline.errors import LocalStackError

Broker = Literal["tansu", "kafka"]

BUCKET = "bucketline"
LOCK_ATTEMPTS = 5
LOCK_PAUSE = 0.1
"""Seconds. Other commands hold the lock for a moment to see whether a stack runs."""
SAVED_PORTS = "ports.json"
TANSU_SESSION_MS = 6000
FETCH_WAIT_MS: Mapping[Broker, int] = {"tansu": 20, "kafka": 500}
"""How long a fetch may wait at the broker. Tansu does not wake a waiting one when a record arrives: less would cost an
idle machine more (at 5 ms two thirds of a core, at 20 ms a quarter), more would cost each hop latency."""


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """Where an S3 is, and the key to it."""

    endpoint: str
    access_key: str
    secret_key: str


class LocalStack:
    """The servers that have no address yet, as an async context manager.

    Data and logs are in ``data_dir``, which one stack uses at a time; what MongoDB, S3 and Apache Kafka hold is
    there again at the next start, what Tansu holds is not. ``ports`` fixes the port in a part's address; the others
    keep the ports that they had in ``data_dir`` before, unless those are taken. Downloads go to ``cache_dir``.
    ``progress`` gets each step, also from worker threads, and every few seconds what the start still waits for.

    Inside ``async with`` every server answers and the bucket exists. With ``on_event``, which is called on the event
    loop and must not block, a server that ends or no longer works is restarted, and each such change is sent; without
    it, it stays down. Afterwards no server is left, nor after the death of this process: enter it in a thread that
    lives on, best the main thread. An instance is used once.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ports: Mapping[PartName, int] | None = None,
        broker: Broker = "tansu",
        cache_dir: Path | None = None,
        mongodb_url: str | None = None,
        kafka_bootstrap: str | None = None,
        s3: S3Endpoint | None = None,
        bucket: str = BUCKET,
        mongodb_cache_gigabytes: float = 0.5,
        progress: ProgressCallback = silent,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._fixed_ports = dict(ports or {})
        self._broker: Broker = broker
        self._cache_dir = (cache_dir or default_cache_dir()).absolute()
        given = {"mongodb": mongodb_url, "kafka": kafka_bootstrap, "s3": s3}
        self._own = frozenset(part for part in PARTS if given[part] is None)
        self._mongodb_url = mongodb_url
        self._kafka_bootstrap = kafka_bootstrap
        self._s3 = s3
        self._bucket = bucket
        self._mongodb_cache_gigabytes = mongodb_cache_gigabytes
        self._progress = progress
        self._on_event = on_event
        self._servers: dict[PartName, Server] = {}
        self._watches: dict[PartName, ServerMonitor] = {}
        self._saved_ports: dict[PartName, int] = {}
        self._held = contextlib.ExitStack()

    @property
    def data_dir(self) -> Path:
        """Where its files and logs are: a folder for each part."""
        return self._data_dir

    def runs(self, part: PartName) -> bool:
        """Whether the part is a server of this stack; otherwise its address was given."""
        return part in self._own

    @property
    def mongodb_url(self) -> str:
        if self._mongodb_url is None:
            raise LocalStackError("the stack has not started: MongoDB has no address yet")
        return self._mongodb_url

    @property
    def kafka_bootstrap(self) -> str:
        """``host:port`` of the broker."""
        if self._kafka_bootstrap is None:
            raise LocalStackError("the stack has not started: the Kafka broker has no address yet")
        return self._kafka_bootstrap

    @property
    def s3(self) -> S3Endpoint:
        if self._s3 is None:
            raise LocalStackError("the stack has not started: S3 has no address yet")
        return self._s3

    @property
    def s3_endpoint(self) -> str:
        return self.s3.endpoint

    @property
    def s3_access_key(self) -> str:
        return self.s3.access_key

    @property
    def s3_secret_key(self) -> str:
        return self.s3.secret_key

    def environment(self) -> dict[str, str]:
        """The ``BUCKETLINE_*`` variables of a service that is to use this stack.

        About a broker that was given by address it says where it is, and nothing of what it can do.
        """
        variables = {
            "BUCKETLINE_MONGODB_URL": self.mongodb_url,
            "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap,
            "BUCKETLINE_S3_ENDPOINT_URL": self.s3_endpoint,
            "BUCKETLINE_S3_ACCESS_KEY": self.s3_access_key,
            "BUCKETLINE_S3_SECRET_KEY": self.s3_secret_key,
            "BUCKETLINE_S3_BUCKET": self._bucket,
        }
        if "kafka" in self._servers:
            variables |= {
                "BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE": "true" if self._broker == "kafka" else "false",
                "BUCKETLINE_KAFKA_FETCH_MAX_WAIT_MS": str(FETCH_WAIT_MS[self._broker]),
                "BUCKETLINE_KAFKA_CREATE_TOPICS": "true",
            }
            if self._broker == "tansu":
                # It lets a group wait for half its session timeout before the first member may start.
                variables |= {
                    "BUCKETLINE_KAFKA_SESSION_TIMEOUT_MS": str(TANSU_SESSION_MS),
                    "BUCKETLINE_KAFKA_HEARTBEAT_INTERVAL_MS": str(TANSU_SESSION_MS // 3),
                }
        return variables

    def pids(self) -> dict[PartName, int]:
        """Of the servers that run now."""
        return {name: server.pid for name, server in self._servers.items() if server.pid is not None}

    async def start(self, part: PartName) -> None:
        """Starts a part that was stopped or killed, on its port again; returns when it answers."""
        await self._server(part).start()
        if part in self._watches:
            self._watches[part].begin()

    async def stop(self, part: PartName) -> None:
        """Ends a part in order, until it is started. Its address stays its own."""
        await self._unwatch(part)
        await self._server(part).stop()

    async def kill(self, part: PartName) -> None:
        """SIGKILL for a part; returns when it is gone, until it is started."""
        await self._unwatch(part)
        await self._server(part).kill()

    async def __aenter__(self) -> Self:
        try:
            await self._lock_data_dir()
            self._saved_ports = _read_ports(self._data_dir / SAVED_PORTS)
            starts = {"mongodb": self._start_mongodb, "kafka": self._start_kafka, "s3": self._start_s3}
            # When one part fails the others are cancelled, which ends what they started.
            async with asyncio.TaskGroup() as group:
                starting = {group.create_task(starts[part]()): part for part in PARTS if part in self._own}
                await self._report(starting)
            self._save_ports()
        except BaseException as error:
            await self._close()
            if isinstance(error, BaseExceptionGroup) and (ours := error.subgroup(LocalStackError)) is not None:
                raise LocalStackError("\n".join(str(cause) for cause in ours.exceptions)) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _report(self, starting: Mapping[asyncio.Task[None], PartName]) -> None:
        """Send ``progress`` every few seconds which parts the start waits for, until all are done."""
        began = time.monotonic()
        pending = set(starting)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=WAITING_INTERVAL)
            if pending:
                late = ", ".join(sorted(starting[task] for task in pending))
                self._progress(f"waiting for {late} ({time.monotonic() - began:.0f} s)")

    async def _start_mongodb(self) -> None:
        binary = await asyncio.to_thread(binaries.obtain, binaries.MONGODB, self._cache_dir, self._progress)
        mongod = Mongod(
            binary,
            self._data_dir / "mongodb",
            self._port("mongodb"),
            cache_gigabytes=self._mongodb_cache_gigabytes,
        )
        await self._bring_up("mongodb", mongod)
        self._mongodb_url = mongod.url

    async def _start_kafka(self) -> None:
        server: Tansu | Kafka
        if self._broker == "kafka":
            jars = await asyncio.to_thread(kafka_jars, self._cache_dir, self._progress)
            (controller,) = self._hold(reserve(1))
            server = Kafka(jars, self._data_dir / "kafka", KafkaPorts(self._port("kafka"), controller))
        else:
            binary = await asyncio.to_thread(binaries.obtain, binaries.TANSU, self._cache_dir, self._progress)
            server = Tansu(binary, self._data_dir / "tansu", self._port("kafka"))
        await self._bring_up("kafka", server)
        self._kafka_bootstrap = server.bootstrap

    async def _start_s3(self) -> None:
        binary = await asyncio.to_thread(binaries.obtain, binaries.S3, self._cache_dir, self._progress)
        master, volume, filer = self._hold(reserve(3, twins=True))
        (grpc,) = self._hold(reserve(1))
        ports = SeaweedFSPorts(master=master, volume=volume, filer=filer, s3=self._port("s3"), s3_grpc=grpc)
        weed = SeaweedFS(binary, self._data_dir / "s3", ports, bucket=self._bucket)
        await self._bring_up("s3", weed, weed.needs_restart)
        self._s3 = S3Endpoint(weed.endpoint, weed.credentials.access_key, weed.credentials.secret_key)

    async def _bring_up(
        self, part: PartName, server: Server, needs_restart: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        self._servers[part] = server
        try:
            await server.start()
        except OSError as error:
            raise LocalStackError(f"{part} could not start: {error}") from error
        if self._on_event is not None:
            self._watches[part] = ServerMonitor(part, server, self._on_event, needs_restart=needs_restart)
            self._watches[part].begin()
        self._progress(f"{part} is ready")

    async def _close(self) -> None:
        await asyncio.gather(*(watch.end() for watch in self._watches.values()))
        try:
            running = [server.stop() for server in self._servers.values()]
            outcomes = await asyncio.gather(*running, return_exceptions=True)
        finally:
            self._held.close()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _unwatch(self, part: PartName) -> None:
        if part in self._watches:
            await self._watches[part].end()

    def _server(self, part: PartName) -> Server:
        try:
            return self._servers[part]
        except KeyError:
            raise LocalStackError(
                f"{part} is not run by this stack; it runs {', '.join(p for p in PARTS if p in self._servers)}"
            ) from None

    def _port(self, part: PartName) -> int:
        """Claim the port that was given for the part, or the one that it had before, or a free one."""
        fixed, saved = self._fixed_ports.get(part), self._saved_ports.get(part)
        lease: PortReservation | None = None
        if fixed is not None:
            lease = claim(fixed)
        elif saved is not None:
            try:
                lease = claim(saved)
            except LocalStackError as taken:
                self._progress(f"{part} gets another port than before: {taken}")
        (port,) = self._hold(lease or reserve(1))
        self._saved_ports[part] = port
        return port

    def _save_ports(self) -> None:
        (self._data_dir / SAVED_PORTS).write_text(json.dumps(self._saved_ports))

    def _hold(self, lease: PortReservation) -> tuple[int, ...]:
        self._held.callback(lease.release)
        return lease.ports

    async def _lock_data_dir(self) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        for _ in range(LOCK_ATTEMPTS):
            with contextlib.suppress(LocalStackError):
                self._held.enter_context(exclusive(self._data_dir / LOCK, deadline=0))
                return
            await asyncio.sleep(LOCK_PAUSE)
        raise LocalStackError(f"another local stack is using {self._data_dir}")


def _read_ports(path: Path) -> dict[PartName, int]:
    """Return the saved ports. A file that is missing or damaged holds none: it only saves addresses from changing."""
    try:
        saved = json.loads(path.read_text())
        return {part: int(saved[part]) for part in PARTS if 0 < int(saved.get(part, 0)) < 65536}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
