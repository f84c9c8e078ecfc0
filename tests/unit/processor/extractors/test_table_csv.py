import pytest
from tests.unit.processor.extractors.conftest import DocumentsOf
from tests.unit.processor.extractors.files import blob
from tests.unit.processor.extractors.test_table import csv_blob, rows

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.table import TableExtractor


async def table_of(
    documents_of: DocumentsOf, text: str, name: str = "t.csv", **parameters: object
) -> tuple[list[dict[str, object]], list[str]]:
    documents = await documents_of(TableExtractor(), blob(text.encode(), name, "", "excel"), parameters=parameters)
    preamble = documents[0].fields["table"].get("preamble", []) if documents else []
    return rows(documents), preamble


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # digits that 64 bits or a double cannot keep
        (["1e400", "-1e999", "1.5"], ["1e400", "-1e999", "1.5"]),
        (["1e-400", "1.5"], ["1e-400", "1.5"]),
        (["0e-999", "-0.0"], [0.0, 0.0]),
        (["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)]),
        (["9223372036854775808", "1"], ["9223372036854775808", "1"]),
        (["-9223372036854775809", "1"], ["-9223372036854775809", "1"]),
        (["0.123456789012345678901234567890", "1"], ["0.123456789012345678901234567890", "1"]),
        (["12345678901234.567", "1.5"], ["12345678901234.567", "1.5"]),
        (["0.100000000000000000000000000000", "2.500000000000000000000000000000"], [0.1, 2.5]),
        (["0.30000000000000004", "1.7976931348623157e+308"], [0.1 + 0.2, 1.7976931348623157e308]),
        (["0.10000000000000001", "0.20000000000000001"], [0.1, 0.2]),
        # exponents: numbers, or codes
        (["1E5", "3E7", "2E10"], ["1E5", "3E7", "2E10"]),
        (["12", "1E5"], ["12", "1E5"]),
        (["1.5", "2e3"], [1.5, 2000.0]),
        (["1e-5", "2E+3"], [1e-5, 2000.0]),
        # decimals: measurements and prices, or versions
        (["1.10", "1.9", "2.0"], ["1.10", "1.9", "2.0"]),
        (["1.9", "1.10", "2"], ["1.9", "1.10", "2"]),
        (["1.50", "2.00", "10.10"], [1.5, 2.0, 10.1]),
        (["2.50", "3"], [2.5, 3.0]),
        (["1.5", "2.25", "3.0"], [1.5, 2.25, 3.0]),
        (["-1.50", "2.5"], [-1.5, 2.5]),
        (["1000.50", "2.5"], [1000.5, 2.5]),
        (["1.2.3", "1.10.0"], ["1.2.3", "1.10.0"]),
        # what looks like a number and is none
        (["007", "7"], ["007", "7"]),
        (["+4930123", "12"], ["+4930123", "12"]),
        (["0x1F", "0xFF"], ["0x1F", "0xFF"]),
        (["1_000", "2_000"], ["1_000", "2_000"]),
        (["\u0661\u0662", "3"], ["\u0661\u0662", "3"]),
        (["NaN", "inf"], ["NaN", "inf"]),
        (["-0", "3"], [0, 3]),
        (["yes", "no"], ["yes", "no"]),
        (["1", "true"], ["1", "true"]),
        (["", "5"], [None, 5]),
    ],
)
async def test_column_of_numbers_keeps_the_digits_of_every_value(
    documents_of: DocumentsOf, values: list[str], expected: list[object]
) -> None:
    found, _ = await table_of(documents_of, "v,k\n" + "".join(f"{value},x\n" for value in values))
    assert [row["v"] for row in found] == expected


async def test_late_number_beyond_a_double_stays_text_in_a_column_of_numbers(documents_of: DocumentsOf) -> None:
    found, _ = await table_of(documents_of, "v,n\n" + "1.5,1\n" * 1000 + "1e400,9223372036854775808\n")
    assert found[999:] == [{"v": 1.5, "n": 1}, {"v": "1e400", "n": "9223372036854775808"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('k,   n,      c\n"A,B", "R,1",  "Oslo, Norway"\n', {"k": "A,B", "n": "R,1", "c": "Oslo, Norway"}),
        ('k; n\n1;   "two\nlines; one"\n', {"k": 1, "n": "two\nlines; one"}),
        ('"k" , "n"\n"x" , "y, z"  \n', {"k": "x", "n": "y, z"}),
        ('k, n\n1, "say ""hi"", you"\n', {"k": 1, "n": 'say "hi", you'}),
        ('k,n\n1,he said "hi" , there\n', {"k": 1, "n": 'he said "hi" ', "column_3": " there"}),
        ('k,n\n1,"he said \\"hi\\", twice"\n2,"ok"\n', {"k": 1, "n": 'he said "hi", twice'}),
        ('k, n\n1, "a \\"b\\", c"\n', {"k": 1, "n": 'a "b", c'}),
        ('k,n\n"C:\\new\\\\x \\"y\\"",1\n', {"k": 'C:\\new\\x "y"', "n": 1}),
        ('k,n\n"C:\\dir\\","x"\n"D:\\","y"\n', {"k": "C:\\dir\\", "n": "x"}),
        ('k,n\n1,"{""a"": ""q\\""x""}"\n', {"k": 1, "n": '{"a": "q\\"x"}'}),
        ("k,n\n1, x \n", {"k": 1, "n": " x "}),
    ],
)
async def test_quotes_of_every_dialect_enclose_one_cell(
    documents_of: DocumentsOf, text: str, expected: dict[str, object]
) -> None:
    found, _ = await table_of(documents_of, text)
    assert found[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('id\tt\n1\t"Hello\n2\tWorld\n3\t"Again\n', ['"Hello', "World", '"Again']),
        ('id\tt\n1\t"Hello\n2\tWorld\n', ['"Hello', "World"]),
        ('id\tt\n1\t5"\n2\t"6" pipe"\n', ['5"', '"6" pipe"']),
        ("id\tt\n" + "1\tx\n" * 20_000 + '2\t"Late\n3\ty\n', ["x"] * 20_000 + ['"Late', "y"]),
        ('id\tt\n1\t"x\ty"\n2\t"p ""q""\nr"\n', ["x\ty", 'p "q"\nr']),
    ],
)
async def test_quotes_in_tab_separated_text_count_only_when_all_are_well_formed(
    documents_of: DocumentsOf, text: str, expected: list[str]
) -> None:
    found, _ = await table_of(documents_of, text, "t.tsv")
    assert [row["t"] for row in found] == expected


