"""PDF files of every kind: forms, notes, attachments, encodings, boxes, and bytes around the file."""

import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob, pdf

from bucketline.extractors import ExtractionContext, ObjectView, PermanentError, ResourceError, validate_parameters
from bucketline_processor.extractors.document import DocumentExtractor
from bucketline_processor.worker_pool import WorkerPool

FieldsOf = Callable[..., Awaitable[dict[str, object]]]

HELVETICA = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
LETTER = "/MediaBox [0 0 612 792]"


def pdf_file(
    *objects: str | bytes,
    content: str = "(Page) Tj",
    page: str = LETTER,
    pages: str = "",
    catalog: str = "",
    font: str = HELVETICA,
) -> bytes:
    """A PDF of one page; ``objects`` get the numbers 6, 7 and so on."""
    drawn = f"BT /F1 12 Tf 72 700 Td {content} ET"
    bodies: Sequence[str | bytes] = (
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        f"<< /Type /Pages /Kids [3 0 R] /Count 1 {pages} >>",
        f"<< /Type /Page /Parent 2 0 R /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R {page} >>",
        f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        font,
        *objects,
    )
    out, places = b"%PDF-1.7\n", []
    for number, body in enumerate(bodies, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body if isinstance(body, bytes) else body.encode("latin-1"))
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, start)


@pytest.fixture
def page_of(documents_of: DocumentsOf) -> FieldsOf:
    async def read(content: bytes) -> dict[str, object]:
        [document] = await documents_of(DocumentExtractor(), blob(content, "a.pdf", "application/pdf", "pdf"))
        return dict(document.fields)

    return read


def form(*fields: str, more: Sequence[str] = ()) -> bytes:
    """A form with these fields, each with its widget, as the objects 6, 7 and so on; ``more`` follow them."""
    numbers = " ".join(f"{number} 0 R" for number in range(6, 6 + len(fields)))
    widgets = (f"<< /Type /Annot /Subtype /Widget /Rect [9 9 99 29] {field} >>" for field in fields)
    return pdf_file(
        *widgets, *more, page=f"{LETTER} /Annots [{numbers}]", catalog=f"/AcroForm << /Fields [{numbers}] >>"
    )


MULTIPLE = 1 << 21
COMBO = 1 << 17


@pytest.mark.parametrize(
    ("field", "kind", "value", "line"),
    [
        ("/FT /Tx /T (n) /V (Ada Lovelace)", "text", "Ada Lovelace", "n: Ada Lovelace"),
        ("/FT /Tx /T (n) /V <FEFF65E5672C>", "text", "日本", "n: 日本"),
        ("/FT /Tx /Ff 4096 /T (n) /V (one\\rtwo\\nthree)", "text", "one\ntwo\nthree", "n: one\ntwo\nthree"),
        ("/FT /Tx /T (n) /V 7 0 R", "text", "from a stream", "n: from a stream"),
        ("/FT /Tx /T (n) /DV (never filled in)", None, None, None),
        ("/FT /Tx /Ff 8192 /T (n) /V (password)", None, None, None),
        ("/FT /Tx /T (n) /RV (<body><p>rich <b>text</b></p></body>)", "text", "rich text", "n: rich text"),
        ("/FT /Btn /T (n) /V /Yes /AS /Yes", "checkbox", "Yes", "n: Yes"),
        ("/FT /Btn /T (n) /V /Off /AS /Off", "checkbox", "Off", None),
        ("/FT /Btn /T (n)", "checkbox", "Off", None),
        ("/FT /Btn /Ff 65536 /T (n) /MK << /CA (Send) >>", None, None, None),
        (
            f"/FT /Ch /Ff {COMBO} /T (n) /V (no) /Opt [[(se) (Sweden)] [(no) (Norway)]]",
            "combobox",
            "Norway",
            "n: Norway",
        ),
        (f"/FT /Ch /Ff {COMBO} /T (n) /V (elsewhere) /Opt [(Sweden)]", "combobox", "elsewhere", "n: elsewhere"),
        ("/FT /Ch /T (n) /V (b) /Opt [(a) (b) (c)]", "listbox", ["b"], "n: b"),
        (f"/FT /Ch /Ff {MULTIPLE} /T (n) /V [(a) (c)] /Opt [(a) (b) (c)]", "listbox", ["a", "c"], "n: a, c"),
    ],
)
async def test_form_field_with_a_value_gives_it_as_field_and_as_text(
    page_of: FieldsOf, field: str, kind: str | None, value: list[str] | str | None, line: str | None
) -> None:
    fields = await page_of(form(field, more=["<< /Length 13 >>\nstream\nfrom a stream\nendstream"]))
    assert fields.get("form_fields") == (None if kind is None else [{"name": "n", "type": kind, "value": value}])
    assert fields["text"] == ("Page" if line is None else f"Page\n\n{line}")


