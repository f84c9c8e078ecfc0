import datetime
import io
import time
import zipfile

import openpyxl
import openpyxl.chart
import pytest
import xlwt
from openpyxl.worksheet.worksheet import Worksheet
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob
from tests.unit.processor.extractors.spreadsheets import archive, ods, ods_cell, ods_row, text_cell, xlsb, xlsx
from tests.unit.processor.extractors.test_table import XLSX, rows

from bucketline.extractors import BlobView, PermanentError, ResourceError
from bucketline_processor.extractors.table import TableExtractor


def new_workbook() -> tuple[openpyxl.Workbook, Worksheet]:
    """Return a workbook and its only sheet."""
    book = openpyxl.Workbook()
    assert isinstance(book.active, Worksheet)
    return book, book.active


def workbook() -> bytes:
    book, sheet = new_workbook()
    sheet.title = "Sales"
    sheet.append(["day", "amount", "ok"])
    sheet.append([datetime.datetime(2026, 3, 1, 12, 0), 12.5, True])
    sheet.append([None, None, None])
    sheet.append([datetime.datetime(2026, 3, 2), 7, False])
    book.create_sheet("Empty")
    other = book.create_sheet("Codes")
    other.append(["code"])
    other.append(["007"])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


async def test_excel_sheets_follow_each_other(documents_of: DocumentsOf) -> None:
    documents = await documents_of(TableExtractor(), blob(workbook(), "b.xlsx", XLSX, "excel"))

    assert rows(documents) == [
        {"day": "2026-03-01T12:00:00", "amount": 12.5, "ok": True},
        {"day": "2026-03-02T00:00:00", "amount": 7, "ok": False},
        {"code": "007"},
    ]
    kinds = {"day": "datetime", "amount": "float", "ok": "boolean"}
    assert documents[0].fields["table"] == {"row": 1, "format": "excel", "sheet": "Sales", "columns": kinds}
    assert documents[2].fields["table"]["sheet"] == "Codes"


async def test_years_and_dates_name_the_columns_of_a_sheet(documents_of: DocumentsOf) -> None:
    book, sheet = new_workbook()
    for row in (["region", 2023, datetime.date(2024, 1, 1)], ["north", 1, 2.5], ["south", 3, None]):
        sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    documents = await documents_of(TableExtractor(), blob(out.getvalue(), "b.xlsx", XLSX, "excel"))
    assert rows(documents) == [
        {"region": "north", "2023": 1, "2024-01-01": 2.5},
        {"region": "south", "2023": 3, "2024-01-01": None},
    ]


async def test_one_sheet_can_be_chosen(documents_of: DocumentsOf) -> None:
    book = blob(workbook(), "b.xlsx", XLSX, "excel")
    assert rows(await documents_of(TableExtractor(), book, parameters={"sheets": ["Codes"]})) == [{"code": "007"}]
    with pytest.raises(PermanentError, match="no sheet 'Nope'"):
        await documents_of(TableExtractor(), book, parameters={"sheets": ["Nope"]})


async def test_damaged_and_foreign_archives_are_clear_errors(documents_of: DocumentsOf) -> None:
    content = workbook()
    with pytest.raises(PermanentError, match=r"'b\.xlsx' is damaged"):
        await documents_of(TableExtractor(), blob(content[:-300], "b.xlsx", XLSX, "excel"))
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(PermanentError, match="is no spreadsheet file; it is another ZIP archive"):
        await documents_of(TableExtractor(), blob(other.getvalue(), "b.xlsx", XLSX, "excel"))


async def test_a_zip_bomb_is_refused_before_it_is_unpacked(documents_of: DocumentsOf) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * 64 * 1024 * 1024)
    with pytest.raises(ResourceError, match="unpacks to"):
        await documents_of(TableExtractor(), blob(bomb.getvalue(), "b.xlsx", XLSX, "excel"))


async def test_a_chart_beside_the_sheets_is_passed_over(documents_of: DocumentsOf) -> None:
    book, sheet = new_workbook()
    sheet.append(["day", "n"])
    sheet.append(["Monday", 3])
    chart = openpyxl.chart.BarChart()
    chart.add_data(openpyxl.chart.Reference(sheet, min_col=2, min_row=1, max_row=2))
    book.create_chartsheet("Chart", 0).add_chart(chart)
    out = io.BytesIO()
    book.save(out)
    documents = await documents_of(TableExtractor(), blob(out.getvalue(), "t.xlsx", XLSX, "excel"))
    assert rows(documents) == [{"day": "Monday", "n": 3}]


