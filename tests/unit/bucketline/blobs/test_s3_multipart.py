"""What multipart transfers leave behind when S3 fails in the middle is logged, so that it can be found."""

from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs
from tenacity import wait_none

from bucketline.blobs.s3_multipart import S3Transfers, StreamedUpload
from bucketline.blobs.store import ObjectInfo, ObjectMissing
from bucketline.errors import DependencyUnavailable


class Unavailable:
    """Answers the calls given to it; every other call fails."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        async def call(*_: Any, **__: Any) -> Any:
            if name in self._answers:
                return self._answers[name]
            raise DependencyUnavailable("S3 did not answer")

        return call


class UnavailableStore(Unavailable):
    """Knows the source of a copy and fails otherwise."""

    async def head(self, key: str) -> ObjectInfo:
        if key == "source":
            return ObjectInfo(100, "e", None, "x", datetime(2026, 3, 1, tzinfo=UTC))
        raise ObjectMissing(key)


@pytest.fixture
def transfers() -> S3Transfers:
    store: Any = UnavailableStore()
    client: Any = Unavailable(create_multipart_upload={"UploadId": "upload_1"})
    return S3Transfers(store, client, "bucket", retry_wait=wait_none(), max_single_copy=1, part_size=50)


async def test_upload_that_cannot_be_cleaned_up_is_logged(transfers: S3Transfers) -> None:
    upload = StreamedUpload(transfers, "staging/1", 4)
    await upload.write(b"0123456789")
    with capture_logs() as logs:
        await upload.clean_up()
    assert [(line["event"], line["key"]) for line in logs] == [("upload not cleaned up", "staging/1")]


async def test_copy_that_cannot_be_aborted_is_logged(transfers: S3Transfers) -> None:
    with capture_logs() as logs, pytest.raises(DependencyUnavailable):
        await transfers.copy("source", "final", size=100, content_type="x", sha256=None, source_etag=None)
    assert [(line["event"], line["key"]) for line in logs] == [("copy not aborted", "final")]
