"""Where the bytes of a blob come from: what a client may send as ``data``, and how MongoDB stores it.

A :data:`Source` is a frozen value. ``to_document`` returns a dict for MongoDB whose ``kind`` names the class;
:func:`from_document` is its inverse. Opening a source is the task of dedup.

``data`` is read by these rules (contract, section 1.2), in this order:

1. An object with exactly one of ``url``, ``base64`` or, for type text, ``text`` is that source. Its other keys are
   free-form data: see :func:`free_form`.
2. Any other object is a set of properties without a stored file.
3. A string of a *file* type that is a URL or a data URI (RFC 2397, with or without base64) refers to its bytes. Any
   other string is the text itself for type text, and an error for the other types (a bare string is never read as
   base64). For type text a URL with white space in or around it is an error too (see :func:`_is_broken_url`): otherwise
   the address would silently replace the file.
4. Strings of a *metadata* type are values: a property that holds a link is not downloaded.
5. Numbers, booleans and arrays are JSON.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal
from urllib.parse import unquote, unquote_to_bytes

from pydantic import JsonValue

from bucketline.domain.schema import FILE_TYPES

MAX_URL_LENGTH = 4096
MAX_URL_BLANKS = 10
"""Blanks in text that may still be a mistyped URL and not a sentence."""
MAX_INLINE_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 64

SourceKind = Literal["text", "json", "data_uri", "base64", "url", "s3", "file", "upload", "staged", "properties"]


@dataclass(frozen=True, slots=True)
class _StoredSource:
    """Base of all sources."""

    kind: ClassVar[SourceKind]

    def to_document(self) -> dict[str, object]:
        """Return ``kind`` and every field that is set."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": self.kind} | {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class TextSource(_StoredSource):
    """Inline text, stored as UTF-8."""

    kind = "text"
    text: str

    def content(self) -> bytes:
        """Return the bytes."""
        return self.text.encode()


@dataclass(frozen=True, slots=True)
class JsonSource(_StoredSource):
    """A JSON value that is the content itself. Equal values have equal bytes: sorted keys, no spaces."""

    kind = "json"
    value: JsonValue

    def content(self) -> bytes:
        """Return the bytes."""
        return json.dumps(self.value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class DataUriSource(_StoredSource):
    """The content of a data URI as valid base64. ``media_type`` keeps its parameters."""

    kind = "data_uri"
    media_type: str | None
    base64: str

    def content(self) -> bytes:
        """Return the bytes."""
        return base64.b64decode(self.base64)


@dataclass(frozen=True, slots=True)
class Base64Source(_StoredSource):
    """Valid base64; ``filename`` is as the client sent it and not yet safe to use."""

    kind = "base64"
    base64: str
    mime_type: str | None = None
    filename: str | None = None

    def content(self) -> bytes:
        """Return the bytes."""
        return base64.b64decode(self.base64)


@dataclass(frozen=True, slots=True)
class UrlSource(_StoredSource):
    """An http(s) URL. Whether it may be fetched has not been checked."""

    kind = "url"
    url: str


@dataclass(frozen=True, slots=True)
class S3Source(_StoredSource):
    """An ``s3://bucket/key`` URL, which is not percent-encoded: ``?`` and ``#`` belong to the key."""

    kind = "s3"
    url: str

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.url[len("s3://") :].partition("/")[0]

    @property
    def key(self) -> str:
        """The object's key."""
        return self.url[len("s3://") :].partition("/")[2]


@dataclass(frozen=True, slots=True)
class FileSource(_StoredSource):
    """An absolute path on the machine that runs dedup; only where the configuration allows it."""

    kind = "file"
    path: str


@dataclass(frozen=True, slots=True)
class UploadSource(_StoredSource):
    """A confirmed upload."""

    kind = "upload"
    upload_id: str


@dataclass(frozen=True, slots=True)
class StagedSource(_StoredSource):
    """Bytes that ingest-api staged under ``key`` in the deployment's own bucket."""

    kind = "staged"
    key: str


@dataclass(frozen=True, slots=True)
class PropertiesSource(_StoredSource):
    """Free-form data of the blob; there is no file to store."""

    kind = "properties"
    value: dict[str, JsonValue]


InlineSource = TextSource | JsonSource | DataUriSource | Base64Source
Source = InlineSource | UrlSource | S3Source | FileSource | UploadSource | StagedSource | PropertiesSource

_KINDS: dict[str, type[Source]] = {
    cls.kind: cls
    for cls in (
        TextSource, JsonSource, DataUriSource, Base64Source, UrlSource,
        S3Source, FileSource, UploadSource, StagedSource, PropertiesSource,
    )
}  # fmt: skip


def from_document(document: Mapping[str, object]) -> Source:
    """Return the source that ``to_document`` wrote. Unknown fields are ignored, so that releases can add some."""
    cls = _KINDS.get(str(document.get("kind")))
    if cls is None:
        raise ValueError(f"unknown kind of source: {document.get('kind')!r}")
    values = {f.name: document.get(f.name) for f in fields(cls)}
    return cls(**values)  # type: ignore[arg-type]  # the fields are those that to_document wrote


def declared_type(source: InlineSource) -> str | None:
    """Return the media type, with parameters, that inline content is declared with. Inline text is UTF-8."""
    match source:
        case TextSource():
            return "text/plain; charset=utf-8"
        case JsonSource():
            return "application/json"
        case DataUriSource():
            return source.media_type
        case Base64Source():
            return source.mime_type


def content_key(blobs: Iterable[tuple[str, str]]) -> str | None:
    """Return the fingerprint of an object's blobs in any order, None for an object without blobs.

    ``blobs`` has the ``(property, hash)`` of every blob, where ``hash`` is ``sha256:<hex>`` or the result of
    :func:`properties_hash`. ``skip_duplicates`` returns the older of two objects with one key. Both writers of objects
    use this function: ingest-api for the content of a request, dedup for content that it fetched.
    """
    rows = sorted(f"{name}\x00{digest}" for name, digest in blobs)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest() if rows else None


def properties_hash(properties: Mapping[str, object]) -> str:
    """Return the hash of a blob that is free-form data without bytes. It never equals the hash of bytes."""
    canonical = json.dumps(properties, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return f"properties:{hashlib.sha256(canonical.encode()).hexdigest()}"


class InvalidData(ValueError):
    """``data`` cannot be accepted; ``reason`` tells the client what to send instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse_data(
    type: str,  # noqa: A002  # the contract's own name
    data: JsonValue,
    *,
    allow_file: bool,
    max_inline_bytes: int = MAX_INLINE_BYTES,
) -> Source:
    """Return the source that ``data`` of a blob of ``type`` describes.

    Inline content is complete and within ``max_inline_bytes`` (after decoding); a URL is not accessed. Raises
    :class:`InvalidData`.
    """
    file_type = type.lower() in FILE_TYPES
    text_type = type.lower() == "text"
    if isinstance(data, dict):
        return _from_object(data, text_type, allow_file, max_inline_bytes)
    if isinstance(data, str):
        if file_type and (source := _from_reference(data, text_type, allow_file, max_inline_bytes)):
            return source
        if file_type and not text_type:
            raise InvalidData(
                'a string must be a URL or a data URI (data:<mime>[;base64],…); send bytes as {"base64": "…"}'
            )
        if text_type and _is_broken_url(data):
            raise InvalidData(
                "a URL cannot contain spaces or line breaks: write a space as %20 and send only the URL, "
                'or send text that starts with a URL as {"text": "…"}'
            )
        if text_type and _hides_text(data):
            raise InvalidData('text looks base64 encoded; send the text itself, or bytes as {"base64": "…"}')
        return _text(data, max_inline_bytes)
    if data is None:
        raise InvalidData("data is null")
    _check_storable(data)
    return JsonSource(data)


def free_form(type: str, data: JsonValue) -> dict[str, JsonValue]:  # noqa: A002
    """Return the keys of ``data`` that :func:`parse_data` does not use: they belong to the blob's properties."""
    if not isinstance(data, dict):
        return {}
    known = _known_key(data, type.lower() == "text")
    used = {known, "mime_type", "filename"} if known == "base64" else {known}
    return {key: value for key, value in data.items() if key not in used}


def _from_object(data: dict[str, JsonValue], text_type: bool, allow_file: bool, limit: int) -> Source:
    _check_storable(data)
    known = _known_key(data, text_type)
    if known is None:
        return PropertiesSource(data)
    value = data[known]
    if not isinstance(value, str):
        raise InvalidData(f"{known} must be a string")
    if known == "text":
        return _text(value, limit)
    if known == "base64":
        return Base64Source(
            _checked_base64(value, limit), _optional_string(data, "mime_type"), _optional_string(data, "filename")
        )
    source = _from_reference(value, text_type, allow_file, limit)
    if source is None:
        raise InvalidData("url must start with http://, https:// or s3:// and contain no spaces")
    return source


def _known_key(data: dict[str, JsonValue], text_type: bool) -> str | None:
    present = [key for key in ("url", "base64", "text") if key in data and (key != "text" or text_type)]
    if len(present) > 1:
        raise InvalidData(f"data has {' and '.join(present)}; send one of them")
    return present[0] if present else None


def _from_reference(value: str, text_type: bool, allow_file: bool, limit: int) -> Source | None:
    """Return the source that a URL or data URI refers to; None when ``value`` is neither."""
    if uri := _DATA_URI.match(value):
        return _from_data_uri(uri, value[uri.end() :], text_type, limit)
    if not (url := _URL.fullmatch(value)):
        return None
    if _CONTROL.search(value):
        raise InvalidData("a URL cannot contain control characters")
    if len(value) > MAX_URL_LENGTH:
        raise InvalidData(f"a URL may have at most {MAX_URL_LENGTH} characters")
    scheme, rest = url["scheme"].lower(), url["rest"]
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
        if not bucket or not key:
            raise InvalidData("an s3 URL needs a bucket and a key: s3://bucket/key")
        return S3Source(f"s3://{rest}")
    if scheme == "file":
        path = unquote(rest.removeprefix("localhost"))
        if not allow_file:
            raise InvalidData("file:// sources are not allowed")
        if not path.startswith("/") or "\0" in path:
            raise InvalidData("a file URL needs an absolute path: file:///path")
        return FileSource(path)
    return UrlSource(value)


def _from_data_uri(uri: re.Match[str], data: str, text_type: bool, limit: int) -> DataUriSource:
    """Decode a data URI as browsers do, except that ``#`` starts no fragment: clients do not always escape it.

    The media type keeps its parameters, because the charset is needed to read the bytes.
    """
    media_type = uri["media_type"].lower() or ("text/plain" if text_type else None)
    parameters = [parameter.strip() for parameter in uri["parameters"].split(";")]
    try:
        if any(parameter.lower() == "base64" for parameter in parameters):
            content = base64.b64decode(_checked_base64(unquote(data), limit))
        else:
            content = unquote_to_bytes(data)
    except UnicodeEncodeError:
        raise InvalidData("the data URI is not valid Unicode") from None
    if not content and not text_type:
        raise InvalidData("the data URI is empty")
    if len(content) > limit:
        raise InvalidData(f"inline data may have at most {limit} bytes; use an upload")
    if media_type is not None:
        media_type = ";".join([media_type, *(parameter for parameter in parameters if "=" in parameter)])
    return DataUriSource(media_type, base64.b64encode(content).decode())


def _text(value: str, limit: int) -> TextSource:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidData("text is not valid Unicode") from None
    if size > limit:
        raise InvalidData(f"inline text may have at most {limit} bytes; use an upload")
    return TextSource(value)


def _checked_base64(value: str, limit: int) -> str:
    """Return ``value`` without white space if it is valid: standard alphabet, padded, not empty, not too long."""
    compact = "".join(value.split())
    if len(compact) // 4 * 3 - 2 > limit:
        raise InvalidData(f"inline data may have at most {limit} bytes; use an upload")
    try:
        size = len(base64.b64decode(compact, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidData("base64 is malformed (standard alphabet with padding is expected)") from None
    if size == 0:
        raise InvalidData("base64 is empty")
    if size > limit:
        raise InvalidData(f"inline data may have at most {limit} bytes; use an upload")
    return compact


def _is_broken_url(value: str) -> bool:
    """Return whether ``value`` is a URL with white space around or in it, rather than text that starts with a URL.

    It is one if the last of a few words ends like a URL, or the first stops in the middle of a path. A second complete
    URL, and a longer sentence, make it text.
    """
    if not 0 < len(value) <= MAX_URL_LENGTH + MAX_URL_BLANKS or not _URL.match(value.lstrip()):
        return False
    first, *words = value.split()
    if not words:
        return value != first
    if len(words) > MAX_URL_BLANKS or any("://" in word for word in words):
        return False
    if _EXTENSION.search(words[-1]) or any(c in "/=&?" for c in words[-1]):
        return True
    _, _, path = first.partition("://")[2].partition("/")
    return len(words) <= 2 and bool(path) and not _EXTENSION.search(first)


def _hides_text(value: str) -> bool:
    """Return whether ``value`` looks like base64 *and* decodes to readable text.

    A word such as "Password" is in the alphabet too, so short strings count only with padding, and both letter cases
    must occur (hex digests have one). For 16 random letters the probability is below 1 in 100,000.
    """
    if not _BASE64.fullmatch(value) or len(value) % 4 or len(value) < (8 if value.endswith("=") else 16):
        return False
    if value.islower() or value.isupper():
        return False
    try:
        text = base64.b64decode(value, validate=True).decode()
    except ValueError:
        return False
    return all(c.isprintable() or c in "\t\n\r" for c in text)


def _optional_string(data: dict[str, JsonValue], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidData(f"{key} must be a string")
    return value or None


def _check_storable(value: JsonValue, depth: int = 0) -> None:
    """Refuse a value that MongoDB could not store unchanged."""
    if depth > MAX_DEPTH:
        raise InvalidData(f"data is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                raise InvalidData("a key contains a NUL character")
            _check_storable(key, depth + 1)
            _check_storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidData("a string is not valid Unicode") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidData("a number is not finite")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidData("a number has more than 64 bits")


_URL = re.compile(r"(?P<scheme>https?|s3|file)://(?P<rest>\S+)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}(?:[?#]\S*)?\Z")
# Bounded and without overlapping repeats, because the client chooses the string and it may have megabytes.
_DATA_URI = re.compile(
    r"data:(?P<media_type>(?:[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127})?)"
    r"(?P<parameters>(?:; {0,4}(?:base64(?=[;,])|[^,;=\s]{1,127}=[^,;\s]{0,255})){0,16}),",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
