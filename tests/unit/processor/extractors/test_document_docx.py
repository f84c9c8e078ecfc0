"""Word files of every kind: the parts around the body, macro files, templates, Strict Open XML and odd packages."""

import io
import zipfile
from collections.abc import Awaitable, Callable, Mapping

import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob

from bucketline.extractors import PermanentError, ResourceError
from bucketline_processor.extractors.document import DOCX_MEDIA_TYPE, DocumentExtractor

FieldsOf = Callable[..., Awaitable[dict[str, object]]]
LinesOf = Callable[[bytes], Awaitable[list[str]]]

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
STRICT = (
    (W, "http://purl.oclc.org/ooxml/wordprocessingml/main"),
    (R, "http://purl.oclc.org/ooxml/officeDocument/relationships"),
    ("http://schemas.openxmlformats.org/officeDocument/2006/math", "http://purl.oclc.org/ooxml/officeDocument/math"),
)
NAMESPACES = (
    f'xmlns:w="{W}" xmlns:r="{R}" xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'
)
CORE = "http://schemas.openxmlformats.org/package/2006/relationships/metadata/core-properties"


def part(root: str, content: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><w:{root} {NAMESPACES}>{content}</w:{root}>'


def paragraph(text: str) -> str:
    return f'<w:p><w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def relations(*entries: tuple[str, str, str]) -> str:
    listed = "".join(
        f'<Relationship Id="{name}" Type="{kind if "/" in kind else f"{R}/{kind}"}" Target="{target}"/>'
        for name, kind, target in entries
    )
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{listed}</Relationships>'
    )


def package(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def word_files(
    body: str, parts: Mapping[str, tuple[str, str | bytes]] | None = None, top: tuple[tuple[str, str, str], ...] = ()
) -> dict[str, str | bytes]:
    """The files of a Word package; ``parts`` are kind and content by name, related as ``r1``, ``r2`` and so on."""
    parts = parts or {}
    related = [(f"r{number}", kind, name) for number, (name, (kind, _)) in enumerate(parts.items(), start=1)]
    return {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relations(("r1", "officeDocument", "word/document.xml"), *top),
        "word/document.xml": part("document", f"<w:body>{body}</w:body>"),
        "word/_rels/document.xml.rels": relations(*related),
        **{f"word/{name}": content for name, (_, content) in parts.items()},
    }


def word(body: str, parts: Mapping[str, tuple[str, str | bytes]] | None = None) -> bytes:
    return package(word_files(body, parts))


@pytest.fixture
def fields_of(documents_of: DocumentsOf) -> FieldsOf:
    async def read(content: bytes, name: str = "m.docx", mime_type: str = DOCX_MEDIA_TYPE) -> dict[str, object]:
        [document] = await documents_of(DocumentExtractor(), blob(content, name, mime_type, "pdf"))
        return dict(document.fields)

    return read


@pytest.fixture
def lines_of(fields_of: FieldsOf) -> LinesOf:
    async def read(content: bytes) -> list[str]:
        return [line for line in str((await fields_of(content))["text"]).split("\n") if line]

    return read


def notes(kind: str, *texts: str) -> str:
    separators = "".join(
        f'<w:{kind} w:type="{name}" w:id="{number}">{paragraph("separator")}</w:{kind}>'
        for number, name in enumerate(("separator", "continuationSeparator", "continuationNotice"), start=-1)
    )
    listed = "".join(f'<w:{kind} w:id="{number}">{paragraph(text)}</w:{kind}>' for number, text in enumerate(texts, 2))
    return part(f"{kind}s", separators + listed)


ALL_PARTS = {
    "comments.xml": ("comments", part("comments", f'<w:comment w:id="1">{paragraph("comment")}</w:comment>')),
    "endnotes.xml": ("endnotes", notes("endnote", "endnote")),
    "footnotes.xml": ("footnotes", notes("footnote", "first footnote", "second footnote")),
    "footer1.xml": ("footer", part("ftr", paragraph("footer"))),
    "header1.xml": ("header", part("hdr", paragraph("header"))),
}
IN_ORDER = ["header", "body", "footer", "first footnote", "second footnote", "endnote", "comment"]


async def test_parts_around_the_body_are_read_in_order(lines_of: LinesOf) -> None:
    assert await lines_of(word(paragraph("body"), ALL_PARTS)) == IN_ORDER


async def test_strict_file_gives_all_that_a_transitional_one_gives(fields_of: FieldsOf) -> None:
    formula = "<w:p><m:oMath><m:r><m:t>E</m:t></m:r></m:oMath><w:r><w:br w:type='page'/></w:r></w:p>"
    table = f"<w:tbl><w:tr><w:tc>{paragraph('a')}</w:tc><w:tc>{paragraph('b')}</w:tc></w:tr></w:tbl>"
    heading = "<w:p><w:pPr><w:pStyle w:val='h'/></w:pPr><w:r><w:t>Terms</w:t></w:r></w:p><w:altChunk r:id='r7'/>"
    style = "<w:style w:styleId='h'><w:name w:val='heading 1'/></w:style>"
    parts = ALL_PARTS | {"styles.xml": ("styles", part("styles", style)), "c.txt": ("aFChunk", "imported")}
    transitional = word_files(formula + table + heading, parts)
    strict = dict(transitional)
    for name, content in transitional.items():
        for namespace, replacement in STRICT:
            content = str(content).replace(namespace, replacement)
        strict[name] = content
    assert "purl.oclc.org" in str(strict["word/footnotes.xml"])
    expected = await fields_of(package(transitional))
    assert await fields_of(package(strict)) == expected
    assert expected["headings"] == ["Terms"]
    assert "imported" in str(expected["text"])


@pytest.mark.parametrize("root", ["_rels/.rels", "word/_rels/document.xml.rels"])
async def test_relationship_to_a_missing_part_is_ignored(fields_of: FieldsOf, root: str) -> None:
    files = word_files(paragraph("body"), {"header1.xml": ("header", part("hdr", paragraph("header")))})
    dangling = "".join(
        f'<Relationship Id="x{number}" Type="{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(
            [
                (f"{R}/metadata/thumbnail", "docProps/thumbnail.jpeg"),
                (f"{R}/image", "NULL"),
                (f"{R}/image", "../media/gone.png"),
                (f"{R}/footnotes", "/word/gone.xml"),
                (CORE, "docProps/core.xml"),
            ]
        )
    )
    files[root] = str(files[root]).replace("</Relationships>", f"{dangling}</Relationships>")
    fields = await fields_of(package(files))
    assert fields["text"] == "header\n\nbody"
    assert not fields.keys() & {"title", "author", "file"}


