"""Spreadsheets written byte by byte, with content that no library for writing them would produce."""

import io
import struct
import zipfile
from collections.abc import Mapping

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_STRICT_MAIN = "http://purl.oclc.org/ooxml/spreadsheetml/main"
_LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_STRICT_LINKS = "http://purl.oclc.org/ooxml/officeDocument/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_DRAFT = "urn:oasis:names:tc:opendocument:xmlns"


def archive(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return out.getvalue()


def text_cell(reference: str, text: str) -> str:
    return f'<c r="{reference}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def xlsx(rows: str, *, strict: bool = False, shared: str = "", formats: str = "", properties: str = "") -> bytes:
    """A workbook of one sheet ``S``. ``shared`` are ``<si>``, ``formats`` the number formats of styles 1, 2, …"""
    main, links = (_STRICT_MAIN, _STRICT_LINKS) if strict else (_MAIN, _LINKS)
    kinds = ("worksheet", "worksheets/sheet1.xml"), ("sharedStrings", "sharedStrings.xml"), ("styles", "styles.xml")
    targets = "".join(
        f'<Relationship Id="r{number}" Type="{links}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(kinds)
    )
    styles = "".join(f'<xf numFmtId="{number}" applyNumberFormat="1"/>' for number in ["0", *formats.split()])
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
            "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r" '
            f'Type="{links}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{links}">{properties}'
            '<sheets><sheet name="S" sheetId="1" r:id="r0"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{targets}</Relationships>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>',
            "xl/sharedStrings.xml": f'<sst xmlns="{main}">{shared}</sst>',
            "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs>{styles}</cellXfs></styleSheet>',
        }
    )


def ods(rows: str, manifest: str = "") -> bytes:
    """A document of one sheet ``T``."""
    names = " ".join(f'xmlns:{name}="{_DRAFT}:{name}:1.0"' for name in ("office", "table", "text"))
    sheet = f'<office:spreadsheet><table:table table:name="T">{rows}</table:table></office:spreadsheet>'
    return archive(
        {
            "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
            "META-INF/manifest.xml": f'<manifest xmlns="{_DRAFT}:manifest:1.0">{manifest}</manifest>',
            "content.xml": f"<office:document-content {names}><office:body>{sheet}</office:body>"
            "</office:document-content>",
        }
    )


def ods_row(*cells: str, repeated: int = 1) -> str:
    return f'<table:table-row table:number-rows-repeated="{repeated}">{"".join(cells)}</table:table-row>'


def ods_cell(value: str | float, repeated: int = 1) -> str:
    kind = "string" if isinstance(value, str) else f'float" office:value="{value}'
    repeats = f'table:number-columns-repeated="{repeated}"'
    return f'<table:table-cell office:value-type="{kind}" {repeats}><text:p>{value}</text:p></table:table-cell>'


def xlsb(*rows: tuple[int, Mapping[int, str | float]]) -> bytes:
    """A binary workbook of one sheet ``S``, whose rows and columns are counted from 0."""

    def record(kind: int, content: bytes = b"") -> bytes:
        code = bytes([kind & 0x7F | 0x80, kind >> 7]) if kind > 0x7F else bytes([kind])
        return code + bytes([len(content)]) + content

    def wide(text: str) -> bytes:
        return struct.pack("<I", len(text)) + text.encode("utf-16-le")

    def cell(place: int, value: str | float) -> bytes:
        head = struct.pack("<II", place, 0)
        return record(6, head + wide(value)) if isinstance(value, str) else record(5, head + struct.pack("<d", value))

    sheet = b"".join(
        record(0, struct.pack("<I", number) + bytes(13))
        + b"".join(cell(place, value) for place, value in cells.items())
        for number, cells in rows
    )
    named = struct.pack("<II", 0, 1) + wide("r0") + wide("S")
    relation = f'<Relationship Id="r0" Type="{_LINKS}/worksheet" Target="worksheets/sheet1.bin"/>'
    return archive(
        {
            "xl/workbook.bin": record(131) + record(143) + record(156, named) + record(144) + record(132),
            "xl/_rels/workbook.bin.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{relation}</Relationships>',
            "xl/worksheets/sheet1.bin": record(129)
            + record(148, bytes(16))
            + record(145)
            + sheet
            + record(146)
            + record(130),
        }
    )
