"""The report of a run: one page of HTML that holds all of it, and asks nobody for anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined

from evaluator.run import tables
from evaluator.run.history import tell
from evaluator.run.plot import PALETTES, Palette, draw
from evaluator.run.tables import Table
from stream.messages import AnyMessage, Window

_HUES: Final = tuple(field.name for field in fields(Palette))
_TAG: Final = re.compile(r"<[^>]*>")
_NAMED: Final = re.compile(r'(\bid="|url\(#|href="#)')
_OUTSIDE: Final = re.compile(r"<metadata>.*?</metadata>|<\?xml.*?\?>|<!DOCTYPE.*?>", re.DOTALL)
_BUCKETS: Final = (
    "A number that names a segment is that of a bucket: values are hashed into buckets, and one "
    "bucket may hold several. “rest” are all values that have no segment of their own."
)
_CONTROL: Final = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF)
    if chr(code) not in "\t\n"
}
"""What HTML has no place for."""


@dataclass(frozen=True, slots=True)
class About:
    """What the messages of a run do not say of it."""

    title: str
    facts: Mapping[str, str]
    """Name and value, such as seed and version."""
    results: Table
    """How the models did, in a few figures."""
    remarks: tuple[str, ...]
    """What the figures do not tell."""
    appendix: tuple[Table, ...]
    """Such as the configuration; shown last, folded."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, under its own heading."""

    name: str
    tables: tuple[Table, ...]
    otherwise: str = ""
    """Stands there where no table has a row."""
    folded: bool = False
    after: str = ""

    @property
    def shown(self) -> tuple[Table, ...]:
        """The tables that have rows."""
        return tuple(table for table in self.tables if table.rows)


def report(messages: Iterable[AnyMessage], about: About) -> bytes:
    """Write the report of a run; equal runs give equal bytes.

    Parameters
    ----------
    messages
        All that the logs say of the run, in their order; repeats are passed over.
    about
        What they do not say.
    """
    run = tables.Run(messages)
    page = (
        _environment()
        .from_string(_template())
        .render(
            about=about,
            palettes={theme: _hues(palette) for theme, palette in PALETTES.items()},
            picture=_picture(run),
            sections=tuple(_sections(run, about)),
        )
    )
    return page.encode()


def _sections(run: tables.Run, about: About) -> Iterator[Section]:
    many = tables.left_out(run)
    yield Section("Over the whole run", tuple(tables.scores(run)), "No window has closed.")
    parts = tuple(tables.segments(run))
    yield Section("By segment", parts, folded=True, after=_BUCKETS if parts else "")
    happened = (tables.happenings(run), tables.rebuilds(run), tables.rollbacks(run))
    yield Section("What happened", happened, "No rebuild was decided on.")
    yield Section("Alarms", (tables.alarms(run),), "There was no alarm.")
    yield Section("Input", (tables.stability(run),), folded=True)
    yield Section("Masks", tuple(tables.masks(run)), "No mask took over.")
    yield Section(
        "Windows",
        tuple(tables.windows(run)),
        "None has closed." if not many else "",
        folded=True,
        after=f"Too many to be shown here: {'; '.join(many)}." if many else "",
    )
    yield Section("Dead letters", (tables.dead_letters(run),), "All events were valid.")
    yield Section("How it was run", about.appendix, folded=True)


def _picture(run: tables.Run) -> str | None:
    """Draw the run, in colours that the page's theme decides; None without a whole window."""
    if all(window.partial for window in run.of(Window)):
        return None
    return inline(draw(tell(run.messages)), "run")


def inline(svg: bytes, name: str) -> str:
    """Make a light picture part of a page that has its colours as ``--dense`` and so on.

    Parameters
    ----------
    svg
        As :func:`evaluator.run.plot.draw` makes it.
    name
        Goes before all its ids, which no other picture of the page may have.
    """
    hues = {value: f"var(--{hue})" for hue, value in _hues(PALETTES["light"]).items()}

    def of_page(tag: re.Match[str]) -> str:
        text = _NAMED.sub(rf"\g<1>{name}-", tag[0])
        return re.sub("#[0-9a-fA-F]{6}", lambda hue: hues.get(hue[0].upper(), hue[0]), text)

    text = _TAG.sub(of_page, _OUTSIDE.sub("", svg.decode())).strip()
    text = text.replace("<title>", f'<title id="{name}-title">', 1)
    return text.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-title" ', 1)


def _hues(palette: Palette) -> dict[str, str]:
    return {hue: getattr(palette, hue).upper() for hue in _HUES}


def _template() -> str:
    return (files("evaluator.run") / "report.html").read_text("utf-8")


def _environment() -> Environment:
    """Escape whatever comes from outside: names of features, values of events, words of people."""
    return Environment(
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: object) -> object:
    """Replace what HTML has no place for."""
    return value.translate(_CONTROL) if isinstance(value, str) else value
