"""What went wrong, for whoever typed the command: one line that names the cause, and what to look at."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

    from bucketline.settings import SettingsBase

_DOCTOR = "[cyan]bucketline doctor[/] says what is reachable."
_BOOTSTRAP = f"Are BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS, SECURITY_PROTOCOL and SASL_* right? {_DOCTOR}"


@dataclass(frozen=True)
class Explanation:
    """``advice`` may have markup; ``message`` has none."""

    message: str
    advice: str | None = None


def explanation(error: Exception) -> Explanation | None:
    """Explain an error that a setting, an argument or a store that is away may cause; None for a fault of our own.

    Nothing secret is in it. Only the client that raised the error is imported, which it was before.
    """
    for package, explain in _EXPLAINED.items():
        if any(cls.__module__.partition(".")[0] == package for cls in type(error).__mro__):
            found = explain(error)
            if found is not None:
                return found
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # a closed pipe: click ends quietly
        return Explanation(str(error))
    return None


def _of_ours(error: Exception) -> Explanation | None:
    from bucketline.errors import BucketlineError, DependencyUnavailable, RetryableError

    if not isinstance(error, BucketlineError):
        return None
    return Explanation(error.message, _DOCTOR if isinstance(error, DependencyUnavailable | RetryableError) else None)


def _of_a_value(error: Exception) -> Explanation | None:
    from pydantic import ValidationError

    rows = list(_settings(error)) if isinstance(error, ValidationError) else []
    return Explanation("\n".join(rows)) if rows else None


def _of_json(error: Exception) -> Explanation | None:
    field = re.search(r'field "(\w+)"', str(error))
    names = [variable(block, field[1]) for block in _blocks() if field and field[1] in block.model_fields]
    return Explanation(f"{' or '.join(names)} is not JSON") if names else None


def _of_mongodb(error: Exception) -> Explanation | None:
    from pymongo.errors import OperationFailure, PyMongoError

    if isinstance(error, OperationFailure):
        # The rest of the driver's text is the server's whole answer.
        reason = str(error).partition(", full error")[0]
        return Explanation(f"MongoDB refuses: {reason}", "Are user and password right, and what the user may do?")
    if isinstance(error, PyMongoError):
        return Explanation(f"MongoDB does not answer: {type(error).__name__}", _DOCTOR)
    return None


def _of_kafka(error: Exception) -> Explanation | None:
    from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, RequestTimedOutError

    if isinstance(error, KafkaConnectionError | KafkaTimeoutError | RequestTimedOutError):
        return Explanation(f"Kafka does not answer: {error}", _BOOTSTRAP)
    return Explanation(f"Kafka refuses: {error}", _BOOTSTRAP) if isinstance(error, KafkaError) else None


def _of_http(error: Exception) -> Explanation | None:
    from aiohttp import ClientError

    if isinstance(error, ClientError):
        return Explanation(f"no answer that makes sense: {type(error).__name__}: {error}")
    return None


_EXPLAINED: Mapping[str, Callable[[Exception], Explanation | None]] = {
    "bucketline": _of_ours,
    "pydantic_core": _of_a_value,
    "pydantic_settings": _of_json,
    "pymongo": _of_mongodb,
    "aiokafka": _of_kafka,
    "aiohttp": _of_http,
}
"""By the package that an error comes from. An error of the services' own packages is one of ``bucketline``'s."""


def _settings(error: "ValidationError") -> Iterator[str]:
    """A row for each variable that is off: its name, what it is unless that is secret, and what it may be."""
    block = next((block for block in _blocks() if block.__name__ == error.title), None)
    if block is None:
        return
    for fault in error.errors(include_url=False, include_context=False):
        reason = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:
            yield reason
            continue
        field = str(fault["loc"][0])
        # What is inside of a list or of JSON may be anything, a secret too.
        shown = len(fault["loc"]) == 1 and not _secret(block, field) and isinstance(fault["input"], str)
        yield f"{variable(block, field)}{'=' + fault['input'] if shown else ''} will not do: {reason}"


def variable(block: "type[SettingsBase]", field: str) -> str:
    """The variable that sets a field."""
    return f"{block.model_config.get('env_prefix', '')}{field}".upper()


def _secret(block: "type[SettingsBase]", field: str) -> bool:
    info: Any = block.model_fields.get(field)
    return info is None or "Secret" in str(info.annotation)


def _blocks() -> "Iterator[type[SettingsBase]]":
    from bucketline.settings import SettingsBase

    waiting: list[type[SettingsBase]] = SettingsBase.__subclasses__()
    while waiting:
        block = waiting.pop()
        waiting += block.__subclasses__()
        yield block
