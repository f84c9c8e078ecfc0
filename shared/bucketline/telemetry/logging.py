"""Logs: JSON for machines, aligned lines for a terminal; both carry the trace, and what was bound along the way."""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from bucketline.settings import TelemetrySettings
from bucketline.telemetry.tracing import current_trace_id

Logger = structlog.stdlib.BoundLogger


def setup_logging(settings: TelemetrySettings, service: str, stream: TextIO = sys.stdout) -> None:
    """Configures structlog and the standard library's logging alike; call once, first thing."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    renderer: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=36)]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for noisy, level in {"aiokafka": "ERROR", "botocore": "WARNING", "uvicorn.access": "WARNING"}.items():
        logging.getLogger(noisy).setLevel(level)
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> Logger:
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def _add_trace(_: object, __: str, event: EventDict) -> EventDict:
    trace_id = current_trace_id()
    if trace_id is not None:
        event.setdefault("trace_id", trace_id)
    return event
