import datetime
import io
import zipfile

import openpyxl
import openpyxl.chart
import pytest
from tests.unit.processor.extractors.files import blob
from tests.unit.processor.extractors.test_table import XLSX, rows

from bucketline.extraction import PermanentError, ResourceError
from processor.extractors.table import TableExtractor


def workbook() -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
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


async def test_excel_sheets_follow_each_other(documents_of):
    documents = await documents_of(TableExtractor(), blob(workbook(), "b.xlsx", XLSX, "excel"))

    assert rows(documents) == [
        {"day": "2026-03-01T12:00:00", "amount": 12.5, "ok": True},
        {"day": "2026-03-02T00:00:00", "amount": 7, "ok": False},
        {"code": "007"},
    ]
    kinds = {"day": "datetime", "amount": "float", "ok": "boolean"}
    assert documents[0].fields["table"] == {"row": 1, "format": "excel", "sheet": "Sales", "columns": kinds}
    assert documents[2].fields["table"]["sheet"] == "Codes"


async def test_years_and_dates_name_the_columns_of_a_sheet(documents_of):
    book = openpyxl.Workbook()
    for row in (["region", 2023, datetime.date(2024, 1, 1)], ["north", 1, 2.5], ["south", 3, None]):
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    documents = await documents_of(TableExtractor(), blob(out.getvalue(), "b.xlsx", XLSX, "excel"))
    assert rows(documents) == [
        {"region": "north", "2023": 1, "2024-01-01": 2.5},
        {"region": "south", "2023": 3, "2024-01-01": None},
    ]


async def test_one_sheet_can_be_chosen(documents_of):
    book = blob(workbook(), "b.xlsx", XLSX, "excel")
    assert rows(await documents_of(TableExtractor(), book, parameters={"sheets": ["Codes"]})) == [{"code": "007"}]
    with pytest.raises(PermanentError, match="no sheet 'Nope'"):
        await documents_of(TableExtractor(), book, parameters={"sheets": ["Nope"]})


async def test_damaged_and_foreign_archives_are_clear_errors(documents_of):
    content = workbook()
    with pytest.raises(PermanentError, match=r"'b\.xlsx' is damaged"):
        await documents_of(TableExtractor(), blob(content[:-300], "b.xlsx", XLSX, "excel"))
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(PermanentError, match="is no Excel"):
        await documents_of(TableExtractor(), blob(other.getvalue(), "b.xlsx", XLSX, "excel"))


async def test_a_zip_bomb_is_refused_before_it_is_unpacked(documents_of):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * 64 * 1024 * 1024)
    with pytest.raises(ResourceError, match="unpacks to"):
        await documents_of(TableExtractor(), blob(bomb.getvalue(), "b.xlsx", XLSX, "excel"))


async def test_a_chart_beside_the_sheets_is_passed_over(documents_of):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["day", "n"])
    sheet.append(["Monday", 3])
    chart = openpyxl.chart.BarChart()
    chart.add_data(openpyxl.chart.Reference(sheet, min_col=2, min_row=1, max_row=2))
    book.create_chartsheet("Chart", 0).add_chart(chart)
    out = io.BytesIO()
    book.save(out)
    documents = await documents_of(TableExtractor(), blob(out.getvalue(), "t.xlsx", XLSX, "excel"))
    assert rows(documents) == [{"day": "Monday", "n": 3}]


def saved(book):
    out = io.BytesIO()
    book.save(out)
    return blob(out.getvalue(), "b.xlsx", XLSX, "excel")


@pytest.mark.parametrize("late", [False, True])
async def test_a_cell_far_out_is_one_more_column_and_costs_no_other_sheet(documents_of, late):
    book = openpyxl.Workbook()
    book.active.append(["item", "owner"])
    for number in range(120):
        book.active.append([f"i{number}", "Ada"])
    row = 110 if late else 3
    book.active.cell(row, 16_384, "stray")
    book.active.cell(row, 3, "third")
    other = book.create_sheet("Other")
    for cells in (["code"], ["007"]):
        other.append(cells)
    documents = await documents_of(TableExtractor(), saved(book))

    found = rows(documents)
    assert found[-1] == {"code": "007"}
    assert found[row - 2] == {"item": f"i{row - 2}", "owner": "Ada", "column_3": "third", "column_16384": "stray"}
    empty = {} if late else {"column_3": None, "column_16384": None}
    assert found[0] == {"item": "i0", "owner": "Ada", **empty}


async def test_a_sheet_with_too_many_columns_is_named(documents_of):
    book = openpyxl.Workbook()
    book.active.append([f"c{number}" for number in range(5001)])
    with pytest.raises(PermanentError, match=r"the sheet 'Sheet' of 'b\.xlsx' has 5001 columns; 5000 are allowed"):
        await documents_of(TableExtractor(), saved(book))
