"""Labels of encodings, and decoding in parts."""

import codecs
import random

import pytest

from bucketline.domain.text_encodings import charset_of, codec_of, decode_start, name_of

SAMPLES = {
    "shift_jis": "東京、①髙﨑 ｱｲｳ\nline two ",
    "euc-jp": "東京、日本語\nline two ",
    "iso-2022-jp": "会議、日本語\nline two ",
    "gbk": "镕中文网页，你好\nline two ",
    "gb18030": "镕中文㐀𠀀，你好\nline two ",
    "big5": "繁體中文，網頁\nline two ",
    "euc-kr": "똠한국어, 페이지\nline two ",
    "windows-1251": "Привет, мир\nline two ",
    "utf-8": "naïve, 東京 😀\nline two ",
    "utf-16le": "naïve, 東京 😀\nline two ",
}
CODECS = {"shift_jis": "cp932", "gbk": "gb18030", "big5": "cp950", "euc-kr": "cp949", "utf-16le": "utf-16-le"}


@pytest.mark.parametrize(
    ("media_type", "charset"),
    [
        ("text/plain; charset=windows-1251", "windows-1251"),
        ("text/plain;CHARSET=Shift_JIS", "shift_jis"),
        ('text/html; charset="koi8-r"; x=y', "koi8-r"),
        ("text/html; x=y ;charset= utf-8", "utf-8"),
        ("text/plain; charset=cp037", "cp037"),
        ("text/html; charset=utf-8, text/html; charset=koi8-r", "utf-8"),
        ("text/plain; charset=no-such-charset", None),
        ("text/plain; charset=", None),
        ("text/plain; mycharset=koi8-r", None),
        ("text/plain", None),
        ("", None),
        (None, None),
    ],
)
def test_charset_of_media_type_is_its_known_parameter(media_type: str | None, charset: str | None) -> None:
    assert charset_of(media_type) == charset


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("latin1", "windows-1252"),
        ("us-ascii", "windows-1252"),
        ("ISO-8859-9", "windows-1254"),
        ("ks_c_5601-1987", "euc-kr"),
        ("gb2312", "gbk"),
        ("x-mac-roman", "macintosh"),
        ("koi8", "koi8-r"),
        (" utf8 ", "utf-8"),
        ("unicode", "utf-16-le"),
        ("x-user-defined", "x-user-defined"),
        # not in the standard, or refused by it
        ("ibm037", "cp037"),
        ("utf-32", "utf_32"),
        ("hz-gb-2312", "hz"),
        ("iso-2022-kr", "iso2022_kr"),
    ],
)
def test_label_is_resolved_as_the_web_does(label: str, name: str) -> None:
    codec = codec_of(label)
    assert codec is not None
    assert name_of(codec) == name


@pytest.mark.parametrize("label", ["", "bogus", "base64", "rot13", "zip", "iso-2022-cn", "replacement", "é", "a\0b"])
def test_label_of_no_text_encoding_is_unknown(label: str) -> None:
    assert codec_of(label) is None


@pytest.mark.parametrize("label", SAMPLES)
def test_text_decoded_in_parts_is_the_whole_text(label: str) -> None:
    codec = codec_of(label)
    assert codec is not None
    text = SAMPLES[label] * 3000
    content = text.encode(CODECS.get(label, label))
    content += b"" if label.startswith("utf") else b"\xff!"
    expected = content.decode(codec, "replace")
    assert expected.startswith(text)
    rng = random.Random(7)  # noqa: S311
    decoder = codecs.getincrementaldecoder(codec)("replace")
    text, place = "", 0
    while place < len(content):
        size = rng.randint(1, 5000)
        text += decoder.decode(content[place : place + size])
        place += size
    assert text + decoder.decode(b"", final=True) == expected


def test_start_of_a_text_is_decoded_without_a_cut_character() -> None:
    content = "naïve 東京".encode()
    for cut in range(1, 4):
        assert (decode_start(content[:-cut], "utf-8") or "").startswith("naïve 東")
    assert decode_start(b"\xff\xfe\xfd\xfc", "utf-8") is None
    assert decode_start("Привет".encode("cp1251"), "web-windows-1251") == "Привет"
