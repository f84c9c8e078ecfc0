"""``http_extractor``: a model server of the operator returns the documents."""

import asyncio
import hashlib
import hmac
import math
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

import orjson

from bucketline.extractors import (
    BlobView,
    Document,
    ExtractionContext,
    ExtractionError,
    ExtractorInfo,
    ObjectView,
    OutboundPolicy,
    PermanentError,
    ResourceError,
    TransientError,
    selected_blobs,
)
from bucketline_processor.extractors.values import json_value

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from tenacity import RetryCallState

RETRIED_STATUSES = {408, 425, 429, *range(500, 600)}
MAX_WAIT = 10.0
MAX_DOCUMENTS = 10_000
SHOWN_ANSWER_CHARS = 200
HEADER = "X-Bucketline-Signature"

_PORTS = {"http": 80, "https": 443}


class HttpExtractor:
    """Posts the object with presigned URLs of its blobs and expects ``{"documents": [{…}, …]}``.

    The body is ``{"object", "inputs", "blobs", "options"}``, signed with the deployment's secret if there is
    one (:func:`sign`). Timeouts, refused connections and the statuses 408, 425, 429
    and 5xx are tried again within ``attempts``, then the error is transient; any other answer than 2xx is
    permanent. The endpoint must be one that the operator allows; redirects are not followed.
    """

    info = ExtractorInfo(
        name="http_extractor",
        version="v1",
        description="Sends the object and presigned URLs of its blobs to your own model server.",
        accepts=("*",),
        cpu_bound=False,
        parameters_schema={
            "type": "object",
            "properties": {
                "endpoint": {"type": "string", "minLength": 8, "maxLength": 2000, "pattern": "^https?://"},
                "timeout": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 600,
                    "default": 30,
                    "description": "Seconds for one attempt, and no more than the deployment allows.",
                },
                "attempts": {"type": "integer", "minimum": 1, "maximum": 5, "default": 3},
                "options": {"type": "object", "default": {}, "description": "Sent along as it is."},
            },
            "required": ["endpoint"],
            "additionalProperties": False,
        },
    )

    def __init__(self, clock: Callable[[], float] = time.time, first_wait: float = 0.5) -> None:
        self._clock = clock
        self._first_wait = first_wait

    async def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        """Yield the documents that the model server returns."""
        endpoint = context.parameter("endpoint", str)
        if not endpoint_allowed(endpoint, context.outbound.allowed_endpoints):
            raise PermanentError("the collection's endpoint is not among those that this deployment allows")
        body = orjson.dumps(await _request(self.info, obj, context))
        answer = await self._post(endpoint, body, context)
        for fields in _documents(answer):
            yield Document(fields)

    async def _post(self, endpoint: str, body: bytes, context: ExtractionContext) -> bytes:
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        retrying = AsyncRetrying(
            stop=stop_after_attempt(context.parameter("attempts", int)),
            retry=retry_if_exception_type(TransientError),
            wait=self._wait,
            reraise=True,
        )
        asked = context.parameters["timeout"]
        seconds = min(float(asked) if isinstance(asked, int | float) else math.inf, context.outbound.timeout)
        async for attempt in retrying:
            with attempt:
                return await self._attempt(endpoint, body, context.outbound, seconds)
        raise AssertionError("unreachable: tenacity raises after the last attempt")

    async def _attempt(self, endpoint: str, body: bytes, policy: OutboundPolicy, seconds: float) -> bytes:
        import aiohttp

        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if policy.signing_secret:
            headers[HEADER] = sign(policy.signing_secret, body, self._clock())
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds), trust_env=False) as session,
                session.post(endpoint, data=body, headers=headers, allow_redirects=False) as response,
            ):
                answer = await _bounded(response, policy.max_response_bytes)
                if 200 <= response.status < 300:
                    return answer
                raise _refusal(response.status, response.headers, answer)
        except TimeoutError as error:
            raise TransientError(f"the model server did not answer within {seconds:g} seconds") from error
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise PermanentError("the model server's certificate is not valid") from error
        except aiohttp.InvalidURL as error:
            raise PermanentError("the collection's endpoint is not a valid URL") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError("the model server could not be reached") from error

    def _wait(self, state: "RetryCallState") -> float:
        """Return the seconds to wait: what the server asks for, else exponential backoff with jitter; at most 10."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.seconds if isinstance(error, _RetryAfter) else 0.0
        backoff: float = self._first_wait * 2 ** (state.attempt_number - 1)
        return min(MAX_WAIT, max(asked, backoff * random.uniform(0.5, 1.0)))  # noqa: S311  no secret


class _RetryAfter(TransientError):
    """A transient response with the seconds that the server asked to wait."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


