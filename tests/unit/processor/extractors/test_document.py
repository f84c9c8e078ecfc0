import io

import docx
import pytest
from docx.oxml import parse_xml
from pypdf import PdfReader, PdfWriter
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob, pdf, picture, saved

from bucketline.extractors import BlobView, PermanentError, ResourceError
from bucketline_processor.extractors.document import DOCX_MEDIA_TYPE, DocumentExtractor


def pdf_blob(content: bytes) -> BlobView:
    return blob(content, "report.pdf", "application/pdf", "pdf")


async def test_a_many_page_pdf_gives_a_document_a_page(documents_of: DocumentsOf) -> None:
    pages = [f"This is page {number} of the report" for number in range(1, 121)]
    documents = await documents_of(DocumentExtractor(), pdf_blob(pdf(pages, title="Annual report")))

    assert [document.fields["text"] for document in documents] == pages
    assert [document.fields["page_number"] for document in documents] == list(range(1, 121))
    first = documents[0].fields
    assert first["page_count"] == 120
    assert first["title"] == "Annual report"
    assert first["author"] == "Ada"
    assert first["file"] == {"created_at": "2026-03-01T12:00:00+00:00"}
    assert first["page"] == {"width": 612.0, "height": 792.0, "rotation": 0}
    assert first["has_text"] is True
    assert first["needs_ocr"] is False
    assert "repaired" not in first


async def test_scanned_pdf_has_needs_ocr(documents_of: DocumentsOf) -> None:
    scan = saved(picture(), "PDF", save_all=True, append_images=[picture()])
    documents = await documents_of(DocumentExtractor(), pdf_blob(scan))

    assert [document.fields["needs_ocr"] for document in documents] == [True, True]
    assert [document.fields["has_text"] for document in documents] == [False, False]
    assert [document.fields["text"] for document in documents] == ["", ""]


async def test_empty_pages_can_be_left_out(documents_of: DocumentsOf) -> None:
    documents = await documents_of(
        DocumentExtractor(), pdf_blob(pdf(["one", "", "three"])), parameters={"include_empty_pages": False}
    )
    assert [document.fields["page_number"] for document in documents] == [1, 3]


