from bucketline_processor.extractors.http import sign


def test_the_form_is_the_documented_one() -> None:
    digest = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
    assert sign("secret", b'{"a":1}', 1_700_000_000.9) == f"t=1700000000,v1={digest}"