def _refusal(status: int, headers: Mapping[str, str], answer: bytes) -> ExtractionError:
    if status in RETRIED_STATUSES:
        asked = headers.get("Retry-After", "")
        return _RetryAfter(f"the model server answered {status}", float(asked) if asked.isdecimal() else 0.0)
    said = " ".join(answer[: 4 * SHOWN_ANSWER_CHARS].decode("utf-8", "replace").split())[:SHOWN_ANSWER_CHARS]
    return PermanentError(f"the model server answered {status}" + (f": {said}" if said else ""))


async def _bounded(response: "ClientResponse", limit: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        content += chunk
        if len(content) > limit:
            raise ResourceError(f"the model server's answer is larger than {limit} bytes")
    return bytes(content)


async def _request(info: ExtractorInfo, obj: ObjectView, context: ExtractionContext) -> dict[str, object]:
    mapped = {name: value for name, value in context.inputs.items() if not _holds_blobs(value)}
    files = {name: value for name, value in context.inputs.items() if _holds_blobs(value)}
    everything = not files
    chosen = obj.blobs if everything else selected_blobs(info, obj, ExtractionContext(inputs=files))
    return {
        "object": {
            "object_id": obj.object_id,
            "bucket_id": obj.bucket_id,
            "namespace_id": obj.namespace_id,
            "key_prefix": obj.key_prefix,
            "fields": json_value(obj.fields),
        },
        "inputs": json_value(mapped),
        "blobs": list(await asyncio.gather(*(_blob(blob) for blob in chosen))),
        "options": context.parameters.get("options", {}),
    }


def _holds_blobs(value: object) -> bool:
    return isinstance(value, BlobView) or (
        isinstance(value, list | tuple) and any(isinstance(item, BlobView) for item in value)
    )


async def _blob(blob: BlobView) -> dict[str, object]:
    return {
        "blob_id": blob.blob_id,
        "property": blob.property,
        "type": blob.type,
        "filename": blob.filename,
        "mime_type": blob.mime_type,
        "size_bytes": blob.size_bytes,
        "sha256": blob.sha256,
        "metadata": json_value(blob.metadata),
        "url": await blob.presigned_url(),
    }


def _documents(answer: bytes) -> list[dict[str, object]]:
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise PermanentError("the model server's answer is not JSON") from error
    documents = body.get("documents") if isinstance(body, dict) else None
    if not isinstance(documents, list) or not all(isinstance(fields, dict) for fields in documents):
        raise PermanentError('the model server\'s answer must be {"documents": [{…}, …]}')
    if len(documents) > MAX_DOCUMENTS:
        raise ResourceError(f"the model server made {len(documents)} documents; {MAX_DOCUMENTS} are allowed")
    return documents


def sign(secret: str, body: bytes, now: float) -> str:
    """Return the value of the signature header: ``t=<unix seconds>,v1=<hex>``.

    The hex digits are the HMAC-SHA256 of ``<t>.`` followed by the raw body.
    """
    moment = str(int(now))
    digest = hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def endpoint_allowed(url: str, allowed: Sequence[str]) -> bool:
    """Return whether one of the operator's prefixes covers ``url``; performs no I/O.

    Scheme, host and port must be equal; the path must be the prefix's or below it, at a ``/``. A URL with a
    user, with dots or escaped slashes that would leave the prefix, or without a plain host is never allowed.
    """
    target = _parts(url)
    if target is None:
        return False
    return any(_covers(prefix, target) for text in allowed if (prefix := _parts(text)) is not None)


def _parts(url: str) -> SplitResult | None:
    if any(ord(letter) <= 32 or letter == "\\" for letter in url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    plain = parts.scheme in _PORTS and parts.hostname and parts.username is None and parts.password is None
    path = unquote(parts.path)
    climbs = ".." in path.split("/") or "%" in path or path.count("/") != parts.path.count("/") or "\\" in path
    return parts if plain and not climbs else None


def _covers(prefix: SplitResult, target: SplitResult) -> bool:
    if _origin(prefix) != _origin(target):
        return False
    base = prefix.path.rstrip("/")
    return target.path == prefix.path or target.path == base or target.path.startswith(base + "/")


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