@pytest.mark.parametrize("missing", ["[Content_Types].xml", "_rels/.rels", "word/_rels/document.xml.rels"])
async def test_package_without_one_of_its_listings_gives_its_body(fields_of: FieldsOf, missing: str) -> None:
    files = word_files(paragraph("body"))
    del files[missing]
    assert (await fields_of(package(files)))["text"] == "body"


async def test_part_names_of_other_programs_are_found(fields_of: FieldsOf) -> None:
    files = word_files(paragraph("body"))
    files["_rels/.rels"] = relations(("r1", "officeDocument", "/Word/My%20Document.xml"))
    files["word\\my document.xml"] = files.pop("word/document.xml")
    assert (await fields_of(package(files)))["text"] == "body"


async def test_headers_of_first_odd_and_even_pages_are_read_once_each(lines_of: LinesOf) -> None:
    texts = ("first", "odd", "even", "odd")
    headers = {f"header{n}.xml": ("header", part("hdr", paragraph(text))) for n, text in enumerate(texts)}
    references = "".join(f'<w:headerReference w:type="first" r:id="r{n}"/>' for n in range(1, 5))
    assert await lines_of(word(f"<w:sectPr>{references}<w:titlePg/></w:sectPr>", headers)) == ["first", "odd", "even"]


async def test_replies_and_comments_without_an_author_are_read(lines_of: LinesOf) -> None:
    comments = (
        f'<w:comment w:id="1" w:author="Ada">{paragraph("why?")}</w:comment>'
        f'<w:comment w:id="2">{paragraph("so")}</w:comment>'
    )
    parts = {"comments.xml": ("comments", part("comments", comments))}
    assert await lines_of(word(paragraph("body"), parts)) == ["body", "why?", "so"]


def box(text: str) -> str:
    return f"<w:txbxContent>{paragraph(text)}</w:txbxContent>"


