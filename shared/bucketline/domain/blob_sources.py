"""Where the bytes of a blob come from: what a producer may send as ``data``, and how it is kept.

A :data:`CollectionSource` is a frozen value. ``to_document`` gives a dict for MongoDB whose ``kind`` names the shape;
:func:`from_document` is its inverse. Opening a source is the business of ``dedup``.

Reading rules (section 1.2 of the contract), in this order:

1. An object with exactly one of ``url``, ``base64`` or, for type text, ``text`` says what it is.
   Its other keys are free-form data: see :func:`free_form`.
2. Any other object is a set of properties without a stored file.
3. A string of a *file* type that is a URL or a data URI (RFC 2397, with or without base64) names its bytes; any other
   string is the text itself for type text, and a mistake for the rest (a bare string is never taken for base64). For
   type text that is also a mistake where it is a URL but for blanks (see :func:`_is_broken_url`): the file would
   silently be replaced by its address.
4. Strings of a *metadata* type are values: a property that holds a link is not a download.
5. Numbers, booleans and arrays are JSON.
"""

import base64
import binascii
import math
import re
from urllib.parse import unquote, unquote_to_bytes

from pydantic import JsonValue

from bucketline.domain.blob_source_types import (
    Base64Source,
    DataUriSource,
    FileSource,
    InlineSource,
    JsonSource,
    PropertiesSource,
    S3Source,
    Source,
    StagedSource,
    TextSource,
    UploadSource,
    UrlSource,
    declared_type,
    from_document,
)

__all__ = [
    "FILE_TYPES", "MAX_INLINE_BYTES", "MAX_URL_LENGTH", "Base64Source", "DataUriSource", "FileSource",
    "InlineSource", "InvalidData", "JsonSource", "PropertiesSource", "S3Source", "Source", "StagedSource",
    "TextSource", "UploadSource", "UrlSource", "declared_type", "free_form", "from_document", "parse_data",
]  # fmt: skip

FILE_TYPES = frozenset({"text", "image", "audio", "video", "pdf", "excel"})
MAX_URL_LENGTH = 4096
MAX_URL_BLANKS = 10
"""Blanks in what is still taken for a mistyped URL and not for a sentence."""
MAX_INLINE_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 64


class InvalidData(ValueError):
    """``data`` cannot be accepted; ``reason`` is for the producer and says what to send instead."""

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
    """The source that ``data`` of a blob of ``type`` means.

    Raises :class:`InvalidData`. Inline content is complete and within ``max_inline_bytes`` (after decoding);
    what is behind a URL has not been looked at.
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
                "a URL cannot hold blanks or line breaks: write a blank as %20 and send nothing around the URL, "
                'or send text that begins with a URL as {"text": "…"}'
            )
        if text_type and _hides_text(data):
            raise InvalidData('text looks base64 encoded; send the text itself, or bytes as {"base64": "…"}')
        return _text(data, max_inline_bytes)
    if data is None:
        raise InvalidData("data is null")
    _check_storable(data)
    return JsonSource(data)


def free_form(type: str, data: JsonValue) -> dict[str, JsonValue]:  # noqa: A002
    """The keys of ``data`` that :func:`parse_data` leaves over: they belong to the blob's properties."""
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
        raise InvalidData("url must start with http://, https:// or s3:// and hold no spaces")
    return source


def _known_key(data: dict[str, JsonValue], text_type: bool) -> str | None:
    present = [key for key in ("url", "base64", "text") if key in data and (key != "text" or text_type)]
    if len(present) > 1:
        raise InvalidData(f"data has {' and '.join(present)}; send one of them")
    return present[0] if present else None


def _from_reference(value: str, text_type: bool, allow_file: bool, limit: int) -> Source | None:
    """The source that a URL or data URI names; None when ``value`` is neither."""
    if uri := _DATA_URI.match(value):
        return _from_data_uri(uri, value[uri.end() :], text_type, limit)
    if not (url := _URL.fullmatch(value)):
        return None
    if _CONTROL.search(value):
        raise InvalidData("a URL cannot hold control characters")
    if len(value) > MAX_URL_LENGTH:
        raise InvalidData(f"a URL may have at most {MAX_URL_LENGTH} characters")
    scheme, rest = url["scheme"].lower(), url["rest"]
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
        if not bucket or not key:
            raise InvalidData("an s3 URL names a bucket and a key: s3://bucket/key")
        return S3Source(f"s3://{rest}")
    if scheme == "file":
        path = unquote(rest.removeprefix("localhost"))
        if not allow_file:
            raise InvalidData("file:// sources are not allowed here")
        if not path.startswith("/") or "\0" in path:
            raise InvalidData("a file URL names an absolute path: file:///path")
        return FileSource(path)
    return UrlSource(value)


def _from_data_uri(uri: re.Match[str], data: str, text_type: bool, limit: int) -> DataUriSource:
    """Decode a data URI as browsers do, except that ``#`` begins no fragment: producers do not always escape it.

    The media type keeps its parameters: the charset is needed to read the bytes.
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
    """``value`` without line breaks, after it decoded: standard alphabet, padded, not empty, not too long."""
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
    """Is it a URL with white space around or in it, rather than text that begins with a URL?

    In it: the last of a few words ends like a URL, or the first stops in the middle of a path. A word that is a
    complete URL itself, and a longer sentence, make it text.
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
    """Does it look like base64 *and* decode to readable text?

    A word such as "Password" is in the alphabet too, so short strings count only with their padding, and
    both letter cases must occur (hex digests have one). For 16 random letters the odds are below 1 in 100,000.
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
    """Refuse what MongoDB could not keep as it was sent."""
    if depth > MAX_DEPTH:
        raise InvalidData(f"data is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                raise InvalidData("a key holds a NUL character")
            _check_storable(key, depth + 1)
            _check_storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)
    elif isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise InvalidData("a string is not valid Unicode")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidData("a number is not finite")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidData("a number has more than 64 bits")


_URL = re.compile(r"(?P<scheme>https?|s3|file)://(?P<rest>\S+)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}(?:[?#]\S*)?\Z")
# bounded and without overlapping repeats: producers choose the string, and it may be megabytes long
_DATA_URI = re.compile(
    r"data:(?P<media_type>(?:[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127})?)"
    r"(?P<parameters>(?:; {0,4}(?:base64(?=[;,])|[^,;=\s]{1,127}=[^,;\s]{0,255})){0,16}),",
    re.IGNORECASE,
)
# codecs of Python that are no character sets of documents; the first two take quadratic time
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape"})
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
