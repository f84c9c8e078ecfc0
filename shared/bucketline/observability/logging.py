"""Logs: JSON for machines, aligned lines for a terminal; both carry the trace, and what was bound along the way."""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from bucketline.observability.logging_filters import NOISY, Repeats
from bucketline.observability.tracing import current_trace_id
from bucketline.settings import ObservabilitySettings

Logger = structlog.stdlib.BoundLogger


def setup_logging(settings: ObservabilitySettings, service: str, stream: TextIO = sys.stdout) -> None:
    """Configures structlog and the standard library's logging alike; call once, first thing."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())

    def add_service(_: object, __: str, event: EventDict) -> EventDict:
        # Not bound as context: work that begins in a context of its own must say whose it is, too.
        event.setdefault("service", service)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_trace,
    ]
    renderer: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [_short, structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=36)]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name, level in NOISY.items():
        logging.getLogger(name).setLevel(max(level, root.level))


def get_logger(name: str) -> Logger:
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def _add_trace(_: object, __: str, event: EventDict) -> EventDict:
    trace_id = current_trace_id()
    if trace_id is not None:
        event.setdefault("trace_id", trace_id)
    return event


def _short(_: object, __: str, event: EventDict) -> EventDict:
    """A terminal shows one service and one person: the clock is enough, and so is the beginning of a trace."""
    event.pop("logger", None)
    event["timestamp"] = str(event.get("timestamp", ""))[11:23]
    if "trace_id" in event:
        event["trace_id"] = str(event["trace_id"])[:8]
    return event