async def test_radio_buttons_of_a_group_give_one_field(page_of: FieldsOf) -> None:
    parent = "<< /FT /Btn /Ff 49152 /T (size) /V /L /Kids [6 0 R 7 0 R] >>"
    buttons = [
        f"<< /Type /Annot /Subtype /Widget /Rect [9 9 19 19] /Parent 8 0 R /AS /{state} "
        f"/AP << /N << /{name} 9 0 R /Off 9 0 R >> >> >>"
        for name, state in (("S", "Off"), ("L", "L"))
    ]
    appearance = "<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Length 0 >>\nstream\n\nendstream"
    content = pdf_file(
        *buttons, parent, appearance, page=f"{LETTER} /Annots [6 0 R 7 0 R]", catalog="/AcroForm << /Fields [8 0 R] >>"
    )
    assert (await page_of(content))["form_fields"] == [{"name": "size", "type": "radio", "value": "L"}]


async def test_field_in_a_hierarchy_has_its_full_name_and_inherited_value(page_of: FieldsOf) -> None:
    parent = "<< /FT /Tx /T (person) /V (Grace) /Kids [6 0 R] >>"
    content = pdf_file(
        "<< /Type /Annot /Subtype /Widget /Rect [9 9 99 29] /Parent 7 0 R /T (name) >>",
        parent,
        page=f"{LETTER} /Annots [6 0 R]",
        catalog="/AcroForm << /Fields [7 0 R] >>",
    )
    assert (await page_of(content))["form_fields"] == [{"name": "person.name", "type": "text", "value": "Grace"}]


async def test_scan_with_a_filled_field_has_text_and_still_needs_ocr(page_of: FieldsOf) -> None:
    picture = (
        "<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /BitsPerComponent 8 /ColorSpace /DeviceGray /Length 1 >>"
    )
    content = pdf_file(
        "<< /Type /Annot /Subtype /Widget /Rect [9 9 99 29] /FT /Tx /T (n) /V (typed) >>",
        f"{picture}\nstream\nx\nendstream",
        content="ET q 9 0 0 9 0 0 cm /I1 Do Q BT",
        page=f"{LETTER} /Resources << /XObject << /I1 7 0 R >> >> /Annots [6 0 R]",
        catalog="/AcroForm << /Fields [6 0 R] >>",
    ).replace(b"/Resources << /Font << /F1 5 0 R >> >> ", b"")
    fields = await page_of(content)
    assert (fields["text"], fields["has_text"], fields["needs_ocr"]) == ("n: typed", True, True)


@pytest.mark.parametrize(
    ("annotation", "note"),
    [
        ("/Subtype /FreeText /Contents (typed)", "typed"),
        ("/Subtype /Text /Contents (a sticky note)", "a sticky note"),
        ("/Subtype /Highlight /Contents (marked)", "marked"),
        ("/Subtype /FreeText /RC (<body><p>only rich</p></body>)", "only rich"),
        ("/Subtype /Stamp /Contents <FEFF627F8A8D>", "承認"),
        ("/Subtype /Popup /Contents (repeats its note)", None),
        ("/Subtype /Text /F 2 /Contents (hidden)", None),
        ("/Subtype /Link /Contents (where a link leads)", None),
    ],
)
async def test_annotation_gives_its_text_once(page_of: FieldsOf, annotation: str, note: str | None) -> None:
    content = pdf_file(f"<< /Type /Annot /Rect [9 9 99 29] {annotation} >>", page=f"{LETTER} /Annots [6 0 R]")
    assert (await page_of(content))["text"] == ("Page" if note is None else f"Page\n\n{note}")


