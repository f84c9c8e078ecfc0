"""Checks of an installation: whether MongoDB, Kafka and S3 can be reached and guarantee what the services rely on.

The parts are checked at the same time, each within a deadline, and no failure of one hides the results of another.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Literal

import aiohttp

from bucketline.admin.api_keys import ApiKeySettings
from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import ChecksumRefused, ObjectMissing
from bucketline.clock import Clock
from bucketline.db.indexes import INDEXES, missing_indexes
from bucketline.db.mongo import Database
from bucketline.errors import BucketlineError, InvalidSetting
from bucketline.events.topics import TOPICS
from bucketline.extractors import ExtractorRegistry
from bucketline.kafka.admin import TopicState, check_topics, cluster, denied_groups
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.settings import KafkaSettings, MongoSettings, S3Settings

Severity = Literal["ok", "warning", "error"]

MONGODB, KAFKA, S3, INSTALLATION = "MongoDB", "Kafka", "S3", "Bucketline"
ADVICE = {
    MONGODB: "Check BUCKETLINE_MONGODB_URL, the user, the password and the network.",
    KAFKA: "Check BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS, BUCKETLINE_KAFKA_SECURITY_PROTOCOL and BUCKETLINE_KAFKA_SASL_*. "
    "Brokers must be reachable under the names that they advertise.",
    S3: "Check BUCKETLINE_S3_ENDPOINT_URL, BUCKETLINE_S3_BUCKET and the permissions of the key. "
    "A clock that is off by 15 minutes makes every signature invalid.",
    INSTALLATION: "Install Bucketline again.",
}
"""What to check when a part cannot be reached."""

TIMEOUT_SECONDS = 20.0
MONGODB_TIMEOUT_SECONDS = 5.0
PRESIGNED_TIMEOUT_SECONDS = 5.0
SLOW_WRITE_SECONDS = 0.25
MIN_MONGODB_VERSION = (6, 0)
REDUNDANT = 3
"""Servers of which one may be lost."""
MAX_FOUND_LENGTH = 300
TEST_PREFIX = "staging/doctor/"


@dataclass(frozen=True)
class CheckResult:
    """What a check found, and what to do unless it is ok."""

    part: str
    check: str
    severity: Severity
    found: str
    advice: str = ""


async def run_checks(
    mongo: MongoSettings,
    kafka: KafkaSettings,
    s3: S3Settings,
    api_keys: ApiKeySettings,
    extractors: ExtractorRegistry,
    clock: Clock,
) -> list[CheckResult]:
    """Return the results of all checks, grouped by part. Raises nothing because of what a check finds."""
    parts = await asyncio.gather(
        collect_results(MONGODB, check_mongodb(mongo, clock)),
        collect_results(KAFKA, check_kafka(kafka)),
        collect_results(S3, check_s3(s3, clock)),
        collect_results(INSTALLATION, check_installation(api_keys, extractors)),
    )
    return [result for results in parts for result in results]


async def collect_results(part: str, checks: AsyncIterator[CheckResult]) -> list[CheckResult]:
    """Return the results of one part; an exception or a missed deadline is the last one."""
    results: list[CheckResult] = []
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for result in checks:
                results.append(result)  # noqa: PERF401 - results before an exception are kept
    except InvalidSetting as error:
        results.append(CheckResult(part, "settings", "error", error.message, ADVICE[part]))
    except TimeoutError:
        found = f"no response within {TIMEOUT_SECONDS:.0f} s"
        results.append(CheckResult(part, "connection", "error", found, ADVICE[part]))
    except Exception as error:  # the operator wants to see whatever a driver raises
        cause = error.__cause__ or error
        name = type(cause).__name__
        found = f"{name}: {str(cause).removeprefix(f'{name}: ')}"
        results.append(CheckResult(part, "connection", "error", found, ADVICE[part]))
    return [replace(result, found=result.found[:MAX_FOUND_LENGTH]) for result in results]


def check_clock(part: str, skew_seconds: float, *, warning: float, error: float, reason: str) -> CheckResult:
    """Compare a server's clock, which is ahead of the local one by ``skew_seconds``."""
    skew = abs(skew_seconds)
    severity: Severity = "error" if skew > error else "warning" if skew > warning else "ok"
    found = f"{skew:.1f} s {'ahead of' if skew_seconds > 0 else 'behind'} this machine"
    return CheckResult(
        part, "clock", severity, found, "" if severity == "ok" else f"Run NTP on both machines: {reason}."
    )