def saved(book: openpyxl.Workbook | xlwt.Workbook) -> BlobView:
    out = io.BytesIO()
    book.save(out)
    return blob(out.getvalue(), "b.xlsx", XLSX, "excel")


@pytest.mark.parametrize("late", [False, True])
async def test_a_cell_far_out_is_one_more_column_and_costs_no_other_sheet(
    documents_of: DocumentsOf, late: bool
) -> None:
    book, sheet = new_workbook()
    sheet.append(["item", "owner"])
    for number in range(120):
        sheet.append([f"i{number}", "Ada"])
    row = 110 if late else 3
    sheet.cell(row, 16_384, "stray")
    sheet.cell(row, 3, "third")
    other = book.create_sheet("Other")
    for cells in (["code"], ["007"]):
        other.append(cells)
    documents = await documents_of(TableExtractor(), saved(book))

    found = rows(documents)
    assert found[-1] == {"code": "007"}
    assert found[row - 2] == {"item": f"i{row - 2}", "owner": "Ada", "column_3": "third", "column_16384": "stray"}
    empty = {} if late else {"column_3": None, "column_16384": None}
    assert found[0] == {"item": "i0", "owner": "Ada", **empty}


async def test_a_sheet_with_too_many_columns_is_named(documents_of: DocumentsOf) -> None:
    book, sheet = new_workbook()
    sheet.append([f"c{number}" for number in range(5001)])
    with pytest.raises(PermanentError, match=r"the sheet 'Sheet' of 'b\.xlsx' has 5001 columns; 5000 are allowed"):
        await documents_of(TableExtractor(), saved(book))


ODS = "application/vnd.oasis.opendocument.spreadsheet"
HEADER = f'<row r="1">{text_cell("A1", "k")}{text_cell("B1", "v")}</row>'


def book(content: bytes, name: str = "b.xlsx", mime_type: str = XLSX) -> BlobView:
    return blob(content, name, mime_type, "excel")


async def test_workbook_in_strict_open_xml_is_read(documents_of: DocumentsOf) -> None:
    row = '<row r="2"><c r="A2"><v>1</v></c><c r="B2" t="d"><v>2026-03-01T10:00:00</v></c></row>'
    documents = await documents_of(TableExtractor(), book(xlsx(HEADER + row, strict=True)))
    assert rows(documents) == [{"k": 1, "v": "2026-03-01T10:00:00"}]


@pytest.mark.parametrize("number", [14, *range(27, 32), 36, *range(50, 55), 57, 58])
async def test_built_in_date_formats_of_every_language_give_dates(documents_of: DocumentsOf, number: int) -> None:
    row = '<row r="2"><c r="A2"><v>45000</v></c><c r="B2" s="1"><v>45000</v></c></row>'
    documents = await documents_of(TableExtractor(), book(xlsx(HEADER + row, formats=str(number))))
    assert rows(documents) == [{"k": 45000, "v": "2023-03-15T00:00:00"}]


async def test_dates_since_1904_are_not_four_years_early(documents_of: DocumentsOf) -> None:
    row = '<row r="2"><c r="A2" s="1"><v>1</v></c><c r="B2" s="2"><v>1.5</v></c></row>'
    content = xlsx(HEADER + row, formats="14 22", properties='<workbookPr date1904="1"/>')
    documents = await documents_of(TableExtractor(), book(content))
    assert rows(documents) == [{"k": "1904-01-02T00:00:00", "v": "1904-01-02T12:00:00"}]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a_x000D_\nb", "a\r\nb"),
        ("a_x000a_b_x0009_c", "a\nb\tc"),
        ("_x005F_x000D_", "_x000D_"),
        ("_x005f_x0041_ _x0041_", "_x0041_ A"),
        ("_x00g0_ a_x_", "_x00g0_ a_x_"),
        ("_xE9_ _x00E9_", "_xE9_ é"),
    ],
)
async def test_escaped_characters_are_decoded_in_every_kind_of_string(
    documents_of: DocumentsOf, written: str, expected: str
) -> None:
    other = f'<c r="B2" t="str"><f>X</f><v>{written}</v></c><c r="C2" t="s"><v>0</v></c>'
    row = f'<row r="2">{text_cell("A2", written)}{other}</row>'
    documents = await documents_of(TableExtractor(), book(xlsx(HEADER + row, shared=f"<si><t>{written}</t></si>")))
    assert rows(documents) == [{"k": expected, "v": expected, "column_3": expected}]