EMBEDDED = "<< /Type /EmbeddedFile /Length 5 >>\nstream\nwords\nendstream"


def specification(name: str, stream: int) -> str:
    return f"<< /Type /Filespec /F (old) /UF ({name}) /EF << /F {stream} 0 R >> >>"


async def test_attached_files_are_named(page_of: FieldsOf) -> None:
    content = pdf_file(
        specification("invoice.xml", 7),
        EMBEDDED,
        "<< /Type /Annot /Subtype /FileAttachment /Rect [9 9 29 29] /Contents (see here) /FS 9 0 R >>",
        specification("photo.jpg", 7),
        page=f"{LETTER} /Annots [8 0 R]",
        catalog="/Names << /EmbeddedFiles << /Names [(x) 6 0 R] >> >>",
    )
    fields = await page_of(content)
    assert fields["attachments"] == ["invoice.xml", "photo.jpg"]
    assert fields["text"] == "Page\n\nsee here"


@pytest.mark.parametrize("xfa", ["6 0 R", "[(datasets) 6 0 R]"])
async def test_xfa_form_is_hinted_at(page_of: FieldsOf, xfa: str) -> None:
    packet = "<< /Length 11 >>\nstream\n<xdp></xdp>\nendstream"
    fields = await page_of(pdf_file(packet, catalog=f"/AcroForm << /Fields [] /XFA {xfa} >>"))
    assert fields["has_xfa"] is True
    assert fields["text"] == "Page"


async def test_xfa_form_with_fields_gives_their_values(page_of: FieldsOf) -> None:
    content = form("/FT /Tx /T (n) /V (Ada)", more=["<< /Length 11 >>\nstream\n<xdp></xdp>\nendstream"])
    fields = await page_of(content.replace(b"/Fields [6 0 R]", b"/Fields [6 0 R] /XFA 7 0 R"))
    assert (fields["has_xfa"], fields["text"]) == (True, "Page\n\nn: Ada")


async def test_plain_page_has_none_of_the_fields_of_special_ones(page_of: FieldsOf) -> None:
    fields = await page_of(pdf_file())
    assert not fields.keys() & {"has_xfa", "attachments", "form_fields", "repaired", "page_error", "title", "file"}


@pytest.mark.parametrize(
    ("page", "pages", "width", "height", "rotation"),
    [
        (LETTER, "", 612.0, 792.0, 0),
        ("", "", 612.0, 792.0, 0),
        ("/MediaBox [595 842 0 0]", "", 595.0, 842.0, 0),
        ("/MediaBox [0 842 595 0]", "", 595.0, 842.0, 0),
        ("/MediaBox [0 0 0 0]", "", 612.0, 792.0, 0),
        ("/MediaBox [0 0]", "", 612.0, 792.0, 0),
        ("/MediaBox (none)", "", 612.0, 792.0, 0),
        ("/MediaBox 6 0 R", "", 300.0, 400.0, 0),
        ("/MediaBox [-100 -50 200 350]", "", 300.0, 400.0, 0),
        ("", "/MediaBox [0 0 300 400] /Rotate 90", 300.0, 400.0, 90),
        ("/MediaBox [0 0 300 400] /Rotate -90", "", 300.0, 400.0, 270),
        ("/MediaBox [0 0 300 400] /Rotate 7", "", 300.0, 400.0, 0),
        ("/MediaBox [0 0 300 400] /CropBox [10 10 110 210]", "", 100.0, 200.0, 0),
    ],
)
async def test_page_box_of_any_form_gives_a_size_and_the_text(
    page_of: FieldsOf, page: str, pages: str, width: float, height: float, rotation: int
) -> None:
    fields = await page_of(pdf_file("[0 0 300 400]", page=page, pages=pages))
    assert fields["text"] == "Page"
    assert fields["page"] == {"width": width, "height": height, "rotation": rotation}


