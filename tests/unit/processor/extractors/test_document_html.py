"""HTML as it is found: in every encoding, declared in every place or in none, and never well-formed."""

from collections.abc import Awaitable, Callable

import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.document import DocumentExtractor

TextOf = Callable[..., Awaitable[str]]

XHTML = "application/xhtml+xml"
RUSSIAN = "Привет, мир. Как дела сегодня?"


@pytest.fixture
def text_of(documents_of: DocumentsOf) -> TextOf:
    async def run(page: bytes, *, charset: str | None = None, mime_type: str = "text/html") -> str:
        documents = await documents_of(DocumentExtractor(), blob(page, "p.html", mime_type, charset=charset))
        return "".join(document.fields["text"] for document in documents)

    return run


async def test_html_text_is_what_a_browser_shows(documents_of: DocumentsOf) -> None:
    page = """<!doctype html><html lang="en"><head><title> Prices </title><style>p {color: red}</style>
    <meta name="description" content="What it costs"></head><body><script>alert(1)</script>
    <h1>Our prices</h1><p>Tea is <b>2 €</b>.</p><table><tr><td>Tea</td><td>2</td></tr></table>
    <ul><li>hot</li><li>cold</li></ul></body></html>"""
    [document] = await documents_of(DocumentExtractor(), blob(page.encode(), "p.html", "text/html"))

    lines = [line for line in document.fields["text"].split("\n") if line]
    assert lines == ["Our prices", "Tea is 2 €.", "Tea\t2", "hot", "cold"]
    assert document.fields["title"] == "Prices"
    assert document.fields["language"] == "en"
    assert document.fields["description"] == "What it costs"
    assert document.fields["headings"] == ["Our prices"]


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("utf-8", "utf-8", "naïve 東京 😀"),
        ("utf8", "utf-8", "naïve 東京 😀"),
        ("utf-16", "utf-8", "naïve 東京 😀"),
        ("us-ascii", "cp1252", "naïve €"),
        ("iso-8859-1", "cp1252", "“naïve” €"),
        ("latin1", "cp1252", "“naïve” €"),
        ("iso-8859-2", "iso8859_2", "Zażółć gęślą jaźń"),
        ("iso-8859-9", "cp1254", "şu köşe yaz köşesi"),
        ("iso-8859-11", "cp874", "ภาษาไทย"),
        ("windows-1251", "cp1251", RUSSIAN),
        ("koi8-r", "koi8_r", RUSSIAN),
        ("koi8", "koi8_r", RUSSIAN),
        ("ibm866", "cp866", RUSSIAN),
        ("x-mac-cyrillic", "mac_cyrillic", RUSSIAN),
        ("x-mac-roman", "mac_roman", "Café Zoë"),
        ("macintosh", "mac_roman", "Café Zoë"),
        ("gb2312", "gb18030", "镕中文网页"),
        ("gbk", "gb18030", "镕中文网页"),
        ("big5", "cp950", "繁體中文"),
        ("ks_c_5601-1987", "cp949", "똠한국어"),
        ("euc-kr", "cp949", "똠한국어"),
        ("shift_jis", "cp932", "①髙﨑さん"),
        ("x-sjis", "cp932", "①髙﨑さん"),
        ("euc-jp", "euc_jp", "日本語の文書"),
        ("iso-2022-jp", "iso2022_jp", "日本語の文書"),
        # browsers refuse these two, for a reason that does not apply to reading
        ("hz-gb-2312", "hz", "中文网页"),
        ("iso-2022-kr", "iso2022_kr", "한국어"),
    ],
)
@pytest.mark.parametrize(
    "declaration", ['<meta charset="{}">', "<META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset={}'>"]
)
async def test_html_with_declared_charset_is_decoded_as_browsers_do(
    text_of: TextOf, declaration: str, label: str, codec: str, text: str
) -> None:
    page = f"<html><head>{declaration.format(label)}</head><body><p>".encode() + text.encode(codec) + b"</p>"
    assert (await text_of(page)).strip() == text


