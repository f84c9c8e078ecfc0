"""Reads objects from S3, resuming on the same content where a connection broke."""

from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from tenacity.wait import wait_base

from bucketline.blobs.s3_errors import ConditionFailed, ObjectChanged, map_driver_errors, retrying, s3_request
from bucketline.blobs.store import ByteRange, Content, ContentTooLarge, ObjectInfo
from bucketline.errors import DependencyUnavailable

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

CHUNK_BYTES = 256 * 1024


class ObjectBody:
    """The bytes of one object; continues on the same content (``If-Match``) where a connection broke."""

    def __init__(
        self, client: "S3Client", bucket: str, key: str, *, retry_wait: wait_base, external: bool = False
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._external = external
        self._retry_wait = retry_wait
        self._stream: Any = None

    @asynccontextmanager
    async def opened(self, *, limit: int, byte_range: ByteRange | None = None) -> AsyncIterator[Content]:
        """Send the first request; :class:`ContentTooLarge` if more than ``limit`` bytes would come."""
        options = {} if byte_range is None else {"Range": f"bytes={byte_range[0]}-{byte_range[1]}"}
        try:
            response = await self._get(options)
            length, first, size = response["ContentLength"], 0, response["ContentLength"]
            if "ContentRange" in response:
                bounds, _, total = response["ContentRange"].removeprefix("bytes ").partition("/")
                first, size = int(bounds.partition("-")[0]), int(total)
            if length > limit:
                raise ContentTooLarge(limit)
            info = object_info(response, size)
            async with aclosing(self._chunks(first, first + length, info.etag)) as chunks:
                yield Content(info, chunks)
        finally:
            self._close()

    async def _chunks(self, position: int, end: int, etag: str) -> AsyncGenerator[bytes, None]:
        while position < end:
            async for attempt in retrying(self._retry_wait, DependencyUnavailable):
                with attempt:
                    chunk = await self._read(position, end, etag)
            position += len(chunk)
            yield chunk

    async def _read(self, position: int, end: int, etag: str) -> bytes:
        try:
            if self._stream is None:
                await self._get({"Range": f"bytes={position}-{end - 1}", "IfMatch": f'"{etag}"'})
            with map_driver_errors():
                chunk = await self._stream.read(min(CHUNK_BYTES, end - position))
            if not chunk:
                raise DependencyUnavailable("S3 ended the content early")
        except ConditionFailed as error:
            raise ObjectChanged("the object changed while it was read") from error
        except DependencyUnavailable:
            self._close()
            raise
        return cast("bytes", chunk)

    async def _get(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        with s3_request("GetObject", self._bucket, self._key, external=self._external):
            response = await self._client.get_object(Bucket=self._bucket, Key=self._key, **options)
        self._stream = response["Body"]
        return cast("Mapping[str, Any]", response)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def object_info(response: Mapping[str, Any], size: int) -> ObjectInfo:
    """Return the description of an object in a response."""
    return ObjectInfo(
        size=size,
        etag=str(response["ETag"]).strip('"'),
        sha256=_whole_checksum(response.get("ChecksumSHA256"), response.get("ChecksumType")),
        content_type=response.get("ContentType"),
        last_modified=response["LastModified"],
    )


def _whole_checksum(encoded: str | None, kind: str | None) -> str | None:
    """Return the hex of a checksum over the whole content; None for a checksum of part checksums (``…-<parts>``)."""
    if encoded is None or kind == "COMPOSITE" or "-" in encoded:
        return None
    return b64decode(encoded).hex()
