"""The report of a run: one page of HTML that holds all of it, and loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined

from evaluator.run.history import RunHistory
from evaluator.run.plot import PALETTES, draw
from evaluator.run.tables import RunTables, TextTable
from stream import ModelSpec

__all__ = ["About", "report"]

_TAG: Final = re.compile(r"<[^>]*>")
_ID: Final = re.compile(r'(\bid="|url\(#|href="#)')
_OUTSIDE: Final = re.compile(r"<metadata>.*?</metadata>|<\?xml.*?\?>|<!DOCTYPE.*?>", re.DOTALL)
_BUCKETS: Final = (
    "A number that names a segment is that of a bucket: values are hashed into buckets, and one "
    "bucket may hold several. “rest” is all values that have no segment of their own."
)
_SIDEWAYS: Final = "Every metric of every model is there: these tables scroll sideways."
_CONTROL: Final = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF)
    if chr(code) not in "\t\n"
}
"""What HTML may not hold."""


@dataclass(frozen=True, slots=True)
class About:
    """What the messages of a run do not say of it."""

    title: str
    facts: Mapping[str, str]
    """Name and value, such as seed and version."""
    results: TextTable
    """How the models did, in a few figures."""
    remarks: tuple[str, ...]
    """What the figures do not say."""
    appendix: tuple[TextTable, ...]
    """Such as the configuration; shown last, folded."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, under its own heading."""

    name: str
    tables: tuple[TextTable, ...]
    otherwise: str = ""
    """Stands there where no table has a row."""
    folded: bool = False
    after: str = ""

    @property
    def shown(self) -> tuple[TextTable, ...]:
        """The tables that have rows."""
        return tuple(table for table in self.tables if table.rows)


def report(history: RunHistory, about: About) -> bytes:
    """Write the report of a run; equal runs give equal bytes.

    Parameters
    ----------
    history
        All that the logs say of the run.
    about
        What they do not say.
    """
    # Whatever comes from outside is escaped: names of features, values of events, words of people.
    environment = Environment(
        autoescape=True,
        finalize=lambda one: one.translate(_CONTROL) if isinstance(one, str) else one,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = (files("evaluator.run") / "report.html").read_text("utf-8")
    page = environment.from_string(template).render(
        about=about,
        palettes={theme: p.hues(history.specs) for theme, p in PALETTES.items()},
        accent=history.root.name if history.root.colour else "ink",
        root=history.root.label,
        picture=inline(draw(history), "run", history.specs) if history.sizes else None,
        sections=tuple(_sections(RunTables.of(history), about)),
    )
    return page.encode()


def _sections(run: RunTables, about: About) -> Iterator[Section]:
    omitted = run.left_out()
    scores = (*run.scores(), run.terms())
    yield Section("Over the whole run", scores, "No window has closed.")
    yield Section("Beside simple models", (run.simple(),))
    parts = tuple(run.segments())
    yield Section("By segment", parts, folded=True, after=_BUCKETS if parts else "")
    happened = (run.happenings(), run.rebuilds(), run.requests())
    yield Section("What happened", happened, "No rebuild was decided on.")
    yield Section("Alarms", (run.alarms(),), "There was no alarm.")
    yield Section("Input", (run.stability(),), folded=True)
    yield Section("Masks", (*run.masks(), run.grafts()), "No mask took over.")
    after = f"Too many to be shown here: {'; '.join(omitted)}." if omitted else ""
    yield Section(
        "Windows",
        tuple(run.windows()),
        "None has closed." if not omitted else "",
        folded=True,
        after=after or (_SIDEWAYS if run.history.tables else ""),
    )
    yield Section("Dead letters", (run.dead_letters(),), "All events were valid.")
    yield Section("How it was run", about.appendix, folded=True)


def inline(svg: bytes, name: str, models: Sequence[ModelSpec]) -> str:
    """Make a light picture part of a page that has its colours as ``--ink`` and so on.

    Parameters
    ----------
    svg
        As :func:`evaluator.run.plot.draw` makes it.
    name
        Goes before all its ids, which no other picture of the page may have.
    models
        Those whose colours the page has by their names.
    """
    hues = {value: f"var(--{hue})" for hue, value in PALETTES["light"].hues(models).items()}

    def of_page(tag: re.Match[str]) -> str:
        text = _ID.sub(rf"\g<1>{name}-", tag[0])
        return re.sub("#[0-9a-fA-F]{6}", lambda hue: hues.get(hue[0].upper(), hue[0]), text)

    text = _TAG.sub(of_page, _OUTSIDE.sub("", svg.decode())).strip()
    text = text.replace("<title>", f'<title id="{name}-title">', 1)
    return text.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-title" ', 1)
