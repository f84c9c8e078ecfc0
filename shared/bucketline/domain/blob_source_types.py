"""The ten shapes of a source, and how MongoDB keeps them. Reading them from a request: ``source.py``."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from pydantic import JsonValue

SourceKind = Literal["text", "json", "data_uri", "base64", "url", "s3", "file", "upload", "staged", "properties"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the ten shapes have in common."""

    kind: ClassVar[SourceKind]

    def to_document(self) -> dict[str, object]:
        """``kind`` and every field that is set."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": self.kind} | {name: value for name, value in held.items() if value is not None}


@dataclass(frozen=True, slots=True)
class TextSource(_Kept):
    kind = "text"
    text: str

    def content(self) -> bytes:
        return self.text.encode()


@dataclass(frozen=True, slots=True)
class JsonSource(_Kept):
    """A JSON value that is content by itself. Equal values have equal bytes: keys sorted, no spaces."""

    kind = "json"
    value: JsonValue

    def content(self) -> bytes:
        return json.dumps(self.value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class DataUriSource(_Kept):
    """``base64`` has been decoded once, strictly, so ``content`` cannot fail. ``media_type`` keeps its parameters."""

    kind = "data_uri"
    media_type: str | None
    base64: str

    def content(self) -> bytes:
        return base64.b64decode(self.base64)


@dataclass(frozen=True, slots=True)
class Base64Source(_Kept):
    """As :class:`DataUriSource`; ``filename`` is as the producer wrote it, not yet safe to use."""

    kind = "base64"
    base64: str
    mime_type: str | None = None
    filename: str | None = None

    def content(self) -> bytes:
        return base64.b64decode(self.base64)


@dataclass(frozen=True, slots=True)
class UrlSource(_Kept):
    """http(s). Nothing has been decided yet about whether it may be fetched."""

    kind = "url"
    url: str


@dataclass(frozen=True, slots=True)
class S3Source(_Kept):
    kind = "s3"
    url: str

    @property
    def bucket(self) -> str:
        return self.url[len("s3://") :].partition("/")[0]

    @property
    def key(self) -> str:
        """As S3 knows it: an ``s3://`` URL is not percent-encoded, and ``?`` or ``#`` belong to the key."""
        return self.url[len("s3://") :].partition("/")[2]


@dataclass(frozen=True, slots=True)
class FileSource(_Kept):
    """An absolute path on the machine that runs dedup; only where the configuration allows it."""

    kind = "file"
    path: str


@dataclass(frozen=True, slots=True)
class UploadSource(_Kept):
    kind = "upload"
    upload_id: str


@dataclass(frozen=True, slots=True)
class StagedSource(_Kept):
    """Bytes that wait under ``key`` in our own bucket."""

    kind = "staged"
    key: str


@dataclass(frozen=True, slots=True)
class PropertiesSource(_Kept):
    """Free-form data of the blob; there is no file to store."""

    kind = "properties"
    value: dict[str, JsonValue]


InlineSource = TextSource | JsonSource | DataUriSource | Base64Source
Source = InlineSource | UrlSource | S3Source | FileSource | UploadSource | StagedSource | PropertiesSource


def declared_type(source: InlineSource) -> str | None:
    """Return the media type, with parameters, that inline content is declared with. Text is ours: UTF-8."""
    match source:
        case TextSource():
            return "text/plain; charset=utf-8"
        case JsonSource():
            return "application/json"
        case DataUriSource():
            return source.media_type
        case Base64Source():
            return source.mime_type


_KINDS: dict[str, type[Source]] = {
    cls.kind: cls
    for cls in (
        TextSource, JsonSource, DataUriSource, Base64Source, UrlSource,
        S3Source, FileSource, UploadSource, StagedSource, PropertiesSource,
    )
}  # fmt: skip


def from_document(document: Mapping[str, object]) -> Source:
    """The source that ``to_document`` wrote. Unknown fields are ignored, so older readers survive new ones."""
    cls = _KINDS.get(str(document.get("kind")))
    if cls is None:
        raise ValueError(f"unknown kind of source: {document.get('kind')!r}")
    # a field that was None was left out
    held = {f.name: document.get(f.name) for f in fields(cls)}
    return cls(**held)  # type: ignore[arg-type]  # the fields are those that to_document wrote
