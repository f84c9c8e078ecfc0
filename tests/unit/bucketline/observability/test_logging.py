"""What a person or a log store gets to see."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from bucketline.observability.logging import REPEAT_INTERVAL_SECONDS, RepeatFilter, get_logger, setup_logging
from bucketline.observability.tracing import current_trace_id, start_span
from bucketline.settings import ObservabilitySettings


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; logging is as before afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], level = before[0], before[1]
    root.setLevel(level)
    structlog.reset_defaults()


def logs_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_log_line_has_service_trace_and_bound_fields(stream: io.StringIO) -> None:
    setup_logging(ObservabilitySettings(log_format="json"), "dedup", stream)
    with start_span("x"), structlog.contextvars.bound_contextvars(object_id="obj_1"):
        trace_id = current_trace_id()
        get_logger("test").info("mirrored", blobs=2)
    (line,) = logs_of(stream)
    assert line["event"] == "mirrored"
    assert line["service"] == "dedup"
    assert line["object_id"] == "obj_1"
    assert line["blobs"] == 2
    assert line["level"] == "info"
    assert line["trace_id"] == trace_id
    assert str(line["timestamp"]).endswith("Z")


def test_json_log_of_an_exception_is_one_line(stream: io.StringIO) -> None:
    setup_logging(ObservabilitySettings(log_format="json"), "dedup", stream)
    try:
        raise ValueError("no")
    except ValueError:
        get_logger("test").exception("failed")
    (line,) = logs_of(stream)
    assert "ValueError: no" in str(line["exception"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_format_auto_is_readable_on_a_terminal_and_json_elsewhere(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BUCKETLINE_LOG_FORMAT", raising=False)
    terminal = Terminal()
    setup_logging(ObservabilitySettings(_env_file=None), "dedup", terminal)
    get_logger("test").info("running")
    assert "running" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    structlog.reset_defaults()
    setup_logging(ObservabilitySettings(_env_file=None), "dedup", stream)
    get_logger("test").info("running")
    assert logs_of(stream)[0]["event"] == "running"


def test_console_log_is_a_readable_line(stream: io.StringIO) -> None:
    setup_logging(ObservabilitySettings(log_format="console"), "dedup", stream)
    with start_span("x"):
        get_logger("test").warning("source away", object_id="obj_1")
    (line,) = stream.getvalue().splitlines()
    assert "source away" in line
    assert "object_id=obj_1" in line
    assert not line.startswith("{")


def test_uvicorn_logs_errors_only(stream: io.StringIO) -> None:
    setup_logging(ObservabilitySettings(log_format="json"), "dedup", stream)
    logging.getLogger("uvicorn.error").info("Waiting for application startup.")
    logging.getLogger("uvicorn.error").error("Application startup failed. Exiting.")
    assert [line["event"] for line in logs_of(stream)] == ["Application startup failed. Exiting."]


def record(name: str, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, args, None)


def test_repeat_filter_passes_one_message_per_interval_with_a_count() -> None:
    now = 1000.0
    repeats = RepeatFilter(lambda: now)
    first = record("aiokafka.client", "no connection to %s", "a:1")
    assert repeats.filter(first)
    assert first.levelname == "WARNING"
    assert [repeats.filter(record("aiokafka.client", "no connection to %s", "a:1")) for _ in range(5)] == [False] * 5
    assert repeats.filter(record("aiokafka.client", "another thing"))
    now += REPEAT_INTERVAL_SECONDS
    later = record("aiokafka.client", "no connection to %s", "b:2")
    assert repeats.filter(later)
    assert later.getMessage() == "no connection to b:2 (5 more like this before)"


def test_repeat_filter_passes_all_messages_of_bucketline() -> None:
    repeats = RepeatFilter(lambda: 0.0)
    assert all(repeats.filter(record("bucketline.kafka.middleware", "record dead")) for _ in range(5))