async def test_formulas_without_a_saved_value_are_marked(documents_of: DocumentsOf) -> None:
    row = (
        '<row r="2"><c r="A2"><f>SUM(1,2)</f></c><c r="B2"><f>1/3</f><v></v></c></row>'
        '<row r="3"><c r="A3"><f>1+1</f><v>2</v></c><c r="B3" t="str"><f>A1</f><v></v></c></row>'
        '<row r="9"><c r="A9" t="b"><f>TRUE()</f><v/></c></row>'
    )
    documents = await documents_of(TableExtractor(), book(xlsx(HEADER + row)))
    assert rows(documents) == [{"k": "=SUM(1,2)", "v": "=1/3"}, {"k": 2, "v": None}, {"k": "=TRUE()", "v": None}]
    assert documents[0].fields["table"]["uncalculated"] == ["A2", "B2", "A9"]
    assert "uncalculated" not in documents[1].fields["table"]


async def test_numbers_in_workbooks_keep_their_digits(documents_of: DocumentsOf) -> None:
    values = [
        "12345678901234567890",
        "9007199254740993",
        "1E400",
        "-1E999",
        "1E-400",
        "1.1000000000000001",
        "5.0",
        "0.1",
        "9" * 400,
    ]
    cells = "".join(f'<row r="{n}"><c r="A{n}"><v>{value}</v></c></row>' for n, value in enumerate(values, start=2))
    documents = await documents_of(
        TableExtractor(), book(xlsx(f'<row r="1">{text_cell("A1", "n")}</row>{cells}')), parameters={"header": "yes"}
    )
    found = [row["n"] for row in rows(documents)]
    assert found == ["12345678901234567890", 9007199254740993, "1E400", "-1E999", "1E-400", 1.1, 5, 0.1, "9" * 400]


async def test_error_values_are_text(documents_of: DocumentsOf) -> None:
    row = '<row r="2"><c r="A2" t="e"><v>#N/A</v></c><c r="B2" t="e"><f>1/0</f><v>#DIV/0!</v></c></row>'
    documents = await documents_of(TableExtractor(), book(xlsx(HEADER + row)))
    assert rows(documents) == [{"k": "#N/A", "v": "#DIV/0!"}]


async def test_titles_above_the_header_are_the_preamble(documents_of: DocumentsOf) -> None:
    content = xlsx(
        f'<row r="1">{text_cell("B1", "Sales 2026")}</row><row r="2"/><row r="3"><c r="A3"/></row>'
        f'<row r="4">{text_cell("B4", "region")}{text_cell("C4", "units")}</row>'
        f'<row r="5">{text_cell("B5", "north")}<c r="C5"><v>5</v></c></row>'
    )
    [document] = await documents_of(TableExtractor(), book(content))
    assert rows([document]) == [{"region": "north", "units": 5}]
    assert document.fields["table"]["preamble"] == ["Sales 2026"]


@pytest.mark.parametrize(
    "content",
    [
        xlsx('<row r="1"><c r="A1"><v>1</v></c></row><row r="2147483647"><c r="A2147483647"><v>1</v></c></row>'),
        xlsx('<row r="2147483647"><c r="A1"><v>1</v></c></row>'),
        xlsx('<row r="99999999999999999999"/>'),
        xlsx('<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'),
        xlsx('<row r="1"><c r="ZZZ1"><v>1</v></c></row>'),
        xlsx('<row r="1"><c r="AAAAAA1"><v>1</v></c></row>'),
        ods(ods_row(ods_cell(1, repeated=16384), repeated=1048576)),
        ods(ods_row(ods_cell(1)) + ods_row("<table:table-cell/>", repeated=4_000_000_000) + ods_row(ods_cell(1))),
        ods(ods_row(ods_cell(1, repeated=10**15))),
        xlsb((0, {0: "a"}), (2147483647, {0: 1.0})),
        xlsb((0, {0: "a"}), (1048575, {16383: 1.0})),
    ],
)
async def test_sheet_that_claims_more_than_memory_holds_is_refused(documents_of: DocumentsOf, content: bytes) -> None:
    begin = time.monotonic()
    with pytest.raises((PermanentError, ResourceError), match=r"'b\.bin' (names a cell|has a sheet of)"):
        await documents_of(TableExtractor(), book(content, "b.bin"))
    assert time.monotonic() - begin < 2


async def test_empty_formatted_cells_far_out_cost_nothing(documents_of: DocumentsOf) -> None:
    row = '<row r="2"><c r="A2"><v>1</v></c><c r="XFD2" s="0"/></row><row r="1048576"><c r="XFD1048576"/></row>'
    assert rows(await documents_of(TableExtractor(), book(xlsx(HEADER + row)))) == [{"k": 1, "v": None}]


