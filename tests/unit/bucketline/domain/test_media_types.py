import pytest

from bucketline.domain.media_types import media_fits, type_of_media

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@pytest.mark.parametrize(
    ("media_type", "fits"),
    [
        ("text/plain", {"text"}),
        ("text/plain; charset=utf-8", {"text"}),
        ("image/png", {"image"}),
        ("IMAGE/JPEG", {"image"}),
        ("image/gif", {"image", "video"}),
        ("audio/mpeg", {"audio"}),
        ("video/mp4", {"video"}),
        ("application/pdf", {"pdf"}),
        ("text/csv", {"text", "excel"}),
        ("application/vnd.ms-excel", {"excel"}),
        (XLSX, {"excel"}),
        ("application/zip", set()),
        ("textual/plain", set()),
        ("", set()),
    ],
)
def test_a_media_type_fits_these_schema_types(media_type: str, fits: set[str]) -> None:
    types = ["text", "image", "audio", "video", "pdf", "excel", "string", "object"]
    assert {name for name in types if media_fits(media_type, name)} == fits


@pytest.mark.parametrize(
    ("media_type", "suggested"),
    [
        ("text/markdown", "text"),
        ("text/csv", "excel"),
        (XLSX, "excel"),
        ("application/pdf", "pdf"),
        ("image/gif", "image"),
        ("application/octet-stream", None),
    ],
)
def test_a_media_type_suggests_a_schema_type(media_type: str, suggested: str | None) -> None:
    assert type_of_media(media_type) == suggested
    assert suggested is None or media_fits(media_type, suggested)
