"""MongoDB, a Kafka broker and S3 on this machine, started together and stopped together."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Self, TypeVar

from bucketline.devstack import downloads
from bucketline.devstack.downloads import (
    ProgressCallback,
    default_cache_dir,
    fetch_kafka_jars,
    fetch_server,
    ignore_progress,
)
from bucketline.devstack.reservations import LOCK_FILE, PortReservation, hold_lock, reserve_port, reserve_ports
from bucketline.devstack.servers import Kafka, KafkaServer, Mongod, S3Endpoint, SeaweedFS, SeaweedFSPorts, Server, Tansu
from bucketline.devstack.supervisor import WAITING_INTERVAL_SECONDS, Event, Monitor
from bucketline.errors import LocalStackError

PartName = Literal["mongodb", "kafka", "s3"]
PARTS: tuple[PartName, ...] = ("mongodb", "kafka", "s3")
Broker = Literal["tansu", "kafka"]

DEFAULT_BUCKET = "bucketline"
LOCK_ATTEMPTS = 5
LOCK_RETRY_SECONDS = 0.1
"""Other commands hold the lock for a moment to see whether a stack runs."""
SAVED_PORTS = "ports.json"
TANSU_SESSION_TIMEOUT_MS = 6000
FETCH_MAX_WAIT_MS: Mapping[Broker, int] = {"tansu": 20, "kafka": 500}
"""Tansu does not wake a waiting fetch when a record arrives: less would cost an idle machine more (at 5 ms two thirds
of a core, at 20 ms a quarter), more would add latency to each hop."""


class LocalStack:
    """The servers that have no address yet, as an async context manager. An instance is used once.

    Data and logs are in ``data_dir``, which one stack uses at a time. What MongoDB, S3 and Apache Kafka store is there
    again at the next start; what Tansu stores is not. ``ports`` sets the port in a part's address; the other parts keep
    the port that they had in ``data_dir`` unless it is in use. ``progress`` receives each step, also from worker
    threads, and every few seconds the parts that are still starting.

    Inside ``async with`` every server answers and the bucket exists. With ``on_event``, which is called on the event
    loop and must not block, a server that ends or no longer works is restarted and each change is reported; without
    it, the server stays down. No server outlives this process: enter the stack in a thread that lives on, best the
    main thread.
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
        bucket: str = DEFAULT_BUCKET,
        mongodb_cache_gigabytes: float = 0.5,
        progress: ProgressCallback = ignore_progress,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._fixed_ports = dict(ports or {})
        self._broker: Broker = broker
        self._cache_dir = (cache_dir or default_cache_dir()).absolute()
        given = {"mongodb": mongodb_url, "kafka": kafka_bootstrap, "s3": s3}
        self._own_parts = frozenset(part for part in PARTS if given[part] is None)
        self._mongodb_url = mongodb_url
        self._kafka_bootstrap = kafka_bootstrap
        self._s3 = s3
        self._bucket = bucket
        self._mongodb_cache_gigabytes = mongodb_cache_gigabytes
        self._progress = progress
        self._on_event = on_event
        self._servers: dict[PartName, Server] = {}
        self._monitors: dict[PartName, Monitor] = {}
        self._saved_ports: dict[PartName, int] = {}
        self._reservations = contextlib.ExitStack()

    def runs(self, part: PartName) -> bool:
        """Return whether the part is a server of this stack; otherwise its address was given."""
        return part in self._own_parts

    @property
    def mongodb_url(self) -> str:
        """The connection string of MongoDB."""
        return _require(self._mongodb_url, "MongoDB")

    @property
    def kafka_bootstrap(self) -> str:
        """The address of the broker, ``host:port``."""
        return _require(self._kafka_bootstrap, "the Kafka broker")

    @property
    def s3(self) -> S3Endpoint:
        """The URL and the key of S3."""
        return _require(self._s3, "S3")

    def environment(self) -> dict[str, str]:
        """Return the ``BUCKETLINE_*`` variables of a service that uses this stack.

        For a broker whose address was given they contain the address only, not the broker's capabilities.
        """
        variables = {
            "BUCKETLINE_MONGODB_URL": self.mongodb_url,
            "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap,
            "BUCKETLINE_S3_ENDPOINT_URL": self.s3.endpoint,
            "BUCKETLINE_S3_ACCESS_KEY": self.s3.access_key,
            "BUCKETLINE_S3_SECRET_KEY": self.s3.secret_key,
            "BUCKETLINE_S3_BUCKET": self._bucket,
        }
        if self.runs("kafka"):
            variables |= {
                "BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE": "true" if self._broker == "kafka" else "false",
                "BUCKETLINE_KAFKA_FETCH_MAX_WAIT_MS": str(FETCH_MAX_WAIT_MS[self._broker]),
                "BUCKETLINE_KAFKA_CREATE_TOPICS": "true",
            }
            if self._broker == "tansu":
                # Tansu lets a group wait for half its session timeout before the first member may start.
                variables |= {
                    "BUCKETLINE_KAFKA_SESSION_TIMEOUT_MS": str(TANSU_SESSION_TIMEOUT_MS),
                    "BUCKETLINE_KAFKA_HEARTBEAT_INTERVAL_MS": str(TANSU_SESSION_TIMEOUT_MS // 3),
                }
        return variables

    def pids(self) -> dict[PartName, int]:
        """Return the process ids of the servers that run now."""
        return {part: server.pid for part, server in self._servers.items() if server.pid is not None}

    async def start(self, part: PartName) -> None:
        """Start a part that was stopped or killed, on the same port. Return when it answers."""
        await self._server(part).start()
        if part in self._monitors:
            self._monitors[part].begin()

    async def stop(self, part: PartName) -> None:
        """Stop a part until it is started again. Its port stays reserved."""
        await self._end_monitor(part)
        await self._server(part).stop()

    async def kill(self, part: PartName) -> None:
        """Kill a part, which stays down until it is started again."""
        await self._end_monitor(part)
        await self._server(part).kill()

    async def __aenter__(self) -> Self:
        try:
            await self._lock_data_dir()
            self._saved_ports = _read_ports(self.data_dir / SAVED_PORTS)
            starts = {"mongodb": self._start_mongodb, "kafka": self._start_kafka, "s3": self._start_s3}
            # When one part fails, the others are canceled, which kills what they started.
            async with asyncio.TaskGroup() as group:
                tasks = {group.create_task(starts[part]()): part for part in PARTS if self.runs(part)}
                await self._report_waiting(tasks)
            (self.data_dir / SAVED_PORTS).write_text(json.dumps(self._saved_ports))
        except BaseException as error:
            await self._close()
            if isinstance(error, BaseExceptionGroup) and (failed := error.subgroup(LocalStackError)) is not None:
                raise LocalStackError("\n".join(map(str, failed.exceptions))) from error
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._close()

    async def _report_waiting(self, tasks: Mapping[asyncio.Task[None], PartName]) -> None:
        """Report every few seconds which parts are still starting, until all have started."""
        started = time.monotonic()
        pending = set(tasks)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=WAITING_INTERVAL_SECONDS)
            if pending:
                parts = ", ".join(sorted(tasks[task] for task in pending))
                self._progress(f"waiting for {parts} ({time.monotonic() - started:.0f} s)")

    async def _start_mongodb(self) -> None:
        binary = await asyncio.to_thread(fetch_server, downloads.MONGODB, self._cache_dir, self._progress)
        mongod = Mongod(
            binary,
            self.data_dir / "mongodb",
            self._reserve_port("mongodb"),
            cache_gigabytes=self._mongodb_cache_gigabytes,
        )
        await self._start_server("mongodb", mongod)
        self._mongodb_url = mongod.url

    async def _start_kafka(self) -> None:
        server: KafkaServer
        if self._broker == "kafka":
            jars = await asyncio.to_thread(fetch_kafka_jars, self._cache_dir, self._progress)
            (controller,) = self._hold(reserve_ports(1))
            server = Kafka(jars, self.data_dir / "kafka", self._reserve_port("kafka"), controller)
        else:
            binary = await asyncio.to_thread(fetch_server, downloads.TANSU, self._cache_dir, self._progress)
            server = Tansu(binary, self.data_dir / "tansu", self._reserve_port("kafka"))
        await self._start_server("kafka", server)
        self._kafka_bootstrap = server.bootstrap

    async def _start_s3(self) -> None:
        binary = await asyncio.to_thread(fetch_server, downloads.SEAWEEDFS, self._cache_dir, self._progress)
        master, volume, filer = self._hold(reserve_ports(3, with_grpc=True))
        (s3_grpc,) = self._hold(reserve_ports(1))
        ports = SeaweedFSPorts(master=master, volume=volume, filer=filer, s3=self._reserve_port("s3"), s3_grpc=s3_grpc)
        seaweedfs = SeaweedFS(binary, self.data_dir / "s3", ports, bucket=self._bucket)
        await self._start_server("s3", seaweedfs)
        self._s3 = seaweedfs.s3

    async def _start_server(self, part: PartName, server: Server) -> None:
        self._servers[part] = server
        try:
            await server.start()
        except OSError as error:
            raise LocalStackError(f"{part} could not start: {error}") from error
        if self._on_event is not None:
            self._monitors[part] = Monitor(part, server, self._on_event)
            self._monitors[part].begin()
        self._progress(f"{part} is ready")

    async def _close(self) -> None:
        await asyncio.gather(*map(self._end_monitor, self._monitors))
        with self._reservations:
            stops = [server.stop() for server in self._servers.values()]
            results = await asyncio.gather(*stops, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _end_monitor(self, part: PartName) -> None:
        if part in self._monitors:
            await self._monitors[part].end()

    def _server(self, part: PartName) -> Server:
        if part not in self._servers:
            raise LocalStackError(f"this stack does not run {part}; it runs {', '.join(self._servers)}")
        return self._servers[part]

    def _reserve_port(self, part: PartName) -> int:
        """Reserve the port that was given for the part, or the one that it had before, or a free one."""
        fixed, saved = self._fixed_ports.get(part), self._saved_ports.get(part)
        reservation: PortReservation | None = None
        if fixed is not None:
            reservation = reserve_port(fixed)
        elif saved is not None:
            try:
                reservation = reserve_port(saved)
            except LocalStackError as error:
                self._progress(f"{part} gets another port than before: {error}")
        (port,) = self._hold(reservation or reserve_ports(1))
        self._saved_ports[part] = port
        return port

    def _hold(self, reservation: PortReservation) -> tuple[int, ...]:
        return self._reservations.enter_context(reservation).ports

    async def _lock_data_dir(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        for _ in range(LOCK_ATTEMPTS):
            with contextlib.suppress(LocalStackError):
                self._reservations.enter_context(hold_lock(self.data_dir / LOCK_FILE, timeout=0))
                return
            await asyncio.sleep(LOCK_RETRY_SECONDS)
        raise LocalStackError(f"another local stack is using {self.data_dir}")


T = TypeVar("T")


def _require(value: T | None, title: str) -> T:
    if value is None:
        raise LocalStackError(f"the local stack has not started: {title} has no address yet")
    return value


def _read_ports(path: Path) -> dict[PartName, int]:
    """Return the saved ports. A missing or damaged file has none: saved ports only keep addresses from changing."""
    try:
        saved = json.loads(path.read_text())
        return {part: int(saved[part]) for part in PARTS if 0 < int(saved.get(part, 0)) < 65536}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
