from pathlib import Path

import pytest

from bucketline.devstack.cache import default_cache_dir, exclusive
from bucketline.errors import LocalStackError


def test_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "bucketline"


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_cache_is_in_the_home_without_a_usable_xdg(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache_dir() == Path("/home/someone/.cache/bucketline")


def test_second_holder_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    with exclusive(lock), pytest.raises(LocalStackError, match="lock"), exclusive(lock, deadline=0):
        pytest.fail("two at once")
    with exclusive(lock, deadline=0):
        pass