async def check_mongodb(settings: MongoSettings, clock: Clock) -> AsyncIterator[CheckResult]:
    """Check the version, the replica set, the clock, a majority write and the indexes."""
    timeout = min(settings.timeout_seconds, MONGODB_TIMEOUT_SECONDS)
    database = Database(settings.model_copy(update={"timeout_seconds": timeout}))
    try:
        before = clock.now()
        info = await database.server_info()
        local = before + (clock.now() - before) / 2
        version = str(info["version"])
        if tuple(int(number) for number in version.split(".")[:2]) >= MIN_MONGODB_VERSION:
            yield CheckResult(MONGODB, "version", "ok", version)
        else:
            advice = f"Upgrade to {'.'.join(map(str, MIN_MONGODB_VERSION))} or later."
            yield CheckResult(MONGODB, "version", "error", version, advice)
        yield _check_replica_set(info.get("setName"), len(info.get("hosts", ())))
        skew = (info["localTime"].replace(tzinfo=UTC) - local).total_seconds()
        yield check_clock(MONGODB, skew, warning=2, error=30, reason="leases depend on the clocks of the services")
        yield await _check_majority_write(database)
        yield await _check_indexes(database)
    finally:
        database.close()


def _check_replica_set(name: object, members: int) -> CheckResult:
    if not name:
        advice = "Start mongod with --replSet: without it, a 200 is only as durable as a single server."
        return CheckResult(MONGODB, "replica set", "error", "a single server", advice)
    if members < REDUNDANT:
        advice = "Three members survive the loss of one. Fewer are sufficient for development."
        return CheckResult(MONGODB, "replica set", "warning", f"{name}, {members} member(s)", advice)
    return CheckResult(MONGODB, "replica set", "ok", f"{name}, {members} members")


async def _check_majority_write(database: Database) -> CheckResult:
    scratch = database.collection("doctor")
    identifier = secrets.token_hex(8)
    started = time.perf_counter()
    await scratch.insert({"_id": identifier})
    seconds = time.perf_counter() - started
    exists = await scratch.get(identifier) is not None
    await scratch.delete_one({"_id": identifier})
    if not exists:
        found = "a document was missing right after it was written"
        return CheckResult(MONGODB, "write and read", "error", found, "Is this server the primary?")
    found = f"a majority write took {seconds * 1000:.0f} ms"
    if seconds > SLOW_WRITE_SECONDS:
        advice = "Every accepted object waits for one. Check the disks of the members and the network between them."
        return CheckResult(MONGODB, "write and read", "warning", found, advice)
    return CheckResult(MONGODB, "write and read", "ok", found)


async def _check_indexes(database: Database) -> CheckResult:
    missing = await missing_indexes(database)
    if missing:
        names = ", ".join(f"{collection}.{name}" for collection, names in missing.items() for name in names)
        return CheckResult(MONGODB, "indexes", "warning", f"missing: {names}", "Run: bucketline indexes")
    return CheckResult(MONGODB, "indexes", "ok", f"all {sum(map(len, INDEXES.values()))} exist")


async def check_kafka(settings: KafkaSettings) -> AsyncIterator[CheckResult]:
    """Check the brokers, the topics, the permissions of this user and the producer. Publishes nothing."""
    brokers = await cluster(settings)
    if brokers < REDUNDANT:
        advice = "Three brokers survive the loss of one. Lost events delay objects but do not lose them."
        yield CheckResult(KAFKA, "brokers", "warning", f"{brokers} broker(s)", advice)
    else:
        yield CheckResult(KAFKA, "brokers", "ok", f"{brokers} brokers")
    states = await check_topics(settings, retention=True)
    yield _check_topics(states)
    yield _check_retention(states)
    groups = [settings.group_prefix + topic.group(service) for topic in TOPICS for service in topic.consumers]
    yield check_groups(groups, await denied_groups(settings, groups))
    yield _check_replicas(states, brokers)
    async with KafkaPublisher(settings) as publisher:
        await publisher.ping()
    if settings.enable_idempotence:
        yield CheckResult(KAFKA, "producer", "ok", "idempotent")
    else:
        advice = "Set BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE=true unless the broker does not support it."
        yield CheckResult(KAFKA, "producer", "warning", "not idempotent", advice)