@pytest.mark.parametrize(
    ("encoding", "ordering", "codec", "text"),
    [
        ("UniGB-UCS2-H", "GB1", "utf-16-be", "你好世界"),
        ("UniGB-UTF16-H", "GB1", "utf-16-be", "你好世界"),
        ("GBK-EUC-H", "GB1", "gbk", "你好世界"),
        ("GBK2K-H", "GB1", "gb18030", "你好世界"),
        ("GB-EUC-H", "GB1", "gb2312", "你好"),
        ("90ms-RKSJ-H", "Japan1", "cp932", "日本語テスト"),
        ("90pv-RKSJ-H", "Japan1", "cp932", "日本語"),
        ("UniJIS-UCS2-H", "Japan1", "utf-16-be", "日本語"),
        ("UniJIS-UTF16-H", "Japan1", "utf-16-be", "日本語"),
        ("EUC-H", "Japan1", "euc_jp", "日本語"),
        ("KSCms-UHC-H", "Korea1", "cp949", "한국어"),
        ("KSC-EUC-H", "Korea1", "euc_kr", "한국어"),
        ("UniKS-UCS2-H", "Korea1", "utf-16-be", "한국어"),
        ("ETen-B5-H", "CNS1", "big5", "繁體中文"),
        ("UniCNS-UCS2-H", "CNS1", "utf-16-be", "繁體中文"),
    ],
)
async def test_predefined_cjk_encoding_gives_its_characters(
    page_of: FieldsOf, encoding: str, ordering: str, codec: str, text: str
) -> None:
    assert (await page_of(cjk(encoding, ordering, text.encode(codec))))["text"] == text


async def test_text_without_known_characters_needs_ocr(page_of: FieldsOf) -> None:
    fields = await page_of(cjk("UniJIS-UCS2-V", "Japan1", "日本語".encode("utf-16-be")))
    assert (fields["text"], fields["needs_ocr"]) == ("", True)
    assert (await page_of(pdf_file(content="( ) Tj")))["needs_ocr"] is False


def cjk(encoding: str, ordering: str, text: bytes) -> bytes:
    """A page in a font that is not embedded."""
    font = f"<< /Type /Font /Subtype /Type0 /BaseFont /Any /Encoding /{encoding} /DescendantFonts [6 0 R] >>"
    system = f"/CIDSystemInfo << /Registry (Adobe) /Ordering ({ordering}) /Supplement 2 >>"
    descendant = f"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /Any {system} /DW 1000 /FontDescriptor 7 0 R >>"
    descriptor = "<< /Type /FontDescriptor /FontName /Any /Flags 4 /FontBBox [0 0 1000 1000] /Ascent 800 /Descent 0 >>"
    return pdf_file(descendant, descriptor, content=f"<{text.hex()}> Tj", font=font)


@pytest.mark.parametrize("size", [1, 900, 1019, 1020, 1024, 1500, 50_000])
@pytest.mark.parametrize("filler", [b"\r\n", b"HTTP/1.1 200 OK\r\n", b"\0", b"<html>"])
async def test_bytes_before_the_header_are_skipped(page_of: FieldsOf, size: int, filler: bytes) -> None:
    content = (filler * size)[:size] + pdf_file()
    fields = await page_of(content)
    assert fields["text"] == "Page"
    assert "repaired" not in fields


@pytest.mark.parametrize(
    "tail", [b" " * 5000, b"\0" * 100_000, b"\r\n" * 3000, b"<!-- appended by a proxy -->" * 500, b"\x1a", b""]
)
async def test_bytes_after_the_end_do_not_make_a_file_repaired(page_of: FieldsOf, tail: bytes) -> None:
    assert "repaired" not in await page_of(pdf_file() + tail)


