from processor.extractors.signature import sign, verify


def test_the_form_is_the_documented_one():
    digest = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
    assert sign("secret", b'{"a":1}', 1_700_000_000.9) == f"t=1700000000,v1={digest}"


def test_only_the_same_body_secret_and_time_verify():
    value = sign("secret", b"body", 1000)

    assert verify("secret", b"body", value, now=1200)
    assert not verify("secret", b"body!", value, now=1200)
    assert not verify("other", b"body", value, now=1200)
    assert not verify("secret", b"body", value, now=1400)
    assert not verify("secret", b"body", value.replace("t=1000", "t=1001"), now=1200)
    assert not verify("secret", b"body", "nonsense", now=1200)
