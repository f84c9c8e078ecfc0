import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.filenames import safe_filename


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
def test_file_names_are_made_safe(name: str | None, safe: str | None) -> None:
    assert safe_filename(name) == safe


def test_long_names_keep_their_extension() -> None:
    safe = safe_filename("ä" * 500 + ".pdf")
    assert safe is not None
    assert len(safe.encode()) <= 255
    assert safe.endswith("ä.pdf")
    assert len((safe_filename("x." + "y" * 500) or "").encode()) == 255


@given(st.text(max_size=400))
def test_no_name_is_dangerous(name: str) -> None:
    safe = safe_filename(name)
    if safe is not None:
        assert 0 < len(safe.encode()) <= 255
        assert not set(safe) & set('/\\\0\r\n<>:"|?*')
        assert not safe.startswith(".")
        assert safe_filename(safe) == safe
