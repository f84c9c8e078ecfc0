"""Content is the same when every property holds the same bytes, in whatever order they came."""

from bucketline.domain.fingerprint import content_key, properties_hash

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_the_order_of_blobs_does_not_matter() -> None:
    assert content_key([("note", A), ("photo", B)]) == content_key([("photo", B), ("note", A)])


def test_other_bytes_other_properties_and_other_counts_are_other_content() -> None:
    keys = [
        content_key(rows)
        for rows in (
            [("note", A)],
            [("note", B)],
            [("photo", A)],
            [("note", A), ("note", A)],
            [("note", A), ("note", B)],
        )
    ]
    assert len(set(keys)) == len(keys)


def test_nothing_is_not_content() -> None:
    assert content_key([]) is None


def test_properties_are_compared_by_value_and_are_no_bytes() -> None:
    assert properties_hash({"a": 1, "b": {"c": 2}}) == properties_hash({"b": {"c": 2}, "a": 1})
    assert properties_hash({"a": 1}) != properties_hash({"a": 2})
    assert not properties_hash({}).startswith("sha256:")
