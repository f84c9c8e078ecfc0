"""What a check found, and how checks are run: each within a deadline, none in the way of the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from bucketline.errors import InvalidSetting

Severity = Literal["ok", "warning", "bad"]

CHECK_SECONDS = 20.0


@dataclass(frozen=True)
class CheckResult:
    """One row: what was looked at, what was found, and what to do unless all is well."""

    part: str
    what: str
    verdict: Severity
    found: str
    advice: str = ""


Checks = Callable[[], AsyncIterator[CheckResult]]


async def findings(part: str, checks: Checks, *, unreachable: str) -> list[CheckResult]:
    """All rows of one part. What a check raises, or a deadline that passes, is a row as well, and the last one."""
    rows: list[CheckResult] = []
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            async for row in checks():
                rows.append(row)  # noqa: PERF401 - what was found before an error stays
    except TimeoutError:
        rows.append(CheckResult(part, "answers", "bad", f"no answer within {CHECK_SECONDS:.0f} s", unreachable))
    except Exception as error:
        # Whatever a driver raises is what the person who called us wants to see.
        if isinstance(error, InvalidSetting):
            rows.append(CheckResult(part, "settings", "bad", error.message[:300], unreachable))
            return rows
        cause = error.__cause__ or error
        name = type(cause).__name__
        told = str(cause).removeprefix(f"{name}: ")
        rows.append(CheckResult(part, "answers", "bad", f"{name}: {told}"[:300], unreachable))
    return rows


def clock_check(part: str, skew: float, *, warn: float, bad: float, why: str) -> CheckResult:
    """``skew`` is how many seconds the server is ahead of this machine."""
    verdict: Severity = "bad" if abs(skew) > bad else "warning" if abs(skew) > warn else "ok"
    found = f"{'ahead' if skew > 0 else 'behind'} of this machine by {abs(skew):.1f} s"
    return CheckResult(part, "clock", verdict, found, "" if verdict == "ok" else f"Run NTP on both sides: {why}.")