@pytest.mark.parametrize(
    "drawn",
    [
        f"<w:pict><v:shape><v:textbox>{box('boxed')}</v:textbox></v:shape></w:pict>",
        f"<w:drawing><wps:wsp><wps:txbx>{box('boxed')}</wps:txbx></wps:wsp></w:drawing>",
        f"<mc:AlternateContent><mc:Choice Requires='wps'>{box('boxed')}</mc:Choice>"
        f"<mc:Fallback>{box('boxed')}</mc:Fallback></mc:AlternateContent>",
        f"<mc:AlternateContent><mc:Choice Requires='wpg'>{box('boxed')}</mc:Choice>"
        f"<mc:Choice Requires='wps'>{box('boxed')}</mc:Choice>"
        f"<mc:Fallback>{box('boxed')}</mc:Fallback></mc:AlternateContent>",
        f"<mc:AlternateContent><mc:Fallback>{box('boxed')}</mc:Fallback></mc:AlternateContent>",
    ],
)
@pytest.mark.parametrize("place", ["body", "header"])
async def test_text_box_is_read_once(lines_of: LinesOf, drawn: str, place: str) -> None:
    block = f"<w:p><w:r><w:t>around</w:t></w:r><w:r>{drawn}</w:r></w:p>"
    content = word(block) if place == "body" else word("", {"header1.xml": ("header", part("hdr", block))})
    assert await lines_of(content) == ["around", "boxed"]


async def test_tracked_deletions_are_left_out_everywhere(lines_of: LinesOf) -> None:
    changed = "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
    parts = {
        "footnotes.xml": ("footnotes", part("footnotes", f'<w:footnote w:id="2">{changed}</w:footnote>')),
        "header1.xml": ("header", part("hdr", changed)),
    }
    assert await lines_of(word(changed, parts)) == ["new", "new", "new"]


HTML = "<html><body><p>one</p><p>two &amp; three</p></body></html>"
MHT = (
    'MIME-Version: 1.0\nContent-Type: multipart/related; boundary="b"\n\n--b\n'
    'Content-Type: text/html; charset="windows-1252"\n'
    "Content-Transfer-Encoding: quoted-printable\n\n"
    "<html><body><p>one</p><p>two &amp; =\nthree</p></body></html>\n--b--\n"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chunk.htm", HTML),
        ("chunk.xhtml", f'<?xml version="1.0"?>{HTML}'),
        ("chunk.mht", MHT),
        ("chunk.txt", "one\ntwo & three"),
        ("chunk.txt", "one\ntwo & three".encode("utf-16")),
        ("chunk.docx", word(paragraph("one") + paragraph("two &amp; three"))),
    ],
)
@pytest.mark.parametrize("reference", ["r1", "unknown"])
async def test_imported_file_is_read(lines_of: LinesOf, name: str, content: bytes | str, reference: str) -> None:
    body = f'{paragraph("before")}<w:altChunk r:id="{reference}"/>{paragraph("after")}'
    lines = await lines_of(word(body, {name: ("aFChunk", content)}))
    at_reference = reference == "r1"
    imported = ["one", "two & three"]
    assert lines == (["before", *imported, "after"] if at_reference else ["before", "after", *imported])


@pytest.mark.parametrize("content", [b"{\\rtf1 words}", b"PK\x03\x04 not a package"])
async def test_imported_file_that_cannot_be_read_is_named(fields_of: FieldsOf, content: bytes) -> None:
    fields = await fields_of(word(f'{paragraph("body")}<w:altChunk r:id="r1"/>', {"c.bin": ("aFChunk", content)}))
    assert fields["unread_parts"] == ["word/c.bin"]
    assert fields["text"] == "body"


async def test_word_files_that_import_one_another_end(fields_of: FieldsOf) -> None:
    content = word(paragraph("innermost"))
    for _ in range(6):
        content = word(paragraph("level") + '<w:altChunk r:id="r1"/>', {"c.docx": ("aFChunk", content)})
    fields = await fields_of(content)
    assert str(fields["text"]).split() == ["level"] * 4


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("m.docm", "application/vnd.ms-word.document.macroEnabled.12"),
        ("m.dotx", "application/vnd.openxmlformats-officedocument.wordprocessingml.template"),
        ("m.dotm", "application/vnd.ms-word.template.macroEnabled.12"),
    ],
)
@pytest.mark.parametrize("kind", ["pdf", "other"])
async def test_macro_files_and_templates_are_read(
    documents_of: DocumentsOf, name: str, mime_type: str, kind: str
) -> None:
    files = word_files(paragraph("body"), {"vbaProject.bin": ("vbaProject", b"\xd0\xcf\x11\xe0")})
    [document] = await documents_of(DocumentExtractor(), blob(package(files), name, mime_type, kind))
    assert document.fields["text"] == "body"


