import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.media_types import media_fits, safe_filename, type_of_media

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
def test_media_fits_accepts_the_types_of_the_contract(media_type: str, fits: set[str]) -> None:
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
def test_type_of_media_is_a_type_that_accepts_it(media_type: str, suggested: str | None) -> None:
    assert type_of_media(media_type) == suggested
    assert suggested is None or media_fits(media_type, suggested)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("naïve 東京.pdf", "naïve 東京.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        (".htaccess", "htaccess"),
        ("...", None),
        ("", None),
        (None, None),
        ("/", None),
        ("a\r\nb\0.txt", "ab.txt"),
        ("cod\u202efdp.exe", "codfdp.exe"),
        ('a<b>:"|?*.txt', "a_b______.txt"),
        ("a.txt. . ", "a.txt"),
        ("e\u0301.txt", "é.txt"),
        ("\ud800.txt", "txt"),
    ],
)
def test_safe_filename_of_name_is_its_safe_last_part(name: str | None, safe: str | None) -> None:
    assert safe_filename(name) == safe


def test_safe_filename_of_long_name_keeps_the_extension() -> None:
    safe = safe_filename("ä" * 500 + ".pdf")
    assert safe is not None
    assert len(safe.encode()) <= 255
    assert safe.endswith("ä.pdf")
    assert len((safe_filename("x." + "y" * 500) or "").encode()) == 255


@given(st.text(max_size=400))
def test_safe_filename_of_any_text_is_safe(name: str) -> None:
    safe = safe_filename(name)
    if safe is not None:
        assert 0 < len(safe.encode()) <= 255
        assert not set(safe) & set('/\\\0\r\n<>:"|?*')
        assert not safe.startswith(".")
        assert safe_filename(safe) == safe