@pytest.mark.parametrize(
    "label", ["windows-1251", "shift_jis", "gb2312", "big5", "euc-jp", "euc-kr", "latin1", "utf-8"]
)
async def test_html_with_one_invalid_byte_loses_one_character(text_of: TextOf, label: str) -> None:
    page = f"<meta charset={label}><p>BEGIN</p>".encode() + b"<p>a\xffb</p>" + b"<p>pad</p>" * 50 + b"<p>THE END</p>"
    lines = (await text_of(page)).split()
    assert (lines[0], lines[-2:]) == ("BEGIN", ["THE", "END"])
    assert len(lines[1]) == 3


@pytest.mark.parametrize(
    ("page", "charset", "text"),
    [
        # a byte order mark comes before the transport, the transport before the page
        (b"\xef\xbb\xbf<meta charset=koi8-r><p>" + RUSSIAN.encode(), "windows-1251", RUSSIAN),
        (b"<meta charset=koi8-r><p>" + RUSSIAN.encode("cp1251"), "windows-1251", RUSSIAN),
        (b"<p>" + RUSSIAN.encode("cp1251"), "windows-1251", RUSSIAN),
        (b"<p>" + "東京都".encode("cp932"), "shift_jis", "東京都"),
        (b"<meta charset=windows-1251><p>" + RUSSIAN.encode("cp1251"), "no-such-charset", RUSSIAN),
        (("\ufeff<p>" + RUSSIAN).encode("utf-16-le"), None, RUSSIAN),
        (("\ufeff<p>" + RUSSIAN).encode("utf-16-be"), None, RUSSIAN),
        ("<html><body><p>In two bytes each, unmarked".encode("utf-16-le"), None, "In two bytes each, unmarked"),
        # of two declarations the first counts, and one that is none does not
        (b"<meta charset=windows-1251><meta charset=koi8-r><p>" + RUSSIAN.encode("cp1251"), None, RUSSIAN),
        (b"<meta charset=bogus><meta charset=koi8-r><p>" + RUSSIAN.encode("koi8_r"), None, RUSSIAN),
        (b"<!-- <meta charset=koi8-r> --><meta charset=windows-1251><p>" + RUSSIAN.encode("cp1251"), None, RUSSIAN),
        (b"<meta name=description content='charset=gbk'><p>" + "naïve café".encode(), None, "naïve café"),
        (b"<meta charset=x-user-defined><p>na\xefve", None, "naïve"),
        (b" " * 2000 + b"<meta charset=windows-1251><p>" + RUSSIAN.encode("cp1251"), None, RUSSIAN),
        # an XML declaration counts where nothing else does
        (b"<?xml version='1.0' encoding='windows-1251'?><html><p>" + RUSSIAN.encode("cp1251"), None, RUSSIAN),
        (b"<?xml version='1.0' encoding='gbk'?><meta charset=koi8-r><p>" + RUSSIAN.encode("koi8_r"), None, RUSSIAN),
        # undeclared
        (b"<p>" + RUSSIAN.encode(), None, RUSSIAN),
        (b"<p>" + RUSSIAN.encode() + b" \xff", None, RUSSIAN + " \ufffd"),
        (b"<p>" + RUSSIAN.encode("cp1251"), None, RUSSIAN),
        (b"<p>" + "Die Größe der Öfen".encode("cp1252"), None, "Die Größe der Öfen"),
        (b"<p>" + "会議は中止です".encode("iso2022_jp"), None, "会議は中止です"),
    ],
)  # fmt: skip
async def test_html_encoding_is_chosen_in_the_order_of_the_standard(
    text_of: TextOf, page: bytes, charset: str | None, text: str
) -> None:
    assert (await text_of(page, charset=charset)).strip() == text


async def test_html_in_an_encoding_without_a_decoder_is_an_error(text_of: TextOf) -> None:
    with pytest.raises(PermanentError, match=r"'p\.html' declares the charset 'iso-2022-cn', which cannot be decoded"):
        await text_of(b"<meta charset=iso-2022-cn><p>abc")


