"""What is left behind when S3 is away in the middle is named in the log, so that somebody can look for it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from bucketline.blobs.s3_errors import Backoff
from bucketline.blobs.s3_multipart import ServerSideCopy, StreamedUpload
from bucketline.blobs.store import ObjectInfo, ObjectMissing
from bucketline.errors import DependencyUnavailable


class Away:
    """S3 that begins an upload and is then away."""

    async def start_multipart(self, _: str, **__: Any) -> str:
        return "upload_1"

    async def head(self, key: str) -> ObjectInfo:
        if key == "source":
            return ObjectInfo(100, "e", None, "x", datetime(2026, 3, 1, tzinfo=UTC))
        raise ObjectMissing(key)

    def __getattr__(self, name: str) -> Any:
        async def away(*_: Any, **__: Any) -> Any:
            raise DependencyUnavailable("away")

        return away


@pytest.fixture
def copier() -> ServerSideCopy:
    calls: Any = Away()
    return ServerSideCopy(calls, Backoff(attempts=1, base=0, draw=lambda: 1.0), at_once=1, part_size=50)


async def test_an_upload_that_could_not_be_cleaned_up(copier: ServerSideCopy) -> None:
    calls: Any = Away()
    upload = StreamedUpload(calls, copier, "staging/1", 4)
    await upload.write(b"0123456789")
    with capture_logs() as logs:
        await upload.clean_up()
    assert [line["key"] for line in logs] == ["staging/1"]


async def test_a_copy_that_could_not_be_aborted(copier: ServerSideCopy) -> None:
    with capture_logs() as logs, pytest.raises(DependencyUnavailable):
        await copier.copy("source", "final", size=100, content_type="x", sha256=None, source_etag=None)
    assert [line["key"] for line in logs] == ["final"]
