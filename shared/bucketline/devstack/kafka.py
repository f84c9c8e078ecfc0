"""Apache Kafka itself, one node in KRaft mode: durable, and with idempotent producing. Needs Java 17 and Maven."""

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bucketline.devstack.cache import ProgressCallback, exclusive, silent
from bucketline.devstack.ports import LOOPBACK
from bucketline.devstack.process import ManagedProcess
from bucketline.devstack.tansu import answers
from bucketline.errors import LocalStackError

VERSION = "4.1.0"
HEAP = "512m"
# It runs for seconds or minutes beside everything else: half the CPU time to start counts, top throughput does not.
JVM_OPTIONS = (f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# A fixed id: the data folder says which cluster it belongs to, and there is only this one.
CLUSTER_ID = "YnVja2V0bGluZS1sb2NhbA"
MAVEN_TIMEOUT = 900.0
FORMAT_TIMEOUT = 60.0
FAILURE_LINES = 3
STOP_DEADLINE = 10.0

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bucketline.devstack</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


@dataclass(frozen=True, slots=True)
class KafkaPorts:
    broker: int
    controller: int


@dataclass(frozen=True, slots=True)
class KafkaJars:
    """A Java and the folder with the server's jars."""

    java: Path
    folder: Path


def kafka_jars(cache_dir: Path, progress: ProgressCallback = silent) -> KafkaJars:
    """The server's jars, brought by Maven once. Blocks; safe to call from several processes at once.

    Raises LocalStackError when Java or Maven is missing or Maven fails; checksums are compared strictly.
    """
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None:
        raise _unavailable("`java` (17 or later) is not on PATH")
    folder = cache_dir / f"kafka-{VERSION}-{hashlib.sha256(POM.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return KafkaJars(Path(java), folder)
    if maven is None:
        raise _unavailable("`mvn` is not on PATH")
    with exclusive(folder.with_suffix(".lock")):
        if not folder.is_dir():
            progress(f"fetching Kafka {VERSION} (43 MB)")
            with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".fetch-") as scratch:
                _copy_dependencies(maven, Path(scratch)).rename(folder)
    return KafkaJars(Path(java), folder)


def _copy_dependencies(maven: str, scratch: Path) -> Path:
    (scratch / "pom.xml").write_text(POM)
    jars = scratch / "jars"
    command = [maven, "--quiet", "--batch-mode", "--strict-checksums", "--file", str(scratch / "pom.xml")]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAVEN_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise _unavailable(f"Maven did not finish within {MAVEN_TIMEOUT:.0f} s") from None
    if done.returncode != 0 or not any(jars.glob("kafka_*.jar")):
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()][:FAILURE_LINES]
        raise _unavailable(f"Maven could not bring its jars: {' / '.join(lines) or done.returncode}")
    return jars


def _unavailable(reason: str) -> LocalStackError:
    return LocalStackError(
        f"Apache Kafka is not available: {reason}. "
        "Set BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS to the address of one that you run."
    )


class Kafka:
    """Kafka with its log in ``data_dir``, which may come from a run on other ports.

    As in production for a single node: what was acknowledged survives SIGKILL. Not a place to measure throughput: the
    JVM is set to start fast. Topics are not made by using them.
    """

    def __init__(self, jars: KafkaJars, data_dir: Path, ports: KafkaPorts) -> None:
        self.ports = ports
        self._data_dir = data_dir
        self._properties = data_dir / "server.properties"
        self._java = [
            *(str(jars.java), *JVM_OPTIONS, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
            *("-cp", f"{jars.folder}/*"),
        ]
        self.process = ManagedProcess(
            "kafka",
            [*self._java, "kafka.Kafka", str(self._properties)],
            environment={"HOME": str(data_dir)},
            folder=data_dir,
            log_file=data_dir / "kafka.log",
            stop_deadline=STOP_DEADLINE,
        )

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.ports.broker}"

    @property
    def pid(self) -> int | None:
        return self.process.pid

    async def start(self) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(self._settings())
        if not (self._data_dir / "log" / "meta.properties").exists():
            await self._format()
        await self.process.start()
        try:
            await self.process.ready(lambda: answers(self.ports.broker))
        except BaseException:
            await self.process.kill()
            raise

    async def stop(self) -> None:
        await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()

    async def _format(self) -> None:
        storage_tool = ManagedProcess(
            "kafka-storage",
            [
                *(*self._java, "kafka.tools.StorageTool", "format", "--ignore-formatted"),
                *("--cluster-id", CLUSTER_ID, "--config", str(self._properties)),
            ],
            environment={"HOME": str(self._data_dir)},
            folder=self._data_dir,
            log_file=self._data_dir / "format.log",
        )
        await storage_tool.start()
        try:
            code = await storage_tool.wait(deadline=FORMAT_TIMEOUT)
        finally:
            await storage_tool.kill()
        if code != 0:
            raise LocalStackError(f"Kafka could not format {self._data_dir}: {storage_tool.output_tail()}")

    def _settings(self) -> str:
        broker, controller = f"{LOOPBACK}:{self.ports.broker}", f"{LOOPBACK}:{self.ports.controller}"
        settings = {
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
            # Nobody else is about to join a group of tests: no reason to wait for them.
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker comes back only after its session is over: shorter than the default of nine seconds,
            # but not so short that a busy machine fences a broker that is well.
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "1000",
            # The default of 128 MB is a quarter of this heap.
            "log.cleaner.dedupe.buffer.size": "8388608",
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())
