"""What went wrong, for whoever typed the command: one line that names the cause, and what to look at."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

    from bucketline.settings import Block

_DOCTOR = "[cyan]bucketline doctor[/] says what is reachable."
_BOOTSTRAP = f"Are BUCKETLINE_KAFKA_BOOTSTRAP, SECURITY_PROTOCOL and SASL_* right? {_DOCTOR}"


@dataclass(frozen=True)
class Explanation:
    """``advice`` may have markup; ``message`` has none."""

    message: str
    advice: str | None = None


def explanation(error: Exception) -> Explanation | None:
    """Of an error that a setting, an argument or a store that is away may cause; None for a fault of our own.

    Nothing secret is in it. Clients are imported here, and not before something went wrong.
    """
    from aiohttp import ClientError
    from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, RequestTimedOutError
    from pydantic import ValidationError
    from pydantic_settings import SettingsError
    from pymongo.errors import OperationFailure, PyMongoError

    from bucketline.errors import BucketlineError, StoreUnavailable, Transient

    match error:
        case BucketlineError():
            away = isinstance(error, StoreUnavailable | Transient)
            return Explanation(error.message, _DOCTOR if away else None)
        case ValidationError():
            rows = list(_settings(error))
            return Explanation("\n".join(rows)) if rows else None
        case SettingsError():
            field = re.search(r'field "(\w+)"', str(error))
            names = [variable(block, field[1]) for block in _blocks() if field and field[1] in block.model_fields]
            return Explanation(f"{' or '.join(names)} is not JSON") if names else None
        case OperationFailure():
            # The rest of the driver's text is the server's whole answer.
            told = str(error).partition(", full error")[0]
            return Explanation(f"MongoDB refuses: {told}", "Are user and password right, and what the user may do?")
        case PyMongoError():
            return Explanation(f"MongoDB does not answer: {type(error).__name__}", _DOCTOR)
        case KafkaConnectionError() | KafkaTimeoutError() | RequestTimedOutError():
            return Explanation(f"Kafka does not answer: {error}", _BOOTSTRAP)
        case KafkaError():
            return Explanation(f"Kafka refuses: {error}", _BOOTSTRAP)
        case ClientError():
            return Explanation(f"no answer that makes sense: {type(error).__name__}: {error}")
        case BrokenPipeError():  # whoever reads our output has seen enough; click ends quietly
            return None
        case OSError():
            return Explanation(str(error))
    return None


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


def variable(block: "type[Block]", field: str) -> str:
    """The variable that sets a field."""
    return f"{block.model_config.get('env_prefix', '')}{field}".upper()


def _secret(block: "type[Block]", field: str) -> bool:
    info: Any = block.model_fields.get(field)
    return info is None or "Secret" in str(info.annotation)


def _blocks() -> "Iterator[type[Block]]":
    from bucketline.settings import Block

    waiting: list[type[Block]] = Block.__subclasses__()
    while waiting:
        block = waiting.pop()
        waiting += block.__subclasses__()
        yield block