def _check_topics(states: Sequence[TopicState]) -> CheckResult:
    missing = [state.name for state in states if state.partitions is None]
    if missing:
        advice = (
            "Run `bucketline topics create`, or allow this user to describe the topics: see the ACLs in deploy/k8s."
        )
        return CheckResult(KAFKA, "topics", "error", f"missing: {', '.join(missing)}", advice)
    small = [state.name for state in states if "partitions" in state.faults]
    if small:
        advice = "Add partitions while no events are in flight, because keys are assigned to other partitions then."
        return CheckResult(KAFKA, "topics", "warning", f"too few partitions: {', '.join(small)}", advice)
    return CheckResult(KAFKA, "topics", "ok", f"all {len(states)} exist")


def _check_retention(states: Sequence[TopicState]) -> CheckResult:
    short = [state.name for state in states if "retention" in state.faults]
    if short:
        advice = "Raise retention.ms with kafka-configs.sh: only the reconcilers repair what expires before it is read."
        return CheckResult(KAFKA, "retention", "warning", f"too short: {', '.join(short)}", advice)
    known = sum(state.kept_ms is not None for state in states)
    return CheckResult(KAFKA, "retention", "ok", f"long enough for {known} topics" if known else "unknown")


def check_groups(groups: Sequence[str], denied: Sequence[str]) -> CheckResult:
    """Check that this user may use the consumer groups. Without Read a consumer can neither join nor commit."""
    if denied:
        advice = "Give this user Read on these groups or on their prefix (BUCKETLINE_KAFKA_GROUP_PREFIX)."
        return CheckResult(KAFKA, "consumer groups", "error", f"not permitted: {', '.join(denied)}", advice)
    return CheckResult(KAFKA, "consumer groups", "ok", f"{len(groups)} permitted")


def _check_replicas(states: Sequence[TopicState], brokers: int) -> CheckResult:
    replicas = min((state.copies for state in states if state.copies is not None), default=0)
    if replicas == 1:
        advice = (
            "Set BUCKETLINE_KAFKA_REPLICATION_FACTOR=3 before the topics are created, or use "
            "kafka-reassign-partitions.sh for existing ones."
        )
        return CheckResult(KAFKA, "replicas", "warning", "1", advice if brokers > 1 else "Add brokers first.")
    return CheckResult(KAFKA, "replicas", "ok", str(replicas) if replicas else "no topic exists")


async def check_s3(settings: S3Settings, clock: Clock) -> AsyncIterator[CheckResult]:
    """Check with small objects, which are deleted afterwards, that the store keeps what deduplication relies on.

    A store that ignores ``If-None-Match`` overwrites content that is in use. One that ignores checksums keeps corrupt
    bytes under the hash of correct ones.
    """
    async with S3BlobStore(settings) as store:
        await store.ping()
        yield CheckResult(S3, "bucket", "ok", settings.bucket)
        data = secrets.token_bytes(64)
        key = f"{TEST_PREFIX}{hashlib.sha256(data).hexdigest()}"
        wrong_key = f"{key}-wrong"
        try:
            before = clock.now()
            await _put(store, key, data)
            head = await store.head(key)
            yield CheckResult(S3, "write and read", "ok", "an object was written and found")
            # The store returns whole seconds: on average the time is half a second later.
            skew = (head.last_modified - before).total_seconds() + 0.5
            yield check_clock(S3, skew, warning=30, error=600, reason="signatures are refused from 15 minutes on")
            yield await _check_conditional_writes(store, key)
            yield await _check_checksums(store, wrong_key)
            yield await _check_presigned_url(store, key, data)
            yield await check_list_and_delete(store, key)
        finally:
            await store.delete([key, wrong_key])


