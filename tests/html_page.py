"""Reads a page of HTML strictly, for those who check what stands in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "br", "hr", "img", "input", "link", "base", "source", "area", "col", "wbr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        inside = "".join(one if isinstance(one, str) else one.text for one in self.children)
        return " ".join(inside.split())

    def all(self, *tags: str) -> list[Element]:
        """Return all elements of these tags below, in order; all there are where none is named."""
        found = []
        for one in self.children:
            if isinstance(one, Element):
                found += [one] if not tags or one.tag in tags else []
                found += one.all(*tags)
        return found

    def one(self, tag: str) -> Element:
        (found,) = self.all(tag)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.doctype: str | None = None

    def handle_decl(self, decl: str) -> None:
        self.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = self._add(tag, attrs)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs)

    def _add(self, tag: str, attrs: list[tuple[str, str | None]]) -> Element:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        return element

    def handle_endtag(self, tag: str) -> None:
        opened = self.open.pop()
        assert opened.tag == tag, f"</{tag}> ends <{opened.tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(page: bytes) -> Element:
    """Read a page, all of whose elements must end where they should."""
    reader = _Reader()
    reader.feed(page.decode())
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].tag}> never ends"
    assert reader.doctype == "DOCTYPE html"
    return reader.root


def tables(page: Element) -> dict[str, list[list[str]]]:
    """Return all tables by caption, rows of cells, the header first."""
    return {
        table.one("caption").text: [
            [cell.text for cell in row.all("th", "td")] for row in table.all("tr")
        ]
        for table in page.all("table")
    }


def check(page: Element) -> None:
    """See that a page stands alone, and that everybody can read it."""
    html = page.one("html")
    assert html.attributes["lang"] == "en"
    assert html.one("head").one("title").text
    _stands_alone(page)
    _has_no_loose_end(page)
    levels = [int(one.tag[1]) for one in page.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for table in page.all("table"):
        assert table.one("caption").text
        assert all(cell.attributes["scope"] in ("col", "row") for cell in table.all("th"))
        widths = {len(row.all("th", "td")) for row in table.all("tr")}
        assert len(widths) == 1, table.text
    for details in page.all("details"):
        assert isinstance(details.children[1], Element)
        assert details.children[1].tag == "summary"
    for picture in page.all("svg"):
        assert picture.attributes["role"] == "img"
        assert picture.one("title").text


def _stands_alone(page: Element) -> None:
    for one in page.all():
        assert one.tag not in ("script", "link", "img", "iframe", "object", "embed", "image")
        for name, value in one.attributes.items():
            assert not name.startswith("on"), (one.tag, name)
            if name in ("src", "href", "xlink:href", "action"):
                assert value.startswith("#"), (one.tag, name, value)
            assert name.startswith("xmlns") or "//" not in value, (one.tag, name, value)
    for style in page.all("style"):
        assert "@import" not in style.text
        assert "url(" not in style.text


def _has_no_loose_end(page: Element) -> None:
    """Every id is there once, and whatever is named is there."""
    ids = [one.attributes["id"] for one in page.all() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in page.all():
        for name, value in one.attributes.items():
            named = re.findall(r"url\(#([^)]*)\)", value)
            if name in ("href", "xlink:href", "aria-labelledby"):
                named += value.removeprefix("#").split()
            assert set(named) <= set(ids), (one.tag, name, value)
