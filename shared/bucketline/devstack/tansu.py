"""The Tansu broker: Kafka's wire protocol, everything in memory."""

from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from bucketline.devstack import readiness
from bucketline.devstack.binaries import Binary
from bucketline.devstack.ports import LOOPBACK
from bucketline.devstack.process import ManagedProcess

CLUSTER_ID = "bucketline_local"
REQUEST_MS = 3_000
STOP_DEADLINE = 3.0


class Tansu:
    """Tansu on ``port``. A restart forgets every topic, record and offset; idempotent producing does not work."""

    def __init__(self, binary: Binary, data_dir: Path, port: int) -> None:
        self.port = port
        address = f"tcp://{LOOPBACK}:{port}"
        self.process = ManagedProcess(
            "tansu",
            [
                *(str(binary.path), "broker", "--cluster-id", CLUSTER_ID),
                *("--listener-url", address, "--advertised-listener-url", address),
                *("--storage-engine", "memory://tansu/"),
            ],
            environment={"RUST_LOG": "warn"},
            log_file=data_dir / "tansu.log",
            stop_deadline=STOP_DEADLINE,
        )

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        return self.process.pid

    async def start(self) -> None:
        await self.process.start()
        try:
            await self.process.ready(lambda: answers(self.port))
        except BaseException:
            await self.process.kill()
            raise

    async def stop(self) -> None:
        await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()


async def answers(port: int) -> bool:
    """Whether a broker on the port answers a request for its metadata."""
    if not await readiness.accepts(port):
        return False  # the client logs an error for each connection that is refused
    admin = AIOKafkaAdminClient(bootstrap_servers=f"{LOOPBACK}:{port}", request_timeout_ms=REQUEST_MS)
    try:
        await admin.start()
        await admin.describe_cluster()
    except KafkaError:
        return False
    finally:
        await admin.close()
    return True