async def _put(store: S3BlobStore, key: str, data: bytes, announced: bytes | None = None) -> bool:
    sha256 = hashlib.sha256(announced or data).hexdigest()
    return await store.put_if_absent(key, data, sha256=sha256, content_type="application/octet-stream")


async def _check_conditional_writes(store: S3BlobStore, key: str) -> CheckResult:
    if await _put(store, key, secrets.token_bytes(64)):
        advice = (
            "This store cannot be used, because writers would replace each other's content. AWS S3, SeaweedFS, MinIO "
            "and Ceph support conditional writes; a gateway in front of them may not."
        )
        return CheckResult(S3, "conditional writes", "error", "If-None-Match was ignored", advice)
    return CheckResult(S3, "conditional writes", "ok", "a second write of a key is refused")


async def _check_checksums(store: S3BlobStore, key: str) -> CheckResult:
    try:
        await _put(store, key, b"these bytes", announced=b"other bytes")
    except ChecksumRefused:
        return CheckResult(S3, "checksums", "ok", "bytes that do not match their SHA-256 are refused")
    except BucketlineError as error:
        advice = "See the log of the store. It is not known whether the store verifies x-amz-checksum-sha256."
        return CheckResult(S3, "checksums", "warning", f"refused for another reason: {error.message}", advice)
    advice = "This store does not verify x-amz-checksum-sha256, so corruption in transit would not be detected."
    return CheckResult(S3, "checksums", "error", "wrong bytes were accepted", advice)


async def _check_presigned_url(store: S3BlobStore, key: str, data: bytes) -> CheckResult:
    """Fetch a presigned URL as a client of the API would. It may be unreachable from this machine only."""
    advice = "Clients get such URLs: set BUCKETLINE_S3_PUBLIC_ENDPOINT_URL to an address that they can reach."
    url = await store.presign_get(key, expires=60)
    timeout = aiohttp.ClientTimeout(total=PRESIGNED_TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            if response.status == 200 and await response.read() == data:
                return CheckResult(S3, "presigned URLs", "ok", "a presigned URL can be fetched")
            return CheckResult(S3, "presigned URLs", "error", f"a presigned URL returned {response.status}", advice)
    except (aiohttp.ClientError, TimeoutError) as error:
        found = f"not reachable from this machine: {type(error).__name__}"
        return CheckResult(S3, "presigned URLs", "warning", found, advice)


async def check_list_and_delete(store: S3BlobStore, key: str) -> CheckResult:
    """Check the permissions that garbage collection needs in addition to those of the pipeline."""
    check, step = "list and delete", "listed"
    try:
        if not await store.list(key, limit=1):
            return CheckResult(S3, check, "error", "an object was not listed", "Does this S3 list with a delay?")
        step = "deleted"
        await store.delete([key])
        await store.head(key)
    except ObjectMissing:
        return CheckResult(S3, check, "ok", "an object was listed and deleted")
    except BucketlineError as error:
        advice = "Give the key s3:ListBucket on the bucket and s3:DeleteObject on its objects: gc needs both."
        return CheckResult(S3, check, "error", f"an object could not be {step}: {error.message}", advice)
    return CheckResult(S3, check, "error", "an object still exists after it was deleted", "Are objects locked?")


async def check_installation(api_keys: ApiKeySettings, extractors: ExtractorRegistry) -> AsyncIterator[CheckResult]:
    """Check that all extractors load and that stored key hashes have a pepper."""
    infos, broken = await asyncio.to_thread(extractors.infos), extractors.broken()
    if broken:
        names = "; ".join(f"{one.entry_point} of {one.distribution}: {one.reason}" for one in broken)
        found, advice = f"not loaded: {names}", "Fix or uninstall the package."
        yield CheckResult(INSTALLATION, "extractors", "warning", found, advice)
    else:
        yield CheckResult(INSTALLATION, "extractors", "ok", f"{len(infos)} installed")
    if api_keys.key_pepper.get_secret_value():
        yield CheckResult(INSTALLATION, "key pepper", "ok", "set")
    else:
        advice = (
            "Set BUCKETLINE_API_KEY_PEPPER before the first key is created: a copied database is then useless alone."
        )
        yield CheckResult(INSTALLATION, "key pepper", "warning", "not set", advice)
