"""Logs: JSON for machines and aligned lines for a terminal. Both carry the trace id and the bound context."""

import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from bucketline.observability.tracing import current_trace_id
from bucketline.settings import ObservabilitySettings

Logger = structlog.stdlib.BoundLogger

LIBRARY_LEVELS = {
    "aiokafka": logging.WARNING,
    "botocore": logging.WARNING,
    "faststream": logging.WARNING,
    "pymongo": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
}
"""The minimum level of libraries. An application that cannot start logs an error."""

RECONNECTING_LIBRARIES = ("aiokafka", "opentelemetry.exporter", "urllib3")
REPEAT_INTERVAL_SECONDS = 30.0
MAX_TRACKED_MESSAGES = 1000


def setup_logging(settings: ObservabilitySettings, service: str, stream: TextIO = sys.stdout) -> None:
    """Configure structlog and the standard library's logging. Call it once, before anything else."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())

    def add_service(_: object, __: str, event: EventDict) -> EventDict:
        # Not bound as context: work that starts in a context of its own carries the service's name, too.
        event.setdefault("service", service)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_trace_id,
    ]
    renderer: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [_shorten, structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=36)]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name, level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, root.level))


def get_logger(name: str) -> Logger:
    """Return the logger of a module."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


class RepeatFilter(logging.Filter):
    """Passes one message of a kind per ``REPEAT_INTERVAL_SECONDS``, with the number of suppressed ones.

    A Kafka client that cannot reach its broker logs an error several times per second and keeps trying. Applies only to
    libraries that reconnect, and turns their errors into warnings: readiness, lag and the consumer monitor show whether
    the service works. A kind is a logger and its message without arguments.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if not record.name.startswith(RECONNECTING_LIBRARIES):
            return True
        kind = record.name, str(record.msg)
        now = self._clock()
        passed_at, suppressed = self._passed.get(kind, (-REPEAT_INTERVAL_SECONDS, 0))
        if now - passed_at < REPEAT_INTERVAL_SECONDS:
            self._passed[kind] = passed_at, suppressed + 1
            return False
        if len(self._passed) >= MAX_TRACKED_MESSAGES:
            self._passed.clear()
        self._passed[kind] = now, 0
        if record.levelno == logging.ERROR:
            record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        if suppressed:
            record.msg, record.args = f"{record.getMessage()} ({suppressed} more like this before)", None
        return True


def _add_trace_id(_: object, __: str, event: EventDict) -> EventDict:
    trace_id = current_trace_id()
    if trace_id is not None:
        event.setdefault("trace_id", trace_id)
    return event


def _shorten(_: object, __: str, event: EventDict) -> EventDict:
    """Shorten the timestamp and the trace id for a terminal."""
    event.pop("logger", None)
    event["timestamp"] = str(event.get("timestamp", ""))[11:23]
    if "trace_id" in event:
        event["trace_id"] = str(event["trace_id"])[:8]
    return event
