"""HTML, read as a browser reads it: tables, images, text."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """A page.

    Attributes:
        tables: rows of cells by the id of the table; white space is one blank.
        images: ``(alt, src)`` of each.
        links: the values of all attributes that can make a browser fetch something.
        tags: names of the elements.
        text: all text outside of style sheets.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.images: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._rows: list[list[str]] = []
        self._in_style = self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.links += [value for name, value in values.items() if name in ("src", "href", "srcset", "data", "action")]
        if tag == "style":
            self._in_style = True
        elif tag == "table":
            self._rows = self.tables[values["id"]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._in_cell = True
            self._rows[-1].append("")
        elif tag == "img":
            self.images.append((values["alt"], values["src"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._in_style = False
        elif tag in ("th", "td"):
            self._in_cell = False
            self._rows[-1][-1] = " ".join(self._rows[-1][-1].split())

    def handle_data(self, data: str) -> None:
        if self._in_style:
            return
        self.text += data
        if self._in_cell:
            self._rows[-1][-1] += f" {data}"