@pytest.mark.parametrize(
    ("text", "preamble"),
    [
        ("Report\nas of 2026\n\nk,n,p\na,5,1.5\n", ["Report", "as of 2026"]),
        ("Report\nk,n,p\na,5,1.5\n", ["Report"]),
        ("Report,,\nas of,2026,\n,,\nk,n,p\na,5,1.5\n", ["Report", "as of 2026"]),
        ("Report, 2026, by us, draft\n\nk,n,p\na,5,1.5\n", ["Report 2026 by us draft"]),
        ("Bericht\nStand: heute\n\nk;n;p\na;5;1.5\n", ["Bericht", "Stand: heute"]),
        ("# made by x\n# v2\nk,n,p\na,5,1.5\n", ["made by x", "v2"]),
        ("# it's 5\" wide, really\nk,n,p\na,5,1.5\n", ["it's 5\" wide, really"]),
        ("##x\n# one, two, three\nk,n,p\na,5,1.5\n# end, of, file\n", ["x", "one, two, three"]),
        ("#made by x\n\nReport\n\nk,n,p\na,5,1.5\n", ["made by x", "Report"]),
        ("k,n,p\n# note\na,5,1.5\n#\n", []),
        ("k,n,p\n\n   \n,,\na,5,1.5\n \n", []),
        ("k,n,p\r\na,5,1.5\r\n\x1a", []),
        ("k,n,p\na,5,1.5\x1a\x1a", []),
    ],
)
async def test_lines_that_are_not_of_the_table_give_no_rows(
    documents_of: DocumentsOf, text: str, preamble: list[object]
) -> None:
    assert await table_of(documents_of, text) == ([{"k": "a", "n": 5, "p": 1.5}], preamble)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,city\nann,oslo\n\nbob,rome\n", [{"name": "ann", "city": "oslo"}, {"name": "bob", "city": "rome"}]),
        ("tag,n\n#a,1\n#b,2\n", [{"tag": "#a", "n": 1}, {"tag": "#b", "n": 2}]),
        ("#id,name\n1,x\n", [{"#id": 1, "name": "x"}]),
        ("# a,b\n1.5,2\n2.5,3\n", [{"a": 1.5, "b": 2}, {"a": 2.5, "b": 3}]),
        ("#CHROM\tPOS\n1\t100\n", [{"#CHROM": 1, "POS": 100}]),
        ("#a\n#b\n", [{"#a": "#b"}]),
        ("text\n# one\n## two\n", [{"text": "# one"}, {"text": "## two"}]),
        ("tag\n#a\n#b\n", [{"tag": "#a"}, {"tag": "#b"}]),
        ('a,b\n"#x",\n', [{"a": "#x", "b": None}]),
        ("name\nann,1\nbob,2\n", [{"name": "ann", "column_2": 1}, {"name": "bob", "column_2": 2}]),
        ("a,b\n1,2,x\n3,4,y\n", [{"a": 1, "b": 2, "column_3": "x"}, {"a": 3, "b": 4, "column_3": "y"}]),
    ],
)
async def test_rows_that_look_like_comments_or_titles_are_kept(
    documents_of: DocumentsOf, text: str, expected: list[dict[str, object]]
) -> None:
    assert await table_of(documents_of, text) == (expected, [])


async def test_header_parameter_overrides_the_detection(documents_of: DocumentsOf) -> None:
    text = "Report\n\nk,n\na,5\n"
    assert (await table_of(documents_of, text, header="yes"))[0][0] == {"Report": "k", "column_2": "n"}
    assert (await table_of(documents_of, text, header="no"))[0][0] == {"column_1": "Report", "column_2": None}


async def test_file_of_blank_lines_has_no_documents(documents_of: DocumentsOf) -> None:
    assert await table_of(documents_of, "   \n\n \t \n") == ([], [])


async def test_line_without_end_is_refused(documents_of: DocumentsOf) -> None:
    with pytest.raises(PermanentError, match=r"'t\.csv' has a line of more than 16777216 characters"):
        await documents_of(TableExtractor(), csv_blob("a,b\n" + "x," * 9_000_000))