def encrypted(user_password: str) -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(pdf(["secret"]))))
    writer.encrypt(user_password, "owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


async def test_an_encrypted_pdf_is_refused_with_the_reason(documents_of: DocumentsOf) -> None:
    with pytest.raises(PermanentError, match=r"'report\.pdf' is encrypted"):
        await documents_of(DocumentExtractor(), pdf_blob(encrypted("sesame")))


async def test_a_pdf_that_only_restricts_printing_is_read(documents_of: DocumentsOf) -> None:
    documents = await documents_of(DocumentExtractor(), pdf_blob(encrypted("")))
    assert documents[0].fields["text"] == "secret"


async def test_a_pdf_cut_off_in_its_index_is_repaired(documents_of: DocumentsOf) -> None:
    whole = pdf(["first page", "second page"])
    documents = await documents_of(DocumentExtractor(), pdf_blob(whole[: whole.index(b"xref\n") + 40]))

    assert [document.fields["text"] for document in documents] == ["first page", "second page"]
    assert all(document.fields["repaired"] is True for document in documents)


async def test_truncated_pdf_yields_its_remaining_pages_or_an_error(documents_of: DocumentsOf) -> None:
    whole = pdf(["first page", "second page"])
    with pytest.raises(PermanentError, match="cut off or damaged and could not be repaired"):
        await documents_of(DocumentExtractor(), pdf_blob(whole[:60]))


async def test_every_cut_ends_in_documents_or_a_clear_error(documents_of: DocumentsOf) -> None:
    whole = pdf(["first page", "second page"])
    outcomes = []
    for length in range(20, len(whole), 37):
        try:
            documents = await documents_of(DocumentExtractor(), pdf_blob(whole[:length]))
        except PermanentError as error:
            outcomes.append(error.message)
        else:
            outcomes.append(documents[0].fields["text"])
    assert set(outcomes) == {
        "'report.pdf' is cut off or damaged and could not be repaired",
        "",
        "first page",
    }


async def test_too_many_pages_are_a_matter_of_resources(documents_of: DocumentsOf) -> None:
    with pytest.raises(ResourceError, match="has 3 pages"):
        await documents_of(DocumentExtractor(), pdf_blob(pdf(["a", "b", "c"])), parameters={"max_pages": 2})


async def test_a_picture_that_claims_to_be_a_pdf_is_refused(documents_of: DocumentsOf) -> None:
    with pytest.raises(PermanentError, match="is not a PDF"):
        await documents_of(DocumentExtractor(), pdf_blob(saved(picture(), "PNG")))


def word_file() -> bytes:
    document = docx.Document()
    document.core_properties.title = "Minutes"
    document.core_properties.author = "Grace"
    document.add_heading("Decisions", level=1)
    document.add_paragraph("We ship on Friday.")
    table = document.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, (("item", "owner"), ("tests", "Ada")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    document.add_paragraph("The end.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


async def test_a_word_file_gives_its_text_in_reading_order(documents_of: DocumentsOf) -> None:
    [document] = await documents_of(DocumentExtractor(), blob(word_file(), "m.docx", DOCX_MEDIA_TYPE, "pdf"))

    assert document.fields["text"].split("\n") == [
        "Decisions", "", "We ship on Friday.", "", "item\towner", "tests\tAda", "", "The end.",
    ]  # fmt: skip
    assert document.fields["headings"] == ["Decisions"]
    assert document.fields["title"] == "Minutes"
    assert document.fields["author"] == "Grace"
    assert document.fields["format"] == "docx"


def word_xml(*blocks: str) -> bytes:
    """A Word file with these blocks of its body."""
    document = docx.Document()
    names = {
        "w": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
        "m": "http://schemas.openxmlformats.org/officeDocument/2006/math",
        "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
    }
    declared = " ".join(f'xmlns:{name}="{uri}"' for name, uri in names.items())
    body = parse_xml(f"<w:body {declared}>{''.join(blocks)}</w:body>")
    for place, block in enumerate(list(body)):
        document.element.body.insert(place, block)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(text: str) -> str:
    return f"<w:p>{run(text)}</w:p>"


def cell(content: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{content}</w:tc>"


async def lines_of(documents_of: DocumentsOf, *blocks: str) -> list[str]:
    [document] = await documents_of(DocumentExtractor(), blob(word_xml(*blocks), "m.docx", DOCX_MEDIA_TYPE, "pdf"))
    return [line for line in document.fields["text"].split("\n") if line]


def row(*cells: str, properties: str = "") -> str:
    return f"<w:tr><w:trPr>{properties}</w:trPr>{''.join(cells)}</w:tr>"


def control(content: str) -> str:
    return f"<w:sdt><w:sdtContent>{content}</w:sdtContent></w:sdt>"


async def test_word_text_includes_controls_changes_boxes_and_formulas(documents_of: DocumentsOf) -> None:
    box = f"<w:txbxContent>{paragraph('in a box')}</w:txbxContent>"
    lines = await lines_of(
        documents_of,
        control(control(paragraph("block control"))),
        f"<w:p><w:pPr><w:tabs><w:tab w:val='left'/></w:tabs></w:pPr>{run('Name: ')}{control(run('Ada'))}</w:p>",
        f"<w:p>{run('costs ')}<w:del>{run('400')}</w:del><w:moveFrom>{run('900')}</w:moveFrom>"
        f"<w:ins>{run('500')}</w:ins><w:moveTo>{run(' EUR')}</w:moveTo></w:p>",
        f"<w:p>{run('above')}<w:r><mc:AlternateContent><mc:Choice Requires='wps'>{box}</mc:Choice>"
        f"<mc:Fallback><w:pict>{box}</w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>",
        f"<w:p>{run('E = ')}<m:oMath><m:r><m:t>mc</m:t></m:r></m:oMath></w:p>",
        f"<w:p><w:hyperlink>{run('a')}</w:hyperlink><w:r><w:tab/><w:br/><w:br w:type='page'/></w:r>{run('b')}</w:p>",
    )
    assert lines == ["block control", "Name: Ada", "costs 500 EUR", "above", "in a box", "E = mc", "a\t", "b"]


async def test_a_word_file_gives_its_tables_however_they_are_put_together(documents_of: DocumentsOf) -> None:
    merged = "<w:vMerge/>"
    inner = f"<w:tbl>{row(cell(paragraph('in')), cell(paragraph('side')))}</w:tbl>"
    rows = [
        row(cell(paragraph("goes on above"), merged)),
        row(cell(paragraph("a") + paragraph("b")), cell("<w:p/>", merged), cell(paragraph("c"))),
        control(row(control(cell(paragraph("row control"))))),
        row(cell(paragraph("deleted row")), properties="<w:del/>"),
        row(cell(paragraph("outer") + inner + "<w:p/>"), cell(paragraph("wide"), "<w:gridSpan w:val='2'/>")),
    ]
    lines = await lines_of(documents_of, f"<w:tbl>{''.join(rows)}</w:tbl>")
    assert lines == ["goes on above", "a b\t\tc", "row control", "outer in side\twide"]


async def test_headings_in_a_control_are_headings(documents_of: DocumentsOf) -> None:
    heading = f"<w:p><w:pPr><w:pStyle w:val='Heading1'/></w:pPr>{run('Terms')}</w:p>"
    content = word_xml(control(heading), paragraph("none"))
    [document] = await documents_of(DocumentExtractor(), blob(content, "m.docx", DOCX_MEDIA_TYPE, "pdf"))
    assert document.fields["headings"] == ["Terms"]


async def test_half_a_word_file_is_a_clear_error(documents_of: DocumentsOf) -> None:
    content = word_file()
    with pytest.raises(PermanentError, match=r"'m\.docx' is damaged"):
        await documents_of(DocumentExtractor(), blob(content[: len(content) // 2], "m.docx", DOCX_MEDIA_TYPE))


async def test_an_old_office_file_is_a_clear_error(documents_of: DocumentsOf) -> None:
    content = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)
    with pytest.raises(PermanentError, match="old Office file"):
        await documents_of(DocumentExtractor(), blob(content, "m.docx", DOCX_MEDIA_TYPE))


@pytest.mark.parametrize(
    ("name", "mime_type"), [("a.pdf", "application/pdf"), ("a.docx", DOCX_MEDIA_TYPE), ("a.html", "text/html")]
)
async def test_an_empty_file_is_called_empty(documents_of: DocumentsOf, name: str, mime_type: str) -> None:
    with pytest.raises(PermanentError, match=f"'{name}' is empty"):
        await documents_of(DocumentExtractor(), blob(b"", name, mime_type))


async def test_a_word_file_with_a_damaged_entry_is_a_clear_error(documents_of: DocumentsOf) -> None:
    content = bytearray(word_file())
    start = content.index(b"word/document.xml") + 200
    content[start : start + 20] = bytes(20)
    with pytest.raises(PermanentError, match=r"'m\.docx' is damaged"):
        await documents_of(DocumentExtractor(), blob(bytes(content), "m.docx", DOCX_MEDIA_TYPE))