@pytest.mark.parametrize("mark", [b"%%EOF", b"startxref", b"trailer", b"xref\n0"])
async def test_file_without_its_end_is_repaired(page_of: FieldsOf, mark: bytes) -> None:
    content = pdf_file()
    fields = await page_of(content[: content.rindex(mark)])
    assert fields["text"] == "Page"
    assert fields["repaired"] is True


async def test_file_cut_off_behind_bytes_before_its_header_is_repaired(page_of: FieldsOf) -> None:
    content = b"x" * 2000 + pdf_file()
    fields = await page_of(content[: content.rindex(b"trailer")])
    assert (fields["text"], fields["repaired"]) == ("Page", True)


async def test_page_count_that_is_too_high_gives_the_pages_there_are(documents_of: DocumentsOf) -> None:
    content = pdf(["one", "two"]).replace(b"/Count 2", b"/Count 4")
    documents = await documents_of(DocumentExtractor(), blob(content, "a.pdf", "application/pdf", "pdf"))
    assert [document.fields["text"] for document in documents[:2]] == ["one", "two"]
    assert all(document.fields.get("page_error") for document in documents[2:])


async def test_line_end_hyphen_and_astral_characters_are_kept(page_of: FieldsOf) -> None:
    lines = "(inter-) Tj 0 -14 Td (national) Tj"
    assert (await page_of(pdf_file(content=lines)))["text"] == "inter-\nnational"
    emoji = "/ToUnicode 6 0 R"
    mapping = "1 begincodespacerange <00> <FF> endcodespacerange 1 beginbfchar <41> <D83DDE00> endbfchar"
    stream = f"<< /Length {len(mapping)} >>\nstream\n{mapping}\nendstream"
    content = pdf_file(stream, content="(A) Tj", font=HELVETICA.replace(">>", f"{emoji} >>"))
    assert (await page_of(content))["text"] == "\N{GRINNING FACE}"


async def test_pdf_that_unpacks_to_more_than_its_worker_may_use_is_a_resource_error(tmp_path: Path) -> None:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1024**2)) for _ in range(1500)) + packer.flush()
    whole = pdf(["x"])
    start, end = whole.index(b"<< /Length"), whole.index(b"endstream")
    head = b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(packed)
    content = blob(whole[:start] + head + packed + b"\n" + whole[end:], "b.pdf", "application/pdf", "pdf")
    context = ExtractionContext(validate_parameters(DocumentExtractor.info, {}))
    async with WorkerPool(workers=1, temp_dir=tmp_path) as sandbox:
        with pytest.raises(ResourceError):
            async for _ in sandbox.run(DocumentExtractor.info.id, ObjectView("o", "b", "n", blobs=(content,)), context):
                pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{\\rtf1\\ansi words}", "Rich Text"),
        (b"%!PS-Adobe-3.0\nshowpage", "PostScript"),
        (
            b'<?xml version="1.0"?><w:wordDocument xmlns:w="http://schemas.microsoft.com/office/word/2003/wordml"/>',
            "2003",
        ),
        (b"\xd0\xcf\x11\xe0" + bytes(600) + "WordDocument".encode("utf-16-le"), r"old \.doc format"),
        (b"\xd0\xcf\x11\xe0" + bytes(600) + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        (b"\xd0\xcf\x11\xe0" + bytes(600) + "Workbook".encode("utf-16-le"), r"old \.xls format"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "old Office file"),
        (b"just words", "not a PDF file"),
        (b"x" * 100_000 + b"%PDF-1.7", "not a PDF file"),
    ],
)
async def test_file_of_another_kind_is_named_and_not_called_damaged(
    page_of: FieldsOf, content: bytes, reason: str
) -> None:
    with pytest.raises(PermanentError, match=reason) as raised:
        await page_of(content)
    assert "damaged" not in raised.value.message
