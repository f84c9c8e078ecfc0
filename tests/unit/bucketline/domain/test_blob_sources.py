import base64
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from bucketline.domain.blob_sources import (
    Base64Source,
    DataUriSource,
    FileSource,
    InvalidData,
    JsonSource,
    PropertiesSource,
    S3Source,
    Source,
    StagedSource,
    TextSource,
    UploadSource,
    UrlSource,
    content_key,
    free_form,
    from_document,
    parse_data,
    properties_hash,
)
from bucketline.domain.text_encodings import charset_of, codec_of

HELLO = base64.b64encode(b"Hello World").decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def parse(type: str, data: JsonValue, *, allow_file: bool = False) -> Source:  # noqa: A002
    return parse_data(type, data, allow_file=allow_file)


@pytest.mark.parametrize(
    ("type", "data", "source"),
    [
        # 1: URLs
        ("image", "https://files.example/a.jpg", UrlSource("https://files.example/a.jpg")),
        ("text", "http://files.example/a.txt", UrlSource("http://files.example/a.txt")),
        ("PDF", "HTTPS://files.example/a.pdf", UrlSource("HTTPS://files.example/a.pdf")),
        ("video", "s3://bucket/a/b?c#d.mp4", S3Source("s3://bucket/a/b?c#d.mp4")),
        ("video", "S3://Bucket/a", S3Source("s3://Bucket/a")),
        # 2: data URIs
        ("image", f"data:image/png;base64,{PNG}", DataUriSource("image/png", PNG)),
        ("text", "data:text/plain;charset=utf-8;base64,aGk=", DataUriSource("text/plain;charset=utf-8", "aGk=")),
        ("image", f"data:;base64,{PNG}", DataUriSource(None, PNG)),
        ("image", f"data:image/png;base64,{PNG.replace('=', '%3D')}", DataUriSource("image/png", PNG)),
        ("text", "data:,Hello%20World", DataUriSource("text/plain", HELLO)),
        ("text", "data:text/plain,Hello World", DataUriSource("text/plain", HELLO)),
        ("text", 'data:;charset="utf-8",Hello World', DataUriSource('text/plain;charset="utf-8"', HELLO)),
        ("text", "data:TEXT/HTML;charset=koi8-r,%D0", DataUriSource("text/html;charset=koi8-r", "0A==")),
        ("text", "data:text/plain,Gr%C3%BC%C3%9Fe,%zz", DataUriSource("text/plain", "R3LDvMOfZSwleno=")),
        # 3 and 4: objects that say what they are
        ("image", {"base64": PNG}, Base64Source(PNG)),
        ("image", {"base64": PNG, "mime_type": "image/png"}, Base64Source(PNG, "image/png")),
        ("image", {"base64": PNG, "filename": "b.png"}, Base64Source(PNG, None, "b.png")),
        ("image", {"base64": f"{PNG[:8]}\r\n{PNG[8:]}\n"}, Base64Source(PNG)),
        ("image", {"url": "https://files.example/a.jpg"}, UrlSource("https://files.example/a.jpg")),
        ("object", {"url": "s3://bucket/key"}, S3Source("s3://bucket/key")),
        # 5: inline text
        ("text", "Call the supplier on Friday.", TextSource("Call the supplier on Friday.")),
        ("text", "", TextSource("")),
        ("text", {"text": "hello"}, TextSource("hello")),
        ("text", "https://files.example is down again", TextSource("https://files.example is down again")),
        ("text", "data: three values, all low", TextSource("data: three values, all low")),
        ("text", "data:final,report", TextSource("data:final,report")),
        ("text", "Password", TextSource("Password")),
        ("text", "internationalization", TextSource("internationalization")),
        ("text", "d41d8cd98f00b204e9800998ecf8427e", TextSource("d41d8cd98f00b204e9800998ecf8427e")),
        # anything else
        ("pdf", {"num_pages": 5, "title": "A"}, PropertiesSource({"num_pages": 5, "title": "A"})),
        ("pdf", {"text": "not a file"}, PropertiesSource({"text": "not a file"})),
        ("pdf", {}, PropertiesSource({})),
        ("string", "https://files.example/a.jpg", TextSource("https://files.example/a.jpg")),
        ("number", 5, JsonSource(5)),
        ("boolean", False, JsonSource(False)),
        ("array", [1, {"a": None}], JsonSource([1, {"a": None}])),
    ],
)  # fmt: skip
def test_data_is_interpreted_by_type(type: str, data: JsonValue, source: Source) -> None:  # noqa: A002
    assert parse(type, data) == source


