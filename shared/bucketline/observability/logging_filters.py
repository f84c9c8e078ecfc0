"""What other libraries log, brought down to what helps.

A Kafka client that cannot reach its broker says so many times a second, as an error, and goes on trying: that is one
warning now and then. Whether the service still does its work is told by readiness, lag and the watchdog.
"""

import logging
import time
from collections.abc import Callable

NOISY = {
    "aiokafka": logging.WARNING,
    "botocore": logging.WARNING,
    "faststream": logging.WARNING,
    "pymongo": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
}
"""The level from which each library is heard. That an application does not start is an error, and shown."""

RECONNECTING = ("aiokafka", "opentelemetry.exporter", "urllib3")
EVERY_SECONDS = 30.0
MAX_KINDS = 1000


class Repeats(logging.Filter):
    """Lets one message of a kind through every ``EVERY_SECONDS``, with the number of those that were held back.

    Only for libraries that reconnect by themselves; a kind is a logger and its message before arguments are put in.
    Their errors come out as warnings. Ours always pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._shown: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(RECONNECTING):
            return True
        kind = record.name, str(record.msg)
        now = self._clock()
        at, held_back = self._shown.get(kind, (-EVERY_SECONDS, 0))
        if now - at < EVERY_SECONDS:
            self._shown[kind] = at, held_back + 1
            return False
        if len(self._shown) >= MAX_KINDS:
            self._shown.clear()
        self._shown[kind] = now, 0
        if record.levelno == logging.ERROR:
            record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        if held_back:
            record.msg, record.args = f"{record.getMessage()} ({held_back} more like this before)", None
        return True