def core(content: str) -> bytes:
    namespaces = 'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/"'
    files = word_files(paragraph("body"), top=(("r2", CORE, "docProps/core.xml"),))
    return package(files | {"docProps/core.xml": f"<coreProperties {namespaces}>{content}</coreProperties>"})


async def test_core_properties_are_those_of_the_file(fields_of: FieldsOf) -> None:
    content = (
        "<dc:title>Minutes</dc:title><dc:creator>Grace</dc:creator><dc:language>en-GB</dc:language>"
        "<dcterms:created>2026-03-01T12:00:00Z</dcterms:created><dcterms:modified>2026-03-02T12:00:00</dcterms:modified>"
    )
    fields = await fields_of(core(content))
    assert (fields["title"], fields["author"], fields["language"]) == ("Minutes", "Grace", "en-GB")
    assert fields["file"] == {"created_at": "2026-03-01T12:00:00+00:00", "modified_at": "2026-03-02T12:00:00+00:00"}


@pytest.mark.parametrize("content", ["", "<dc:title/>", "<dcterms:created>yesterday</dcterms:created>", "<broken"])
async def test_missing_empty_or_damaged_core_properties_invent_nothing(fields_of: FieldsOf, content: str) -> None:
    fields = await fields_of(core(content))
    assert fields["text"] == "body"
    assert not fields.keys() & {"title", "author", "language", "file"}


def other_office_file(main: str, root: str) -> bytes:
    return package({"_rels/.rels": relations(("r1", "officeDocument", main)), main: f'<{root} xmlns="urn:x"/>'})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (other_office_file("xl/workbook.xml", "workbook"), "an Excel workbook"),
        (other_office_file("ppt/presentation.xml", "presentation"), "a PowerPoint presentation"),
        (package({"mimetype": "application/vnd.oasis.opendocument.text"}), r"vnd\.oasis\.opendocument\.text"),
        (package({"mimetype": "application/epub+zip"}), r"application/epub\+zip"),
        (package({"Index/Document.iwa": b""}), "Apple iWork"),
        (package({"readme.txt": "words"}), "is a ZIP archive"),
    ],
)
async def test_package_of_another_kind_is_named_and_not_called_damaged(
    fields_of: FieldsOf, content: bytes, reason: str
) -> None:
    with pytest.raises(PermanentError, match=reason) as raised:
        await fields_of(content)
    assert "damaged" not in raised.value.message


async def test_encrypted_package_is_called_encrypted(fields_of: FieldsOf) -> None:
    content = bytearray(word(paragraph("body")))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            content[start + offset] |= 1
    with pytest.raises(PermanentError, match=r"'m\.docx' is encrypted"):
        await fields_of(bytes(content))


@pytest.mark.parametrize("name", ["word/document.xml", "word/footnotes.xml", "word/_rels/document.xml.rels"])
async def test_part_that_is_not_xml_is_damaged_and_named(fields_of: FieldsOf, name: str) -> None:
    files = word_files(paragraph("body"), ALL_PARTS)
    files[name] = str(files[name])[:-20]
    with pytest.raises(PermanentError, match=rf"'m\.docx' is damaged: its part {name} cannot be read"):
        await fields_of(package(files))


async def test_entities_are_not_expanded(fields_of: FieldsOf) -> None:
    files = word_files(paragraph("body &secret;") + paragraph("next"))
    declared = '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/hostname"><!ENTITY a "aaaa">]>'
    files["word/document.xml"] = str(files["word/document.xml"]).replace("?>", f"?>{declared}", 1)
    assert (await fields_of(package(files)))["text"] == "body \n\nnext"


@pytest.mark.parametrize(
    "opening", ["<w:sdt><w:sdtContent>{}</w:sdtContent></w:sdt>", "<w:tbl><w:tr><w:tc>{}</w:tc></w:tr></w:tbl>"]
)
async def test_nesting_is_read_up_to_the_limit_of_the_parser(fields_of: FieldsOf, opening: str) -> None:
    before, after = opening.split("{}")
    deep = 245 // before.count("<")
    content = word(before * deep + paragraph("deep") + after * deep)
    assert "deep" in str((await fields_of(content))["text"])
    with pytest.raises(ResourceError, match="nested too deeply"):
        await fields_of(word(before * 3000 + paragraph("deep") + after * 3000))


async def test_package_that_unpacks_to_too_much_is_a_resource_error(fields_of: FieldsOf) -> None:
    files = word_files(paragraph("body")) | {"word/media/zeros.bin": bytes(64 * 1024**2)}
    with pytest.raises(ResourceError, match="unpacks to"):
        await fields_of(package(files))