@pytest.mark.parametrize(
    ("type", "data", "hint"),
    [
        ("image", "not a url", "URL"),
        ("pdf", PNG, "base64"),
        ("image", "ftp://files.example/a.jpg", "URL"),
        ("image", "https://", "URL"),
        ("image", "https://files.example/" + "a" * 5000, "4096"),
        ("image", "s3://bucket", "s3://bucket/key"),
        ("image", "s3:///key", "s3://bucket/key"),
        ("image", "data:image/png", "data URI"),
        ("image", "data:image/png;base64", "data URI"),
        ("image", "data:final,report", "data URI"),
        ("image", "data:image/png,", "empty"),
        ("image", "data:text/plain,\ud800", "Unicode"),
        ("text", "data:text/plain;base64,SGVsbG8", "malformed"),
        ("image", "data:image/png;base64,%%%", "malformed"),
        ("image", {"base64": "abc"}, "malformed"),
        ("image", {"base64": "YWJj_-=="}, "malformed"),
        ("image", {"base64": ""}, "empty"),
        ("image", {"base64": 5}, "string"),
        ("image", {"base64": PNG, "filename": 5}, "filename"),
        ("image", {"base64": PNG, "url": "https://files.example"}, "one of them"),
        ("image", {"url": None}, "string"),
        ("image", {"url": "www.example.com/a.jpg"}, "http://"),
        ("image", None, "null"),
        ("text", base64.b64encode(b"Call the supplier on Friday.").decode(), "base64"),
        ("text", base64.b64encode("Größe: 5 µm".encode()).decode(), "base64"),
        ("text", base64.b64encode(b"Hello").decode(), "base64"),
        ("text", "lone \ud800 surrogate", "Unicode"),
        ("text", "file:///etc/passwd", "not allowed"),
        ("image", {"url": "FILE:///etc/passwd"}, "not allowed"),
        ("number", 2**63, "64 bits"),
        ("number", float("nan"), "finite"),
        ("object", {"a": {"b": "\udfff"}}, "Unicode"),
        ("object", {"a\0b": 1}, "NUL"),
    ],
)
def test_refused_request_has_a_reason(type: str, data: JsonValue, hint: str) -> None:  # noqa: A002
    with pytest.raises(InvalidData) as refused:
        parse(type, data)
    assert hint in refused.value.reason


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("data:,Hello%20World", "Hello World"),
        ("data:text/plain;charset=utf-8,Hello%20World", "Hello World"),
        ("data:text/plain,Hello World", "Hello World"),
        ("DATA:Text/Plain;Charset=UTF-8,Hello%20World", "Hello World"),
        ("data:text/plain;charset=utf-8;base64,SGVsbG8gV29ybGQ=", "Hello World"),
        ("data:text/plain;base64;charset=utf-8,SGVsbG8gV29ybGQ=", "Hello World"),
        ("data:text/plain;base64,SGVsbG8gV29ybGQ%3D", "Hello World"),
        ("data:;base64,SGVsbG8gV29ybGQ=", "Hello World"),
        ("data:;charset=utf-8,na%C3%AFve", "naïve"),
        ("data:,na%C3%AFve", "naïve"),
        ("data:text/plain;charset=iso-8859-1,na%EFve", "naïve"),
        ("data:text/plain;charset=iso-8859-1;base64,bmHvdmU=", "naïve"),
        ('data:text/plain;charset="windows-1251",%CF%F0%E8%E2%E5%F2', "Привет"),
        ("data:text/plain;charset=Shift_JIS,%93%FA%96%7B", "日本"),
        ("data:text/plain;charset=US-ASCII,na%C3%AFve", "naïve"),
        ("data:text/plain; charset=utf-8; format=flowed,a,b;c", "a,b;c"),
        ("data:text/html,%3Cp id=a%3E<a href='#b'>", "<p id=a><a href='#b'>"),
        ("data:text/plain,100%", "100%"),
        ("data:text/plain,two\nlines+plus", "two\nlines+plus"),
        ("data:text/plain,日本", "日本"),
        ("data:,", ""),
    ],
)
@pytest.mark.parametrize("wrap", [lambda uri: uri, lambda uri: {"url": uri}], ids=["string", "url"])
def test_data_uri_of_type_text_has_its_bytes_and_its_charset(
    wrap: Callable[[str], JsonValue], uri: str, content: str
) -> None:
    source = parse("text", wrap(uri))
    assert isinstance(source, DataUriSource)
    charset = charset_of(source.media_type)
    codec = codec_of(charset) if charset not in (None, "us-ascii") else None
    assert source.content().decode(codec or "utf-8") == content
    assert (source.media_type or "").startswith("text/")


