"""The ZIP package of a Word file: its parts, and the relationships between them (Open Packaging Conventions)."""

import posixpath
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote
from zipfile import BadZipFile, ZipFile

from bucketline.extractors import PermanentError, ResourceError

if TYPE_CHECKING:
    from lxml.etree import _Element

WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
RELATIONSHIP_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"

_TRANSITIONAL = {
    "{http://purl.oclc.org/ooxml/wordprocessingml/main}": WORD,
    "{http://purl.oclc.org/ooxml/officeDocument/math}": MATH,
    "{http://purl.oclc.org/ooxml/officeDocument/relationships}": RELATIONSHIP_ID.removesuffix("id"),
}
"""The namespaces of Strict Open XML, and those of the transitional form that means the same."""

_IWORK = (".iwa", "index.zip")
_OTHER_ROOTS = {
    "workbook": "an Excel workbook; the table_extractor reads those",
    "presentation": "a PowerPoint presentation",
}


class Relationship(NamedTuple):
    """``kind`` is the last word of the type's URI: ``header``, ``footnotes``. Strict and transitional agree on it."""

    relationship_id: str
    kind: str
    target: str


class WordPackage:
    """Parts by name. A relationship to a part that is missing or outside of the package is left out.

    Methods raise ``PermanentError`` for a damaged or encrypted part, ``ResourceError`` for XML beyond the parser's
    limits (256 levels, 10 MB in one text).
    """

    def __init__(self, archive: ZipFile, label: str) -> None:
        self._archive, self._label = archive, label
        self._entries = {_part_name(entry.filename): entry for entry in archive.infolist()}
        self._relationships: dict[str, list[Relationship]] = {}
        main = next((part.target for part in self.relationships("") if part.kind == "officeDocument"), None)
        self.main = main or "word/document.xml"

    def document(self) -> "_Element":
        """Return the root of the main part. Raises ``PermanentError`` when this is another kind of file."""
        if self.main not in self._entries:
            raise PermanentError(f"{self._label} is {self._other_kind()}, not a Word (.docx) file")
        root = self.xml(self.main)
        if root.tag == f"{WORD}document":
            return root
        kind = _OTHER_ROOTS.get(root.tag.rpartition("}")[2], "an Office file of another kind")
        raise PermanentError(f"{self._label} is {kind}, not a Word (.docx) file")

    def related(self, source: str, kind: str) -> Iterator[str]:
        """Yield the names of the parts that ``source`` has this kind of relationship to."""
        yield from dict.fromkeys(part.target for part in self.relationships(source) if part.kind == kind)

    def relationships(self, source: str) -> list[Relationship]:
        """Return the relationships of a part; those of the package have ``""`` as their source."""
        if source not in self._relationships:
            self._relationships[source] = list(self._read_relationships(source))
        return self._relationships[source]

    def _read_relationships(self, source: str) -> Iterator[Relationship]:
        folder, name = posixpath.split(source)
        listing = posixpath.join(folder, "_rels", f"{name}.rels")
        if listing not in self._entries:
            return
        for element in self.xml(listing).iterfind("{*}Relationship"):
            target = _part_name(posixpath.join("/", folder, element.get("Target", "").replace("\\", "/")))
            if element.get("TargetMode") != "External" and target in self._entries:
                kind = element.get("Type", "").rpartition("/")[2]
                yield Relationship(element.get("Id", ""), kind, target)

    def xml(self, part: str) -> "_Element":
        """Parse a part. Entities are not expanded; names of Strict Open XML become transitional ones."""
        from lxml import etree

        parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
        try:
            root = etree.fromstring(self.read(part), parser)
        except etree.XMLSyntaxError as error:
            if "huge" in str(error).lower() or "depth" in str(error):
                raise ResourceError(f"{self._label} is nested too deeply or too large to be read: {part}") from error
            raise self._damaged(part) from error
        if root.tag.partition("}")[0] + "}" in _TRANSITIONAL:
            for element in root.iter("*"):
                element.tag = _transitional(element.tag)
                for name, value in element.attrib.items():
                    element.set(_transitional(str(name)), str(value))
        return root

    def read(self, part: str) -> bytes:
        """Return the bytes of a part."""
        entry = self._entries[part]
        if entry.flag_bits & 1:
            raise PermanentError(f"{self._label} is encrypted: it cannot be read without its password")
        try:
            return self._archive.read(entry)
        except NotImplementedError as error:
            raise PermanentError(f"{self._label} is packed by a method that is not supported: {error}") from error
        except (BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise self._damaged(part) from error

    def _damaged(self, part: str) -> PermanentError:
        return PermanentError(f"{self._label} is damaged: its part {part} cannot be read")

    def _other_kind(self) -> str:
        if "mimetype" in self._entries:
            return f"a file of type {self.read('mimetype')[:100].decode('ascii', 'replace').strip()}"
        if any(name.endswith(_IWORK) for name in self._entries):
            return "an Apple iWork file (Pages, Numbers or Keynote)"
        return "a ZIP archive"


def _part_name(name: str) -> str:
    """Return the name in the form for comparisons: without case, percent-encoding and backslashes."""
    return posixpath.normpath("/" + unquote(name).replace("\\", "/")).lstrip("/").lower()


def _transitional(name: str) -> str:
    namespace, brace, local = name.rpartition("}")
    return _TRANSITIONAL.get(namespace + brace, namespace + brace) + local