async def test_xhtml_is_read_as_xml_where_it_is_well_formed(text_of: TextOf) -> None:
    head = "<?xml version='1.0' encoding='{}'?><html xmlns='http://www.w3.org/1999/xhtml'><head><title/></head><body>"
    page = head + "<p>Größe</p><script src='x'/><div/><p>a <![CDATA[<b>]]></p></body></html>"
    for encoding in ("utf-8", "iso-8859-1", "utf-16"):
        assert (await text_of(page.format(encoding).encode(encoding), mime_type=XHTML)).split() == ["Größe", "a", "<b>"]
    marked = ("\ufeff" + page.format("utf-8")).encode()
    assert (await text_of(marked)).split() == ["Größe", "a", "<b>"]
    assert (await text_of(b"<html><p>&nbsp;not<br>well-formed", mime_type=XHTML)).split() == ["not", "well-formed"]
    assert (await text_of("<html><p>Größe</p></html>".encode(), mime_type=XHTML)).strip() == "Größe"


@pytest.mark.parametrize(
    "page",
    [b"<!-- saved -->\n<p>CONTENT", b"<div><h1>CONTENT</h1></div>", b"<head><title>x</title></head>CONTENT", b"CONTENT",
     b"<meta charset=utf-8>CONTENT", b"\n\n<!DOCTYPE html>CONTENT", b"<?php ?>CONTENT", b"<p>CONTENT<p", b"</p>CONTENT",
     b"<body><table>CONTENT<tr><td>", b"<frameset></frameset><noframes>CONTENT</noframes>"],
)  # fmt: skip
async def test_html_without_the_usual_beginning_has_its_text(text_of: TextOf, page: bytes) -> None:
    assert "CONTENT" in await text_of(page)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>&lt;b&gt; &amp;amp; &eacute; &#128512; &#x1F600; AT&T &copy 2026 &#150; &bogus;",
         "<b> &amp; é 😀 😀 AT&T © 2026 – &bogus;"),
        ("<table><tr><td>one</td><td>two</td></tr><tr><th>three<th>four</table>", "one\ttwo\n\nthree\tfour"),
        ("<p>H<sub>2</sub>O is <b>bo</b>ld</p><div>five</div>six<br>seven", "H2O is bold\n\nfive\nsix\nseven"),
        ("<ul><li>a<li>b</ul><dl><dt>c<dd>d</dl>", "a\n\nb\n\nc\n\nd"),
        ("<select><option>eight<option>nine</select><button>ten</button>eleven", "eight\n\nnine\nten eleven"),
        ("<p>one\n  source   line</p>", "one source line"),
        ("<pre>line1\n  line2\n\tline3</pre>after", "line1\n  line2\n\tline3\nafter"),
        ("<textarea>\na  b\nc</textarea>", "a  b\nc"),
        ("before<svg><title>no</title><style>p{}</style><text>SEEN</text></svg>after", "before\nSEEN\nafter"),
        ("before <math><mi>x</mi><mo>=</mo><mn>1</mn><annotation>no</annotation></math> after", "before x=1 after"),
        ("<p>a<script>no</script><style>no</style><template>no</template><!-- no -->b", "ab"),
    ],
)  # fmt: skip
async def test_html_text_is_laid_out_as_it_is_seen(text_of: TextOf, page: str, text: str) -> None:
    assert (await text_of(page.encode())).strip() == text.strip()


async def test_html_that_mentions_a_pdf_header_is_html(text_of: TextOf) -> None:
    assert await text_of(b"<p>Files begin with %PDF-1.7 1 0 obj") == "Files begin with %PDF-1.7 1 0 obj"


async def test_html_may_be_nested_without_end(text_of: TextOf) -> None:
    page = b"<p>before" + b"<div>" * 200_000 + b"deep" + b"</div>" * 200_000 + b"<p>after"
    assert (await text_of(page)).split() == ["before", "deep", "after"]
    assert (await text_of(b"<b><i>" * 20_000 + b"deep")).split() == ["deep"]
