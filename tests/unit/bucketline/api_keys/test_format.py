"""How keys look."""

import re

import pytest

from bucketline.api_keys.format import digest, key_id_of, new_key, visible_prefix


def test_a_key_carries_its_id_and_a_check_sum() -> None:
    identifier, clear = new_key()
    assert re.fullmatch(r"sk_[a-z0-9]{12}_[A-Za-z0-9]{40}", clear)
    assert key_id_of(clear) == identifier
    assert clear.startswith(visible_prefix(identifier))
    assert len(visible_prefix(identifier)) == 10


def test_a_rotated_key_keeps_its_id() -> None:
    identifier, first = new_key()
    again, second = new_key(identifier)
    assert again == identifier
    assert first != second
    assert key_id_of(second) == identifier


def test_no_two_are_alike() -> None:
    assert len({new_key()[1] for _ in range(1000)}) == 1000


@pytest.mark.parametrize("place", [3, 10, 16, 30, 47, 50])
def test_a_mistyped_key_is_told_without_asking_anybody(place: int) -> None:
    _, clear = new_key()
    wrong = clear[:place] + ("a" if clear[place] != "a" else "b") + clear[place + 1 :]
    assert key_id_of(wrong) is None


@pytest.mark.parametrize("other", ["", "sk_", "Bearer x", "sk_a_b", "x" * 10_000, "sk_\0"])
def test_anything_else_is_no_key(other: str) -> None:
    assert key_id_of(other) is None


def test_the_pepper_is_part_of_what_is_stored() -> None:
    _, clear = new_key()
    assert digest(clear, "a") == digest(clear, "a")
    assert digest(clear, "a") != digest(clear, "b")
    assert clear not in digest(clear, "")
