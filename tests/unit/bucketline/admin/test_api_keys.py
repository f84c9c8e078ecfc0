"""The format of API keys."""

import re

import pytest

from bucketline.admin.api_keys import digest, key_id_of, new_key, visible_prefix


def test_new_key_contains_its_id() -> None:
    key_id, clear = new_key()
    assert re.fullmatch(r"sk_[a-z0-9]{12}_[A-Za-z0-9]{40}", clear)
    assert key_id_of(clear) == key_id
    assert clear.startswith(visible_prefix(key_id))
    assert len(visible_prefix(key_id)) == 10


def test_new_key_for_an_existing_id_keeps_the_id_and_has_another_secret() -> None:
    key_id, first = new_key()
    same_id, second = new_key(key_id)
    assert same_id == key_id
    assert first != second
    assert key_id_of(second) == key_id


def test_new_keys_are_all_different() -> None:
    assert len({new_key()[1] for _ in range(1000)}) == 1000


@pytest.mark.parametrize("index", [3, 10, 16, 30, 47, 50])
def test_key_id_of_a_mistyped_key_is_none(index: int) -> None:
    _, clear = new_key()
    wrong = clear[:index] + ("a" if clear[index] != "a" else "b") + clear[index + 1 :]
    assert key_id_of(wrong) is None


@pytest.mark.parametrize("text", ["", "sk_", "Bearer x", "sk_a_b", "x" * 10_000, "sk_\0"])
def test_key_id_of_other_text_is_none(text: str) -> None:
    assert key_id_of(text) is None


def test_digest_depends_on_the_pepper_and_does_not_contain_the_key() -> None:
    _, clear = new_key()
    assert digest(clear, "a") == digest(clear, "a")
    assert digest(clear, "a") != digest(clear, "b")
    assert clear not in digest(clear, "")