async def test_open_document_repeats_cells_and_rows(documents_of: DocumentsOf) -> None:
    content = ods(
        ods_row(ods_cell("a"), ods_cell("b"), ods_cell("c"))
        + ods_row(ods_cell(1, repeated=2), ods_cell(2.5), repeated=2)
        + ods_row('<table:table-cell table:number-columns-repeated="16384"/>', repeated=3)
        + ods_row(
            '<table:table-cell office:value-type="date" office:date-value="2026-03-01"/>',
            '<table:table-cell office:value-type="boolean" office:boolean-value="true"/>',
            '<table:table-cell office:value-type="percentage" office:value="0.5"/>',
        )
        + ods_row('<table:table-cell table:number-columns-repeated="16384"/>', repeated=1048570)
    )
    documents = await documents_of(TableExtractor(), book(content, "t.ods", ODS))
    same = {"a": 1, "b": 1, "c": 2.5}
    assert rows(documents) == [same, same, {"a": "2026-03-01T00:00:00", "b": True, "c": 0.5}]


async def test_binary_workbook_is_read(documents_of: DocumentsOf) -> None:
    content = xlsb((0, {0: "a", 1: "b"}), (1, {0: 1.0, 1: 2.5}), (3, {0: 3.0}))
    assert rows(await documents_of(TableExtractor(), book(content, "t.xlsb"))) == [
        {"a": 1, "b": 2.5},
        {"a": 3, "b": None},
    ]


def old_workbook() -> bytes:
    written = xlwt.Workbook()
    sheet = written.add_sheet("Old")
    for place, name in enumerate(("day", "n", "group")):
        sheet.write(0, place, name)
    sheet.write(1, 0, datetime.datetime(2026, 3, 1, 12), xlwt.easyxf(num_format_str="yyyy-mm-dd hh:mm"))
    sheet.write(1, 1, 2.5)
    sheet.write_merge(1, 2, 2, 2, "merged")
    sheet.write(2, 1, 7)
    out = io.BytesIO()
    written.save(out)
    return out.getvalue()


async def test_old_workbook_is_read_with_dates_and_merged_cells(documents_of: DocumentsOf) -> None:
    documents = await documents_of(TableExtractor(), book(old_workbook(), "t.xls", "application/vnd.ms-excel"))
    assert rows(documents) == [
        {"day": "2026-03-01T12:00:00", "n": 2.5, "group": "merged"},
        {"day": None, "n": 7, "group": None},
    ]
    assert documents[0].fields["table"]["sheet"] == "Old"


def old_office_file(stream: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + stream.encode("utf-16-le") + bytes(512)


def encrypted_old_workbook() -> bytes:
    """The record that follows the beginning becomes FILEPASS."""
    content = bytearray(old_workbook())
    follows = content.index(b"\x09\x08\x10\x00\x00\x06\x05\x00") + 20
    content[follows : follows + 2] = b"\x2f\x00"
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (old_office_file("EncryptedPackage"), "is password-protected; save it without a password"),
        (encrypted_old_workbook(), "is password-protected; save it without a password"),
        (ods(ods_row(ods_cell(1)), "<encryption-data/>"), "is password-protected; save it without a password"),
        (old_office_file("WordDocument"), "is no spreadsheet file; it is an old Word file"),
        (archive({"Index/Document.iwa": b"x"}), r"is no spreadsheet file; it is an Apple iWork file \(Numbers"),
        (archive({"word/document.xml": b"x"}), "is no spreadsheet file; it is a Word file"),
        (archive({"xl/workbook.bin": b"\x83\x01\x00", "xl/worksheets/sheet1.bin": b"\x81\x01\x00"}), "cannot be read"),
        (xlsx("<row>"), "cannot be read as a spreadsheet: its XML is not well-formed"),
        (b"PARE" + bytes(100), "is an encrypted Parquet file, which is not supported"),
        (b"SQLite format 3\0" + bytes(100), "is an SQLite database, which is not supported"),
        (b"<html><body><table>", "is HTML, not a table"),
    ],
)
async def test_unsupported_file_is_named_and_not_called_damaged(
    documents_of: DocumentsOf, content: bytes, message: str
) -> None:
    with pytest.raises(PermanentError, match=message) as refused:
        await documents_of(TableExtractor(), book(content, "a.xls", "application/vnd.ms-excel"))
    assert "damaged" not in str(refused.value)