@pytest.mark.parametrize(
    ("uri", "media_type", "content"),
    [
        ("data:image/svg+xml,%3Csvg/%3E", "image/svg+xml", b"<svg/>"),
        ("data:image/svg+xml;utf8=,<svg fill='#fff'/>", "image/svg+xml;utf8=", b"<svg fill='#fff'/>"),
        ("data:application/pdf,%25PDF-1.4%0A%00%FF", "application/pdf", b"%PDF-1.4\n\x00\xff"),
        ("data:text/csv;charset=iso-8859-1,na%EFve", "text/csv;charset=iso-8859-1", b"na\xefve"),
        ("data:text/csv;charset=no-such,x", "text/csv;charset=no-such", b"x"),
        ("data:,abc", None, b"abc"),
    ],
)
def test_data_uri_of_another_file_type_is_decoded_to_its_bytes(
    uri: str, media_type: str | None, content: bytes
) -> None:
    source = parse("image", uri)
    assert isinstance(source, DataUriSource)
    assert (source.media_type, source.content()) == (media_type, content)


def test_data_uri_of_a_metadata_type_is_a_value() -> None:
    assert parse("string", "data:,Hello%20World") == TextSource("data:,Hello%20World")


def test_explicit_text_that_begins_like_a_data_uri_is_kept() -> None:
    assert parse("text", {"text": "data:,Hello%20World"}) == TextSource("data:,Hello%20World")


def test_data_uri_without_base64_has_a_limit() -> None:
    for uri in ("data:,01234567890", "data:," + "%30" * 11, "data:text/plain;charset=utf-16-le," + "%E9%00" * 6):
        with pytest.raises(InvalidData, match="upload"):
            parse_data("text", uri, allow_file=False, max_inline_bytes=10)
    assert parse_data("text", "data:," + "%30" * 10, allow_file=False, max_inline_bytes=10)


def test_deep_nesting_is_refused() -> None:
    data: JsonValue = 1
    for _ in range(100):
        data = [data]
    with pytest.raises(InvalidData, match="nested"):
        parse("array", data)


def test_inline_content_has_a_limit() -> None:
    def limited(data: JsonValue) -> Source:
        return parse_data("text", data, allow_file=False, max_inline_bytes=10)

    assert limited("0123456789")
    assert limited({"base64": base64.b64encode(b"0123456789").decode()})
    large: list[JsonValue] = ["01234567890", "ééééé!", {"base64": base64.b64encode(b"01234567890").decode()}]
    for data in large:
        with pytest.raises(InvalidData, match="upload"):
            limited(data)


class TestFiles:
    def test_an_absolute_path_where_allowed(self) -> None:
        assert parse("image", "file:///data/a%20b.png", allow_file=True) == FileSource("/data/a b.png")
        assert parse("image", "file://localhost/data/a.png", allow_file=True) == FileSource("/data/a.png")

    @pytest.mark.parametrize("url", ["file://server/share/a.png", "file://a.png", "file:///a%00b"])
    def test_nothing_else(self, url: str) -> None:
        with pytest.raises(InvalidData, match="absolute path"):
            parse("image", url, allow_file=True)


def test_an_s3_url_is_taken_apart_literally() -> None:
    source = parse("video", "s3://bucket/a//b%20c?versionId=1")
    assert isinstance(source, S3Source)
    assert (source.bucket, source.key) == ("bucket", "a//b%20c?versionId=1")


@pytest.mark.parametrize(
    ("data", "rest"),
    [
        ({"url": "https://files.example/a", "title": "A"}, {"title": "A"}),
        ({"base64": PNG, "mime_type": "image/png", "filename": "b.png", "page": 1}, {"page": 1}),
        ({"title": "A"}, {"title": "A"}),
        ("https://files.example/a", {}),
    ],
)
def test_no_key_of_an_object_is_lost(data: JsonValue, rest: dict[str, JsonValue]) -> None:
    assert free_form("image", data) == rest


@pytest.mark.parametrize(
    "source",
    [
        TextSource("hello"),
        JsonSource([1, None, {"a": 2.5}]),
        DataUriSource("image/png", PNG),
        DataUriSource(None, PNG),
        Base64Source(PNG),
        Base64Source(PNG, "image/png", "b.png"),
        UrlSource("https://files.example/a"),
        S3Source("s3://bucket/key"),
        FileSource("/data/a"),
        UploadSource("upl_1"),
        StagedSource("staging/1"),
        PropertiesSource({"a": {"b": [1]}}),
    ],
)
def test_a_source_survives_the_database(source: Source) -> None:
    document = source.to_document()
    assert None not in document.values()
    assert from_document(json.loads(json.dumps(document)) | {"added_later": 1}) == source


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="carrier-pigeon"):
        from_document({"kind": "carrier-pigeon"})


