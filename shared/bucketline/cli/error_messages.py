"""Messages for errors that a user can do something about: one line that names the cause, and advice."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

    from bucketline.settings import SettingsBase

_DOCTOR = "[cyan]bucketline doctor[/] shows which dependencies can be reached."
_KAFKA_ADVICE = (
    "Check BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS, BUCKETLINE_KAFKA_SECURITY_PROTOCOL and "
    f"BUCKETLINE_KAFKA_SASL_*. {_DOCTOR}"
)


@dataclass(frozen=True)
class Explanation:
    """An error message and advice. Only ``advice`` may have markup."""

    message: str
    advice: str | None = None


def explain(error: Exception) -> Explanation | None:
    """Explain an error caused by a setting, an argument or an unreachable dependency; return None for a bug.

    The explanation contains no secrets. Only the library that raised the error is imported, which it was before.
    """
    for package, explain_error in _EXPLAINERS.items():
        if any(cls.__module__.partition(".")[0] == package for cls in type(error).__mro__):
            explanation = explain_error(error)
            if explanation is not None:
                return explanation
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # click handles a closed pipe
        return Explanation(str(error))
    return None


def _explain_own(error: Exception) -> Explanation | None:
    from bucketline.errors import BucketlineError, DependencyUnavailable, RetryableError

    if not isinstance(error, BucketlineError):
        return None
    return Explanation(error.message, _DOCTOR if isinstance(error, DependencyUnavailable | RetryableError) else None)


def _explain_validation(error: Exception) -> Explanation | None:
    from pydantic import ValidationError

    lines = list(_describe_settings(error)) if isinstance(error, ValidationError) else []
    return Explanation("\n".join(lines)) if lines else None


def _explain_json(error: Exception) -> Explanation | None:
    field = re.search(r'field "(\w+)"', str(error))
    names = [_variable(block, field[1]) for block in _settings() if field and field[1] in block.model_fields]
    return Explanation(f"{' or '.join(names)} is not valid JSON") if names else None


def _explain_mongodb(error: Exception) -> Explanation | None:
    from pymongo.errors import OperationFailure, PyMongoError

    if isinstance(error, OperationFailure):
        # The rest of the driver's text is the whole response of the server.
        reason = str(error).partition(", full error")[0]
        return Explanation(f"MongoDB refused: {reason}", "Check the user, the password and the user's roles.")
    if isinstance(error, PyMongoError):
        return Explanation(f"MongoDB did not answer: {type(error).__name__}", _DOCTOR)
    return None


def _explain_kafka(error: Exception) -> Explanation | None:
    from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, RequestTimedOutError

    if isinstance(error, KafkaConnectionError | KafkaTimeoutError | RequestTimedOutError):
        return Explanation(f"Kafka did not answer: {error}", _KAFKA_ADVICE)
    return Explanation(f"Kafka refused: {error}", _KAFKA_ADVICE) if isinstance(error, KafkaError) else None


def _explain_http(error: Exception) -> Explanation | None:
    from aiohttp import ClientError

    return (
        Explanation(f"HTTP request failed: {type(error).__name__}: {error}") if isinstance(error, ClientError) else None
    )


_EXPLAINERS: Mapping[str, Callable[[Exception], Explanation | None]] = {
    "bucketline": _explain_own,
    "pydantic_core": _explain_validation,
    "pydantic_settings": _explain_json,
    "pymongo": _explain_mongodb,
    "aiokafka": _explain_kafka,
    "aiohttp": _explain_http,
}
"""By the package that defines the error class or one of its base classes."""


def _describe_settings(error: "ValidationError") -> Iterator[str]:
    """Yield one line per invalid variable: its name, its value unless it is secret, and what is allowed."""
    block = next((block for block in _settings() if block.__name__ == error.title), None)
    if block is None:
        return
    for details in error.errors(include_url=False, include_context=False):
        reason = details["msg"].removeprefix("Value error, ")
        if not details["loc"]:
            yield reason
            continue
        field = str(details["loc"][0])
        # A value inside of a list or of JSON may be a secret.
        is_shown = len(details["loc"]) == 1 and not _is_secret(block, field) and isinstance(details["input"], str)
        yield f"invalid {_variable(block, field)}{'=' + details['input'] if is_shown else ''}: {reason}"


def _variable(block: "type[SettingsBase]", field: str) -> str:
    return f"{block.model_config.get('env_prefix', '')}{field}".upper()


def _is_secret(block: "type[SettingsBase]", field: str) -> bool:
    info: Any = block.model_fields.get(field)
    return info is None or "Secret" in str(info.annotation)


def _settings() -> "Iterator[type[SettingsBase]]":
    from bucketline.settings import SettingsBase

    remaining: list[type[SettingsBase]] = SettingsBase.__subclasses__()
    while remaining:
        block = remaining.pop()
        remaining += block.__subclasses__()
        yield block
