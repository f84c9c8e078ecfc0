"""All checks, side by side."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bucketline.admin.api_keys import ApiKeySettings
from bucketline.admin.diagnostics import kafka, mongodb, s3
from bucketline.admin.diagnostics.result import CheckResult, findings
from bucketline.clock import Clock
from bucketline.extractors import ExtractorRegistry
from bucketline.settings import KafkaSettings, MongoSettings, S3Settings


@dataclass(frozen=True)
class DiagnosticTargets:
    """What is examined."""

    mongo: MongoSettings
    kafka: KafkaSettings
    s3: S3Settings
    access: ApiKeySettings
    extractors: ExtractorRegistry


async def run_checks(patient: DiagnosticTargets, clock: Clock) -> list[CheckResult]:
    """The rows of every part, in the order in which an object passes them. Never raises for what it finds."""
    rows = await asyncio.gather(
        findings(mongodb.PART, lambda: mongodb.mongodb(patient.mongo, clock), unreachable=mongodb.UNREACHABLE),
        findings(kafka.PART, lambda: kafka.kafka(patient.kafka), unreachable=kafka.UNREACHABLE),
        findings(s3.PART, lambda: s3.s3(patient.s3, clock), unreachable=s3.UNREACHABLE),
        findings("Bucketline", lambda: _installation(patient), unreachable="Install Bucketline anew."),
    )
    return [row for part in rows for row in part]


async def _installation(patient: DiagnosticTargets) -> AsyncIterator[CheckResult]:
    infos = await asyncio.to_thread(patient.extractors.infos)
    broken = patient.extractors.broken()
    if broken:
        named = "; ".join(f"{one.entry_point} of {one.distribution}: {one.reason}" for one in broken)
        yield CheckResult(
            "Bucketline", "extractors", "warning", f"not usable: {named}"[:300], "Fix or uninstall the package."
        )
    else:
        yield CheckResult("Bucketline", "extractors", "ok", f"{len(infos)} are installed")
    if patient.access.key_pepper.get_secret_value():
        yield CheckResult("Bucketline", "key pepper", "ok", "is set")
    else:
        advice = (
            "Set BUCKETLINE_API_KEY_PEPPER before the first key is made; a copy of the database is then no use alone."
        )
        yield CheckResult("Bucketline", "key pepper", "warning", "is not set", advice)