def test_inline_content_is_the_bytes() -> None:
    assert TextSource("é").content() == b"\xc3\xa9"
    assert DataUriSource(None, PNG).content() == Base64Source(PNG).content() == b"\x89PNG\r\n\x1a\n"


def test_equal_json_has_equal_bytes() -> None:
    one, two = JsonSource({"b": [1, "é"], "a": None}), JsonSource({"a": None, "b": [1, "é"]})
    assert one.content() == two.content() == '{"a":null,"b":[1,"é"]}'.encode()


@pytest.mark.parametrize(
    "data",
    ["data:" + "=" * 2_000_000, "data:" + "a" * 2_000_000, "data:a/b;" + "a=;" * 600_000, "https://" + "a" * 2_000_000,
     "data:" + ";a=b" * 500_000, "data:" + ";base64" * 500_000, "data:" + "; " * 500_000],
    ids=["equals", "letters", "parameters", "url", "more parameters", "base64", "blanks"],
)  # fmt: skip
def test_hostile_strings_are_decided_quickly(data: str) -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidData):
        parse("image", data)
    assert time.perf_counter() - began < 1


@given(st.binary(min_size=1, max_size=200))
def test_base64_of_anything_comes_back(content: bytes) -> None:
    source = parse("pdf", {"base64": base64.b64encode(content).decode()})
    assert isinstance(source, Base64Source)
    assert source.content() == content


@given(st.text(alphabet=st.characters(categories=["L", "N", "Zs"]), max_size=12).filter(lambda s: "=" not in s))
def test_short_words_are_text(text: str) -> None:
    assert parse("text", text) == TextSource(text)


BROKEN_URLS = [
    "https://example.com/my file.txt",
    "https://example.com/my  file.txt",
    "https://example.com/file.txt\n",
    "https://example.com/file.txt\r\n",
    " https://example.com/file.txt",
    "\thttps://example.com/file.txt",
    "\nhttps://example.com/file.txt",
    "https://example.com/a\u00a0b.txt",
    "https://example.com/fi\nle.txt",
    "https://example.com/my report",
    "https://example.com/a?q=x y",
    "https://example.com/a?title=hello world&x=1",
    "https://example.com/Q1 results final v2.docx",
    "HTTPS://example.com/a b/c.pdf",
    "s3://bucket/my key.txt",
    "s3://bucket/my key",
    "https://example.com/a\0b",
    "https://example.com/a\x7fb",
]
TEXT_WITH_URLS = [
    "https://example.com is our new site",
    "https://example.com\nThis is a note about the site.",
    "https://example.com/file.txt is the link",
    "https://example.com/a.txt\nhttps://example.com/b.txt",
    "https://example.com/a and https://example.com/b.txt",
    "See https://example.com/my file.txt",
    "https://example.com/doc explains how all of this works together, and what to do when it does not, see node.js",
    "https: //example.com",
]


@pytest.mark.parametrize("data", BROKEN_URLS)
def test_text_that_is_a_url_but_for_blanks_is_refused(data: str) -> None:
    with pytest.raises(InvalidData) as refused:
        parse_data("text", data, allow_file=False)
    assert "URL" in refused.value.reason
    assert parse_data("text", {"text": data}, allow_file=False) == TextSource(data)


@pytest.mark.parametrize("data", TEXT_WITH_URLS)
def test_text_that_begins_with_a_url_stays_text(data: str) -> None:
    assert parse_data("text", data, allow_file=False) == TextSource(data)


@pytest.mark.parametrize("data", ["https://example.com/my%20file.txt", "https://example.com/münchen/👩‍👩‍👧.png"])
def test_url_without_blanks_names_its_bytes(data: str) -> None:
    assert parse_data("text", data, allow_file=False) == UrlSource(data)


A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_content_key_with_blobs_in_another_order_is_equal() -> None:
    assert content_key([("note", A), ("photo", B)]) == content_key([("photo", B), ("note", A)])


def test_content_key_with_other_bytes_properties_or_counts_differs() -> None:
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


def test_content_key_without_blobs_is_none() -> None:
    assert content_key([]) is None


def test_properties_hash_compares_values_and_is_no_sha256() -> None:
    assert properties_hash({"a": 1, "b": {"c": 2}}) == properties_hash({"b": {"c": 2}, "a": 1})
    assert properties_hash({"a": 1}) != properties_hash({"a": 2})
    assert not properties_hash({}).startswith("sha256:")
