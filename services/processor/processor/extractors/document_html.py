"""HTML pages, by Beautiful Soup on lxml."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bucketline.extraction import ResourceError
from processor.extractors.document_parts import MAX_HEADINGS, text_parts
from processor.extractors.values import json_value

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

MAX_BYTES = 32 * 1024 * 1024
UNSEEN = frozenset(("script", "style", "noscript", "template", "svg", "head"))
CELLS = frozenset(("td", "th"))
BLOCKS = frozenset(
    (
        "p",
        "div",
        "section",
        "article",
        "li",
        "tr",
        "table",
        "ul",
        "ol",
        "br",
        "hr",
        "pre",
        "blockquote",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "footer",
        "main",
        "nav",
        "aside",
        "figure",
        "dd",
        "dt",
    )
)


def html_documents(path: Path, label: str) -> Iterator[dict[str, object]]:
    """The text that a browser would show, block by block, and what the head says."""
    from bs4 import BeautifulSoup

    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ResourceError(f"{label} has {size} bytes of HTML; {MAX_BYTES} are allowed")
    soup = BeautifulSoup(path.read_bytes(), "lxml")
    about = _about(soup)
    yield from text_parts(_lines("".join(_visible(soup))), {"format": "html", **about})


def _visible(soup: "BeautifulSoup") -> Iterator[str]:
    """The text in its order, with a line feed around each block and a tab after each cell.

    Without recursion and without changing the tree: pages may be nested tens of thousands of levels deep.
    """
    from bs4 import CData, NavigableString, Tag

    left: list[object] = [soup]
    while left:
        node = left.pop()
        if isinstance(node, Tag):
            if node.name in UNSEEN:
                continue
            around = "\n" if node.name in BLOCKS else ""
            left.append("\t" if node.name in CELLS else around)
            left += reversed(node.contents)
            left.append(around)
        elif type(node) in (str, NavigableString, CData):  # not what is derived from them: comments, declarations
            yield str(node)


def _lines(text: str) -> Iterator[str]:
    """Each line with its white space made single; several empty lines become one."""
    blank = True
    for line in text.splitlines():
        cells = [" ".join(cell.split()) for cell in line.split("\t")]
        words = "\t".join(cells).strip()
        if words or not blank:
            yield words + "\n"
        blank = not words


def _about(soup: "BeautifulSoup") -> dict[str, object]:
    from bs4 import Tag

    found: dict[str, object] = {}
    if soup.title and (title := soup.title.get_text(strip=True)):
        found["title"] = title[:1000]
    if soup.html and (language := soup.html.get("lang")):
        found["language"] = str(language)
    for name in ("author", "description"):
        element = soup.find("meta", attrs={"name": name})
        if isinstance(element, Tag) and (content := element.get("content")):
            found[name] = str(content)[:5000]
    titles = soup.find_all(("h1", "h2", "h3"), limit=MAX_HEADINGS)
    if titles:
        found["headings"] = [title.get_text(" ", strip=True)[:500] for title in titles]
    return {name: json_value(value) for name, value in found.items()}
